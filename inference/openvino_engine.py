"""OpenVINO on the CPU: the same network, compiled for the processor at hand.

OpenVINO is a library of the field (Apache-2.0); on a CPU it is faster than eager torch, most of
all where the processor computes in bfloat16 (ADR 0010).
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import Bundle
from inference.cpus import usable_cpus
from inference.engine import SliceReadings
from inference.errors import DeviceError
from inference.windowed_net import WindowedNet

__all__ = ["OpenVinoEngine", "converted", "without_telemetry"]

MOST_STREAMS = 8  # each holds the activations of one slice: about 0.2 GB at 512 x 512
TRACE_SIZE = 64  # the network is traced on a small image; the shape that counts is set afterwards


class OpenVinoEngine:
    """Runs the network in OpenVINO; see :class:`~inference.engine.SliceEngine`.

    As many slices at a time as there are threads, each on one of them (beyond eight, on some):
    threads that share one slice wait for each other after every layer, and for long where
    something else runs on their processors.

    Parameters
    ----------
    bundle : Bundle
    dtype : torch.dtype
        float32 or bfloat16. Said explicitly: left alone, OpenVINO would choose by itself. int8
        runs the network that the bundle holds for it.
    threads : int
        0 takes the CPUs that this process may use.

    Raises
    ------
    DeviceError
        The bundle holds no int8 network.
    """

    def __init__(self, bundle: Bundle, dtype: torch.dtype, threads: int = 0) -> None:
        openvino = without_telemetry()
        self._centers_hu = bundle.manifest.preprocessing.window.centers_hu
        self._dtype = dtype
        self._version = openvino.__version__.split("-")[0]
        threads = threads or usable_cpus()
        streams = min(threads, MOST_STREAMS)
        compiled = openvino.Core().compile_model(
            _quantized(bundle) if dtype == torch.int8 else converted(bundle),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,  # workers beside this one would pin the same cores
            },
        )
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    @property
    def description(self) -> str:
        """Engine, device and precision in words."""
        precision = str(self._dtype).removeprefix("torch.")
        return f"OpenVINO {self._version}, cpu, {precision}"

    def read(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch; see :class:`~inference.engine.SliceEngine`."""
        sums: list[list[NDArray[np.float32]]] = [[] for _ in crops]
        running: deque[tuple[Any, int]] = deque()

        def collect() -> None:
            request, index = running.popleft()
            request.wait()
            terms = [request.get_output_tensor(number).data.copy() for number in range(4)]
            so_far = sums[index]
            sums[index] = [a + b for a, b in zip(so_far, terms, strict=True)] if so_far else terms
            if tick is not None:
                tick(1)

        try:
            for index, crop in enumerate(crops):
                hu = crop.astype(np.float32)[None, None]  # (1, 1, H, W)
                for center_hu in self._centers_hu:
                    if len(running) == len(self._requests):
                        collect()  # in the order of starting: sums do not depend on luck
                    request = self._idle(running)
                    request.start_async([hu, np.float32(center_hu)])
                    running.append((request, index))
            while running:
                collect()
        finally:  # a tick may raise: nothing may run on when the next series comes
            for request, _ in running:
                request.wait()
        count = np.float32(len(self._centers_hu))
        return SliceReadings.join([SliceReadings(*(s / count for s in parts)) for parts in sums])

    def _idle(self, running: deque[tuple[Any, int]]) -> Any:
        busy = [request for request, _ in running]
        return next(request for request in self._requests if request not in busy)


def without_telemetry() -> Any:
    """Import OpenVINO, which reports each import to its makers where it finds their reporter.

    A node in a hospital talks to nobody it was not told of. Without the reporter OpenVINO takes
    an empty stand-in of its own.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now fails
    import openvino

    return openvino


def converted(bundle: Bundle) -> Any:
    """Return the bundle's network as an OpenVINO model that takes (1, 1, S, S) and a centre."""
    openvino = without_telemetry()
    net, size = WindowedNet(bundle).eval(), bundle.manifest.preprocessing.crop.input_size
    example = (torch.zeros(1, 1, TRACE_SIZE, TRACE_SIZE), torch.tensor(0.0))
    with warnings.catch_warnings(), torch.inference_mode():
        # torch means to replace tracing; OpenVINO has not changed over yet.
        warnings.simplefilter("ignore")
        return openvino.convert_model(net, example_input=example, input=[[1, 1, size, size], []])


def _quantized(bundle: Bundle) -> Any:
    if bundle.int8 is None:
        raise DeviceError(
            "the bundle holds no int8 network: make one with 'm3lung bundle quantize', or set the "
            "precision to auto"
        )
    openvino = without_telemetry()
    numbers = np.frombuffer(bundle.int8.numbers, np.uint8)
    return openvino.Core().read_model(bundle.int8.structure, openvino.Tensor(numbers))
