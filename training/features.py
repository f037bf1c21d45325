"""Slice features of a cohort's cache, made once per slice network and kept on disk.

::

    CACHE/features/<digest>/<key>.npz   centers float32 (C, n, D), lesion (n,), probabilities (n, 4)

The digest covers weights, window centres, input size and cache: weights that change make new
features. The patient network and the ablation share them.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from inference.engine import choose_precision
from inference.slice_net import SliceNet
from inference.windowed_net import fold_batch_norms
from inference.windowing import WindowParameters
from training.cohort.cache import CachedPatient, CohortCache
from training.durable import write_durably
from training.processes import Processes
from training.slice_reading import read_patient

__all__ = ["PatientFeatures", "slice_features", "weights_digest"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PatientFeatures:
    """What the slice network says of all cached slices of a patient.

    Attributes
    ----------
    by_center : ndarray of float32, shape (C, n, D)
        Pooled ResBlock3 ⊕ ResBlock4 for each window centre, most superior slice first.
    lesion : ndarray of float32, shape (n,)
        Lesion probability, mean over the centres; without a lesion head 1 minus Healthy's.
    probabilities : ndarray of float32, shape (n, 4)
        Of the four-way head, mean over the centres.
    """

    by_center: NDArray[np.float32]
    lesion: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    @property
    def features(self) -> NDArray[np.float32]:
        """Mean over the centres, as serving gives it to the patient network, shape (n, D)."""
        mean: NDArray[np.float32] = self.by_center.mean(axis=0, dtype=np.float32)
        return mean


def slice_features(
    cache: CohortCache,
    net: SliceNet,
    device: torch.device | None = None,
    centers: Sequence[float] | None = None,
    *,
    patients: Sequence[CachedPatient] | None = None,
    size: int = 0,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> dict[str, PatientFeatures]:
    """Read all slices of a cache with a slice network, or fetch what was read before.

    Parameters
    ----------
    cache : CohortCache
    net : SliceNet
        Copied, not changed.
    device : torch.device or None
        None: the CPU.
    centers : sequence of float or None
        Window centres, HU; None takes serving's.
    patients : sequence of CachedPatient or None
        None: all.
    size : int
        Of the network's input; 0 takes the cache's.
    dtype : torch.dtype or None
        Of autocast; None chooses as serving does.
    progress : callable or None
        Called with ("features", slices and centres done, in all).

    Returns
    -------
    dict of patient_id to PatientFeatures
    """
    where = device or torch.device("cpu")
    precision = dtype or choose_precision("auto", where)
    wanted = cache.patients if patients is None else tuple(patients)
    chosen = tuple(WindowParameters().centers_hu if centers is None else centers)
    folder = cache.directory / "features" / _key(cache, net, chosen, size or cache.size, precision)
    folder.mkdir(parents=True, exist_ok=True)
    folded = fold_batch_norms(copy.deepcopy(net).eval())
    folded = folded.to(where).to(memory_format=torch.channels_last)
    processes = Processes(0, 1, where, precision)
    total = sum(patient.count for patient in wanted) * len(chosen)
    done = 0
    features = {}
    for patient in wanted:
        path = folder / f"{patient.key}.npz"
        found = _read(path, patient, len(chosen))
        if found is None:
            found = _make(folded, cache, patient, chosen, size, processes)
            _write(path, found)
        features[patient.patient_id] = found
        done += patient.count * len(chosen)
        if progress is not None:
            progress("features", done, total)
    return features


def weights_digest(net: torch.nn.Module) -> str:
    """Return the sha256 over names and values of all tensors of a network."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _key(
    cache: CohortCache, net: SliceNet, centers: Sequence[float], size: int, dtype: torch.dtype
) -> str:
    setting = f"{net.parameters_!r} {list(centers)} {size} {dtype}"
    words = [weights_digest(net), cache.digest, setting]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:24]


def _make(
    net: SliceNet,
    cache: CohortCache,
    patient: CachedPatient,
    centers: Sequence[float],
    size: int,
    processes: Processes,
) -> PatientFeatures:
    batch = 16 if processes.device.type == "cpu" else 64
    readings = [
        read_patient(net, cache, patient, processes, center_hu=center, size=size, batch=batch)
        for center in centers
    ]
    return PatientFeatures(
        np.stack([one.features for one in readings]),
        np.mean([one.lesion for one in readings], axis=0, dtype=np.float32),
        np.mean([one.probabilities for one in readings], axis=0, dtype=np.float32),
    )


def _write(path: Path, found: PatientFeatures) -> None:
    content = io.BytesIO()
    np.savez(
        content, centers=found.by_center, lesion=found.lesion, probabilities=found.probabilities
    )
    write_durably(path, content.getvalue())


def _read(path: Path, patient: CachedPatient, centers: int) -> PatientFeatures | None:
    """Features kept earlier; None where there are none that can be used."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as arrays:
            found = PatientFeatures(arrays["centers"], arrays["lesion"], arrays["probabilities"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    return found if found.by_center.shape[:2] == (centers, patient.count) else None
