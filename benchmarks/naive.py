"""What one would write for oneself: the plain pipeline that ratios are taken against.

Slice by slice: pydicom reads and decodes, scikit-image finds the lung, the crop is resized, and
eager torch in float32 reads one slice in one window at a time, batch norm and all. No slice is left
out, since nobody has looked yet whether there is lung.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from skimage import measure, morphology, transform

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inference.bundle import Bundle
from inference.lung_crop import CropParameters
from inference.windowing import apply_window, normalize

__all__ = ["NaivePipeline", "decoded", "lung_box"]


def decoded(path: Path) -> NDArray[np.float64]:
    """Hounsfield units of one slice."""
    dataset = dcmread(path)
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def lung_box(hu: NDArray[np.float64], parameters: CropParameters) -> tuple[slice, slice]:
    """The paper's crop (III-A.1) with scikit-image, whole image where there is no lung."""
    element = np.ones((parameters.kernel_rows, 1), dtype=bool)
    air = ~morphology.opening(hu >= parameters.threshold_hu, element)
    labels = measure.label(air, connectivity=2)
    border = np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    lung = morphology.opening(air & ~np.isin(labels, border), element)
    if not lung.any():
        return slice(None), slice(None)
    top, left, bottom, right = measure.regionprops(lung.astype(int))[0].bbox
    margin = parameters.margin_px
    return slice(max(0, top - margin), bottom + margin), slice(
        max(0, left - margin), right + margin
    )


class NaivePipeline:
    """Reads a series slice by slice; remembers the seconds of each step."""

    def __init__(self, bundle: Bundle) -> None:
        self._preprocessing = bundle.manifest.preprocessing
        self._calibration = bundle.manifest.calibration
        self._net = bundle.slice_net.eval()
        self.seconds = {"decode": 0.0, "crop": 0.0, "network": 0.0}

    @torch.inference_mode()
    def read(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Return the class probabilities of each slice, shape (slices, 4)."""
        return np.stack([self._read(path) for path in paths])

    def _read(self, path: Path) -> NDArray[np.float32]:
        crop_, window = self._preprocessing.crop, self._preprocessing.window
        began = time.perf_counter()
        hu = decoded(path)
        decoded_at = time.perf_counter()
        size = (crop_.input_size, crop_.input_size)
        crop = transform.resize(hu[lung_box(hu, crop_)], size, preserve_range=True)
        cropped_at = time.perf_counter()
        total = np.zeros(4, np.float32)
        for center_hu in window.centers_hu:
            x = normalize(apply_window(crop[None], center_hu, window.width_hu), window)
            logits = self._net(torch.from_numpy(x)).class_logits
            total += (logits / self._calibration.slice_temperature).softmax(1)[0].numpy()
        for name, seconds in (
            ("decode", decoded_at - began), ("crop", cropped_at - decoded_at),
            ("network", time.perf_counter() - cropped_at),
        ):  # fmt: skip
            self.seconds[name] += seconds
        return total / len(window.centers_hu)
