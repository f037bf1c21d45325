"""Eager torch, on any device: channels last, batch norm folded into the convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import Bundle
from inference.engine import SliceReadings, mean_over_windows
from inference.windowed_net import WindowedNet

__all__ = ["TorchEngine"]

# More at a time is no faster on a CPU (2.9 slices/s by fours, 3.2 one by one in float32 on two
# AVX2 cores), and a caller waits longer for a sign of life.
CPU_CHUNK = 1


class TorchEngine:
    """Runs the network in torch; see :class:`~inference.engine.SliceEngine`.

    Parameters
    ----------
    bundle : Bundle
    device : torch.device
    dtype : torch.dtype
        float32 or bfloat16, of the network. Windowing, softmax and averages are float32 in both.
    """

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        self._net = WindowedNet(bundle).to(device)
        self._net.net.to(dtype).to(memory_format=torch.channels_last)
        self._centers_hu = bundle.manifest.preprocessing.window.centers_hu
        self._device = device
        self._dtype = dtype

    @property
    def description(self) -> str:
        """Engine, device and precision in words."""
        precision = str(self._dtype).removeprefix("torch.")
        return f"torch {torch.__version__} eager, {self._device.type}, {precision}"

    def read(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch; see :class:`~inference.engine.SliceEngine`."""
        step = len(crops) if self._device.type == "cuda" else CPU_CHUNK
        parts = [self._read(crops[i : i + step], tick) for i in range(0, len(crops), step)]
        return SliceReadings.join(parts)

    @torch.inference_mode()
    def _read(self, crops: NDArray[np.int16], tick: Callable[[int], None] | None) -> SliceReadings:
        hu = torch.from_numpy(crops).to(self._device).float()[:, None]  # (B, 1, H, W)

        def forward(center_hu: float) -> Sequence[NDArray[np.float32]]:
            outputs = self._net(hu, torch.tensor(center_hu, device=self._device))
            return [output.cpu().numpy() for output in outputs]

        def ticked() -> None:
            if tick is not None:
                tick(len(crops))

        return mean_over_windows(forward, self._centers_hu, ticked)
