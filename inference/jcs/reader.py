"""JCS on a series, in two steps: all slices are classified, lesions outlined in the positives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.domain import CtVolume, DiseaseClass, LesionSegmentation
from inference.engine import DeviceName, Precision
from inference.jcs.bundle import JcsBundle, load_jcs
from inference.lesion_map import to_source_grid
from inference.lung_crop import LungCrop
from inference.system_runner import Runner, crops_as_displayed
from inference.windowing import WindowParameters, apply_window, normalize

__all__ = ["LesionReader", "class_words", "deciding_probability", "jcs_input"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LesionReader:
    """A loaded JCS on a device. Make one with :meth:`load`."""

    bundle: JcsBundle
    runner: Runner

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        batch: int = 8,
    ) -> LesionReader:
        """Load a bundle onto a device.

        Raises
        ------
        BundleError, DeviceError
        """
        bundle, runner = load_jcs(directory), Runner.choose(device, precision, batch)
        bundle.net.to(runner.device)
        return cls(bundle, runner)

    def read(
        self,
        volume: CtVolume,
        crop: LungCrop,
        *,
        whole: bool,
        progress: Progress | None = None,
        segment_all: bool = False,
    ) -> LesionSegmentation:
        """Read one series.

        Parameters
        ----------
        volume : CtVolume
        crop : LungCrop
            Of the main model.
        whole : bool
            False: a slice-level reading, where each slice speaks for itself.
        progress : callable or None
            Called with ("lesions", slices done, slices in all) of both steps.
        segment_all : bool
            Outline lesions in every slice, whatever the classifier says: measures the
            segmentation alone.
        """
        manifest = self.bundle.manifest
        reading = manifest.reading
        chosen = np.flatnonzero(crop.has_lung)
        report = _Report(progress, len(chosen))
        probability = np.zeros(len(volume), np.float32)
        explanation = np.zeros(volume.hu.shape, np.float16)
        with torch.inference_mode():
            for some in _batches(chosen, self.runner.batch):
                logits, maps = self._classify(volume, crop, some)
                probability[some] = logits
                turned = np.ascontiguousarray(maps[volume.as_displayed])
                boxes = [crop.boxes[i] for i in some]
                to_source_grid(turned, boxes, [explanation[i] for i in some])
                report(len(some))
            allowed = reading.allowed(len(chosen))
            decided = (
                deciding_probability(probability[chosen], allowed)
                if whole and len(chosen)
                else None
            )
            positives = chosen[probability[chosen] > reading.positive_slice]
            goes_on = not whole or (decided is not None and decided > reading.positive_slice)
            outlined = chosen if segment_all else positives if goes_on else chosen[:0]
            report.total += len(outlined)
            mask = np.zeros(volume.hu.shape, np.bool_)
            for some in _batches(outlined, self.runner.batch):
                self._outline(volume, crop, some, mask)
                report(len(some))
        mask &= crop.mask
        voxel_ml = volume.voxel_ml
        lesion, lung = int(np.count_nonzero(mask)), int(np.count_nonzero(crop.mask))
        return LesionSegmentation(
            model=self.bundle.identity,
            positive_words=class_words(manifest.positive),
            negative_words=class_words(manifest.negative),
            slice_probability=probability,
            positive_slices=len(positives),
            allowed_slices=allowed,
            probability=decided,
            slice_threshold=reading.positive_slice,
            explanation=explanation,
            mask=mask,
            percent_of_lung=None if voxel_ml is None or not lung else 100.0 * lesion / lung,
            lesion_ml=None if voxel_ml is None else lesion * voxel_ml,
        )

    def _classify(
        self, volume: CtVolume, crop: LungCrop, some: NDArray[np.intp]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self.runner.autocast():
            logits, maps = self.bundle.net.classify(self._input(volume, crop, some))
        scaled = logits.float() / self.bundle.manifest.reading.temperature
        return scaled.softmax(dim=1)[:, 1].cpu().numpy(), maps.float().cpu().numpy()

    def _outline(
        self,
        volume: CtVolume,
        crop: LungCrop,
        some: NDArray[np.intp],
        mask: NDArray[np.bool_],
    ) -> None:
        with self.runner.autocast():
            first = self.bundle.net(self._input(volume, crop, some))[0]  # (B, S, S)
        planes = first.float().sigmoid().cpu().numpy()
        turned = np.ascontiguousarray(planes[volume.as_displayed])
        for index, plane in zip(some, turned, strict=True):
            box = crop.boxes[index]
            scaled = cv2.resize(plane, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
            mask[index, box.top : box.bottom, box.left : box.right] = (
                scaled > self.bundle.manifest.reading.lesion
            )

    def _input(self, volume: CtVolume, crop: LungCrop, some: NDArray[np.intp]) -> Tensor:
        preprocessing = self.bundle.manifest.preprocessing
        crops = crops_as_displayed(volume, crop, some, preprocessing.crop)
        return jcs_input(crops, preprocessing.window).to(self.runner.device)


class _Report:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self.total, self._done = progress, total, 0

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress("lesions", self._done, self.total)


def jcs_input(crops: NDArray[np.generic], window: WindowParameters) -> Tensor:
    """Window and normalise crops, shape (B, S, S) in HU to (B, 3, S, S)."""
    windowed = apply_window(crops, window.centers_hu[0], window.width_hu)
    return torch.from_numpy(normalize(windowed, window))


def deciding_probability(probability: NDArray[np.floating], allowed: int) -> float:
    """Probability of the slice that makes the patient positive: the (allowed + 1)-th largest.

    "More than `allowed` slices are above t" and "this one is above t" are the same statement, so
    the patient's score and the authors' rule never disagree **(decided)**.
    """
    ordered = np.sort(probability)[::-1]
    return float(ordered[min(allowed, len(ordered) - 1)])


def class_words(keys: tuple[str, ...]) -> str:
    """Names of classes for readers."""
    return ", ".join(DiseaseClass[key.upper()].label for key in keys)


def _batches(chosen: NDArray[np.intp], batch: int) -> list[NDArray[np.intp]]:
    return [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
