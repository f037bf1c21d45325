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
        if self._device.type == "cuda":
            return self.read_together(crops, tick)
        parts = [
            self._read(crops[i : i + CPU_CHUNK], tick) for i in range(0, len(crops), CPU_CHUNK)
        ]
        return SliceReadings.join(parts)

    @torch.inference_mode()
    def read_together(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch in all windows with one forward pass, as a GPU likes it.

        The crops go to the device once, and the means come back once: nothing waits in between.
        """
        windows, batch = len(self._centers_hu), len(crops)
        hu = torch.from_numpy(crops).to(self._device).float()[:, None]  # (B, 1, H, W)
        centers = torch.tensor(self._centers_hu, device=self._device)  # (W,)
        outputs = self._net(
            hu.repeat(windows, 1, 1, 1),  # (W·B, 1, H, W)
            centers.repeat_interleave(batch)[:, None, None, None],  # (W·B, 1, 1, 1)
        )
        means = [each.unflatten(0, (windows, batch)).mean(dim=0).cpu().numpy() for each in outputs]
        if tick is not None:
            tick(batch * windows)
        return SliceReadings(*means)

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
