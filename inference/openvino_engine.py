"""OpenVINO on the CPU: the same network, compiled for the processor at hand.

OpenVINO is a library of the field (Apache-2.0); on a CPU it is faster than eager torch, most of
all where the processor computes in bfloat16 (ADR 0010).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import Bundle
from inference.cpus import usable_cpus
from inference.engine import SliceReadings, mean_over_windows
from inference.windowed_net import WindowedNet

__all__ = ["OpenVinoEngine"]

TRACE_SIZE = 64  # the network is traced on a small image; the shape that counts is set afterwards


class OpenVinoEngine:
    """Runs the network in OpenVINO, slice by slice; see :class:`~inference.engine.SliceEngine`.

    Parameters
    ----------
    bundle : Bundle
    dtype : torch.dtype
        float32 or bfloat16. Said explicitly: left alone, OpenVINO would choose by itself.
    threads : int
        0 takes the CPUs that this process may use.
    """

    def __init__(self, bundle: Bundle, dtype: torch.dtype, threads: int = 0) -> None:
        openvino = _without_telemetry()
        preprocessing = bundle.manifest.preprocessing
        size = preprocessing.crop.input_size
        self._centers_hu = preprocessing.window.centers_hu
        self._dtype = dtype
        self._version = openvino.__version__.split("-")[0]
        self._request = (
            openvino.Core()
            .compile_model(
                _converted(openvino, WindowedNet(bundle).eval(), size),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
                    "INFERENCE_NUM_THREADS": threads or usable_cpus(),
                    "NUM_STREAMS": 1,  # one slice after the other, all threads on it
                    "ENABLE_CPU_PINNING": False,  # workers beside this one would pin the same cores
                },
            )
            .create_infer_request()
        )

    @property
    def description(self) -> str:
        """Engine, device and precision in words."""
        precision = str(self._dtype).removeprefix("torch.")
        return f"OpenVINO {self._version}, cpu, {precision}"

    def read(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch; see :class:`~inference.engine.SliceEngine`."""
        return SliceReadings.join([self._read(crop, tick) for crop in crops])

    def _read(self, crop: NDArray[np.int16], tick: Callable[[int], None] | None) -> SliceReadings:
        hu = crop.astype(np.float32)[None, None]  # (1, 1, H, W)

        def forward(center_hu: float) -> Sequence[NDArray[np.float32]]:
            outputs = self._request.infer([hu, np.float32(center_hu)], share_outputs=False)
            return [np.asarray(outputs[index]) for index in range(4)]

        def ticked() -> None:
            if tick is not None:
                tick(1)

        return mean_over_windows(forward, self._centers_hu, ticked)


def _without_telemetry() -> Any:
    """Import OpenVINO, which reports each import to its makers where it finds their reporter.

    A node in a hospital talks to nobody it was not told of. Without the reporter OpenVINO takes
    an empty stand-in of its own.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now fails
    import openvino

    return openvino


def _converted(openvino: Any, net: WindowedNet, size: int) -> Any:
    example = (torch.zeros(1, 1, TRACE_SIZE, TRACE_SIZE), torch.tensor(0.0))
    with warnings.catch_warnings(), torch.inference_mode():
        # torch means to replace tracing; OpenVINO has not changed over yet.
        warnings.simplefilter("ignore")
        return openvino.convert_model(net, example_input=example, input=[[1, 1, size, size], []])
