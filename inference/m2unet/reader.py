"""M²UNet on a series: five lobes on the source grid, and severity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inference.domain import CtVolume, Lobe, LobeFinding, LobeSegmentation
from inference.engine import DeviceName, Precision
from inference.lung_crop import LungCrop
from inference.m2unet.bundle import M2UNetBundle, load_m2unet
from inference.m2unet.network import PatchFeatures
from inference.m2unet.patches import LobeVotes, make_patch, patch_corners
from inference.system_runner import Runner, crops_as_displayed, to_source

__all__ = ["LobeReader", "heights", "label_crop"]

Progress = Callable[[str, int, int], None]

_ONE_LUNG = 0.10  # of all lobes' pixels: a lung with less is not there, or not in the images


@dataclass(frozen=True)
class LobeReader:
    """A loaded M²UNet on a device. Make one with :meth:`load`."""

    bundle: M2UNetBundle
    runner: Runner

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        batch: int = 8,
    ) -> LobeReader:
        """Load a bundle onto a device.

        Raises
        ------
        BundleError, DeviceError
        """
        bundle, runner = load_m2unet(directory), Runner.choose(device, precision, batch)
        bundle.net.to(runner.device)
        return cls(bundle, runner)

    def read(
        self, volume: CtVolume, crop: LungCrop, *, whole: bool, progress: Progress | None = None
    ) -> LobeSegmentation:
        """Read one series.

        Parameters
        ----------
        volume : CtVolume
        crop : LungCrop
            Of the main model.
        whole : bool
            False: a slice-level reading, without severity.
        progress : callable or None
            Called with ("lobes", slices done, slices in all).
        """
        manifest = self.bundle.manifest
        chosen = np.flatnonzero(crop.has_lung)
        bag = set(_spread(len(chosen), manifest.reading.bag_slices).tolist())
        labels = np.zeros(volume.hu.shape, np.uint8)
        sure = np.zeros((len(Lobe) + 1, 2))  # sum of mean probabilities, pixels
        parts: list[PatchFeatures] = []
        slice_index: list[int] = []
        at = heights(chosen)
        with torch.inference_mode():
            for number, index in enumerate(chosen):
                plane = crops_as_displayed(
                    volume, crop, chosen[number : number + 1], manifest.preprocessing.crop
                )[0]
                found, certainty, features = label_crop(
                    self.bundle, self.runner, plane, float(at[number])
                )
                turned = np.ascontiguousarray(found[volume.as_displayed[1:]])
                to_source(turned, crop.boxes[index], labels[index])
                for label in range(len(Lobe) + 1):
                    here = found == label
                    sure[label] += certainty[here].sum(), np.count_nonzero(here)
                if number in bag:
                    parts.append(features)
                    slice_index += [number] * len(features.share)
                if progress is not None:
                    progress("lobes", number + 1, len(chosen))
            severe = self._severe(parts, slice_index) if whole else None
        lobes = self._findings(volume, labels, sure[:, 0] / np.maximum(sure[:, 1], 1))
        for lobe in lobes:
            if not lobe.is_told:
                labels[labels == lobe.lobe] = 0
        return LobeSegmentation(
            model=self.bundle.identity,
            labels=labels,
            lobes=lobes,
            severe_probability=severe,
            severe_threshold=manifest.reading.severe,
            severe_from_percent=manifest.severe_from_percent,
        )

    def _severe(self, parts: list[PatchFeatures], slice_index: list[int]) -> float:
        index = torch.tensor(slice_index, device=self.runner.device)
        logits = self.bundle.net.assess(PatchFeatures.join(parts), index).float()
        temperature = self.bundle.manifest.reading.severity_temperature
        return float((logits / temperature).softmax(dim=0)[1])

    def _findings(
        self, volume: CtVolume, labels: NDArray[np.uint8], certainty: NDArray[np.float64]
    ) -> tuple[LobeFinding, ...]:
        pixels = np.bincount(labels.ravel(), minlength=len(Lobe) + 1)
        total = max(int(pixels[1:].sum()), 1)
        right = int(pixels[1 : Lobe.RIGHT_LOWER + 1].sum())
        reading = self.bundle.manifest.reading
        found = []
        for lobe in Lobe:
            side, words = (right, "right") if lobe.is_right else (total - right, "left")
            doubt = ""
            if side < _ONE_LUNG * total:
                doubt = f"there is hardly any {words} lung in the images"
            elif pixels[lobe] < reading.smallest_lobe * total:
                doubt = "hardly any of it is to be seen"
            elif certainty[lobe] < reading.least_sure:
                doubt = "its borders are not to be told with any certainty"
            volume_ml = None
            if not doubt and volume.voxel_ml is not None:
                volume_ml = float(pixels[lobe]) * volume.voxel_ml
            found.append(LobeFinding(lobe, volume_ml, doubt))
        return tuple(found)


def label_crop(
    bundle: M2UNetBundle, runner: Runner, plane: NDArray[np.generic], height: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], PatchFeatures]:
    """Lobes of one crop by sliding patches and the majority of overlaps.

    Parameters
    ----------
    plane : ndarray, shape (S, S)
        HU, as displayed.
    height : float
        See :func:`~inference.m2unet.patches.make_patch`.

    Returns
    -------
    labels : ndarray of uint8, shape (S, S)
    certainty : ndarray of float32, shape (S, S)
        Mean probability of the label.
    features : PatchFeatures
        Of all patches.
    """
    parameters, window = bundle.manifest.architecture, bundle.manifest.preprocessing.window
    corners = patch_corners(plane.shape[0], parameters)
    votes, parts = LobeVotes(plane.shape[0]), []
    for start in range(0, len(corners), runner.batch):
        some = corners[start : start + runner.batch]
        patches = np.stack(
            [make_patch(plane, corner, height, parameters, window) for corner in some]
        )
        with runner.autocast():
            logits, features = bundle.net(torch.from_numpy(patches).to(runner.device))
        parts.append(PatchFeatures(features.by_lobe.float(), features.share.float()))
        for corner, one in zip(some, logits.float().softmax(dim=1).cpu().numpy(), strict=True):
            votes.add(one, corner)
    labels, certainty = votes.result()
    return labels, certainty, PatchFeatures.join(parts)


def heights(chosen: NDArray[np.integer]) -> NDArray[np.float64]:
    """Where slices lie in the lungs: 0 the first one with lung, 1 the last."""
    if len(chosen) < 2:
        return np.full(len(chosen), 0.5)
    return np.asarray((chosen - chosen[0]) / (chosen[-1] - chosen[0]), dtype=np.float64)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    if count <= wanted:
        return np.arange(count)
    return np.asarray(((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64))
