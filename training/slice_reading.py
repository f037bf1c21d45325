"""The slice network's reading of cached patients, while it is trained or afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inference.slice_net import SliceNet
from inference.windowing import WindowParameters
from training.augmentation import resize_crop
from training.cohort.cache import CachedPatient, CohortCache
from training.processes import Processes
from training.slice_batches import to_input

__all__ = ["SliceScores", "read_patient", "spaced"]


@dataclass(frozen=True, slots=True)
class SliceScores:
    """What the slice network says of some slices of one patient, at one window centre.

    Attributes
    ----------
    features : ndarray of float32, shape (n, D)
    lesion : ndarray of float32, shape (n,)
        Lesion probability; without a lesion head 1 minus that of Healthy.
    probabilities : ndarray of float32, shape (n, 4)
    """

    features: NDArray[np.float32]
    lesion: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def spaced(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` evenly spaced indices of `count`; all of them for 0 or where there are fewer."""
    if wanted == 0 or count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


@torch.inference_mode()
def read_patient(
    net: SliceNet | torch.nn.Module,
    cache: CohortCache,
    patient: CachedPatient,
    processes: Processes,
    *,
    size: int = 0,
    center_hu: float = -600.0,
    chosen: Sequence[int] | NDArray[np.int64] | None = None,
    batch: int = 16,
    tick: Callable[[int], None] | None = None,
) -> SliceScores:
    """Read one patient's cached slices with a network in evaluation mode.

    Parameters
    ----------
    net : SliceNet
    size : int
        Of the input; 0 takes the cache's.
    center_hu : float
    chosen : sequence of int or None
        Indices of the slices; None takes all.
    batch : int
        Slices at a time.
    tick : callable or None
        Called with the number of slices just read.
    """
    window = WindowParameters()
    crops = cache.crops(patient)
    indices = np.arange(patient.count) if chosen is None else np.asarray(chosen)
    parts = []
    for start in range(0, len(indices), batch):
        planes = [resize_crop(crops[i], size or cache.size) for i in indices[start : start + batch]]
        hu = torch.from_numpy(np.stack(planes)).to(processes.device)
        centers = torch.full((len(planes),), center_hu, device=processes.device)
        with processes.autocast():
            out = net(to_input(hu, centers, window))
        classes = out.class_logits.float().softmax(dim=1)
        if out.lesion_logits is None:
            lesion = 1 - classes[:, 0]
        else:
            lesion = out.lesion_logits.float().softmax(dim=1)[:, 1]
        parts.append([t.float().cpu().numpy() for t in (out.features, lesion, classes)])
        if tick is not None:
            tick(len(planes))
    return SliceScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
