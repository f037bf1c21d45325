"""Training slices of a cache: which there are, and how a batch of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.domain import DiseaseClass
from inference.windowing import WindowParameters
from training.augmentation import augment, resize_crop
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import sample_rng
from training.recipe import Augmentation

__all__ = ["NO_CLASS", "SliceBatch", "SliceTable", "load_slices", "to_input"]

LOCATION_STRIDE = 16  # pixels of the input at one place of the location map
NO_CLASS = -100  # cross-entropy's ignore_index: the slice trains the lesion head only


@dataclass(frozen=True, slots=True)
class SliceBatch:
    """Slices as they go to the device.

    Attributes
    ----------
    hu : Tensor of float32, shape (B, S, S)
    center_hu : Tensor of float32, shape (B,)
        Window centre of each.
    lesion : Tensor of int64, shape (B,)
        0 or 1.
    label : Tensor of int64, shape (B,)
        Class, or :data:`NO_CLASS`.
    lesion_share : Tensor of float32, shape (B, S/16, S/16), or None
        True lesion at each place of the location map, as a share in [0, 1]; -1 all over slices
        whose lesions nobody has drawn. None: not asked for.
    """

    hu: Tensor
    center_hu: Tensor
    lesion: Tensor
    label: Tensor
    lesion_share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def part(self, chosen: slice) -> SliceBatch:
        """Some of the slices."""
        share = self.lesion_share
        return SliceBatch(
            self.hu[chosen],
            self.center_hu[chosen],
            self.lesion[chosen],
            self.label[chosen],
            None if share is None else share[chosen],
        )

    def to(self, device: torch.device) -> SliceBatch:
        """The same on a device."""
        share = self.lesion_share
        return SliceBatch(
            self.hu.to(device, non_blocking=True),
            self.center_hu.to(device, non_blocking=True),
            self.lesion.to(device, non_blocking=True),
            self.label.to(device, non_blocking=True),
            None if share is None else share.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class SliceTable:
    """The slices that take part in training, and as what.

    Attributes
    ----------
    patient, slice_index : ndarray of int64, shape (n,)
        Index into the list of patients, and of the slice in the patient's crops.
    lesion, label : ndarray of int64, shape (n,)
        As in :class:`SliceBatch`.
    """

    patient: NDArray[np.int64]
    slice_index: NDArray[np.int64]
    lesion: NDArray[np.int64]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.patient)

    def lesion_weights(self) -> tuple[float, float]:
        """Weights by which both sides of the lesion head count the same.

        With every class drawn equally often three quarters of the slices show a lesion; without
        weights that prior would become the head's, and 0.5 no fair threshold.
        """
        labels = np.unique(self.label)
        share = float(np.mean([self.lesion[self.label == name].mean() for name in labels]))
        return (0.5 / (1 - share), 0.5 / share) if 0 < share < 1 else (1.0, 1.0)

    @staticmethod
    def of(
        patients: Sequence[CachedPatient],
        lesion: Sequence[NDArray[np.int8]],
        *,
        normal_slices: bool = False,
    ) -> SliceTable:
        """Choose the slices (paper III-B: labels).

        Parameters
        ----------
        patients : sequence of CachedPatient
        lesion : sequence of ndarray of int8, each of shape (n,)
            Lesion of each patient's slices, -1 where not known.
        normal_slices : bool
            Keep slices of patients without lesion, for the lesion head alone.

        Returns
        -------
        SliceTable
            All slices of healthy people as Healthy, abnormal slices with their patient's class.
        """
        columns: list[NDArray[np.int64]] = []
        for number, (patient, labels) in enumerate(zip(patients, lesion, strict=True)):
            healthy = patient.label == DiseaseClass.HEALTHY
            kept = labels >= 0 if healthy or normal_slices else labels == 1
            index = np.flatnonzero(kept)
            found = labels[index].astype(np.int64)
            label = np.where((found == 1) | healthy, int(patient.label), NO_CLASS)
            columns.append(np.stack([np.full_like(index, number), index, found, label]))
        joined = np.concatenate(columns, axis=1) if columns else np.empty((4, 0), np.int64)
        return SliceTable(*joined.astype(np.int64))


def load_slices(
    cache: CohortCache,
    patients: Sequence[CachedPatient],
    table: SliceTable,
    indices: NDArray[np.int64],
    positions: Sequence[int],
    *,
    size: int,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    masks: bool = False,
) -> SliceBatch:
    """Read, shrink and change at random the slices of one batch, with true masks if asked for."""
    planes, centers, shares = [], [], []
    for index, position in zip(indices, positions, strict=True):
        patient, number = patients[table.patient[index]], table.slice_index[index]
        mask = None
        if masks and patient.has_masks:
            mask = resize_crop(cache.lesion_shares(patient)[number], size)
        plane, center_hu, mask = augment(
            resize_crop(cache.crops(patient)[number], size),
            augmentation,
            sample_rng(seed, epoch, position),
            mask,
        )
        planes.append(plane)
        centers.append(center_hu)
        if masks:
            shares.append(_on_location_map(mask, size, patient.label))
    return SliceBatch(
        torch.from_numpy(np.stack(planes)),
        torch.tensor(centers, dtype=torch.float32),
        torch.from_numpy(table.lesion[indices]),
        torch.from_numpy(table.label[indices]),
        torch.from_numpy(np.stack(shares)) if masks else None,
    )


def _on_location_map(
    mask: NDArray[np.float32] | None, size: int, label: DiseaseClass
) -> NDArray[np.float32]:
    """Share of lesion at each place of the location map; -1 where nobody has drawn it."""
    places = size // LOCATION_STRIDE
    if mask is None:
        known = label == DiseaseClass.HEALTHY
        return np.full((places, places), 0.0 if known else -1.0, np.float32)
    shares = cv2.resize(mask, (places, places), interpolation=cv2.INTER_AREA) / np.float32(255)
    return np.asarray(shares, dtype=np.float32)


def to_input(hu: Tensor, center_hu: Tensor, window: WindowParameters) -> Tensor:
    """Window and normalise on the device: the map of :mod:`inference.windowing`.

    Parameters
    ----------
    hu : Tensor of float32, shape (B, S, S)
    center_hu : Tensor of float32, shape (B,)

    Returns
    -------
    Tensor of float32, shape (B, 3, S, S), channels last
    """
    low = center_hu[:, None, None, None] - window.width_hu / 2
    scaled = ((hu[:, None] - low) / window.width_hu).clamp(0, 1)  # (B, 1, S, S)
    shape = (1, 3, 1, 1)
    mean = torch.tensor(window.mean, device=hu.device).reshape(shape)
    std = torch.tensor(window.std, device=hu.device).reshape(shape)
    return ((scaled - mean) / std).contiguous(memory_format=torch.channels_last)
