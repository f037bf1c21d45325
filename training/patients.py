"""Training of the patient network (paper III-C) on the features of a finished slice network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inference.engine import DeviceName, Precision
from inference.patient_net import PatientNet
from inference.slice_net import SliceNet
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch, sample_rng
from training.durable import file_digest
from training.errors import CheckpointError
from training.features import PatientFeatures, slice_features
from training.loop import TrainingProgress, fit
from training.optimizer import make_optimizer
from training.processes import Processes, join_processes
from training.recipe import PatientRecipe, SliceRecipe, read_recipe, recipe_json
from training.run_folder import BEST, RunFolder, RunRecord, cache_record, load_weights, read_record
from training.slice_validation import area_under_curve, balanced_accuracy

__all__ = [
    "PatientBatch",
    "PatientTask",
    "load_slice_net",
    "pad_features",
    "patient_metrics",
    "train_patients",
]


@dataclass(frozen=True, slots=True)
class PatientBatch:
    """Patients as they go to the device.

    Attributes
    ----------
    features : Tensor of float32, shape (B, N, D)
        Shorter volumes are padded at the end with zeros.
    valid : Tensor of bool, shape (B, N)
    label : Tensor of int64, shape (B,)
    """

    features: Tensor
    valid: Tensor
    label: Tensor


def load_slice_net(run: Path) -> SliceNet:
    """Return the best slice network of a run of ``train slices``, in evaluation mode.

    Raises
    ------
    CheckpointError
    """
    record = read_record(run)
    if record.kind != "slices":
        raise CheckpointError(f"{run} is a run of {record.kind}, not of slices")
    net = SliceNet(read_recipe(record.recipe, SliceRecipe).net)
    load_weights(net, run)
    return net.eval()


def train_patients(
    cache: CohortCache,
    slices: Path,
    out: Path,
    recipe: PatientRecipe | None = None,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    slice_net: SliceNet | None = None,
) -> Path:
    """Train the patient network; the slice network stays as it is.

    Called again with the same arguments it goes on where it was killed.

    Parameters
    ----------
    cache : CohortCache
    slices : Path
        Run of the slice network, or its safetensors beside `slice_net`.
    out : Path
        Folder of the run.
    recipe : PatientRecipe or None
        None: the paper's.
    progress : TrainingProgress or None
    device, precision : str
    slice_net : SliceNet or None
        The network whose weights `slices` holds, where that is no run.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    recipe = recipe or PatientRecipe()
    net, size = _slice_net(slices, slice_net, cache)
    parameters = replace(recipe.net, feature_size=net.feature_size)
    start = {"slices": file_digest(slices / BEST if slices.is_dir() else slices)}
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        features = _features(cache, net, size, processes, progress, recipe.centers_hu)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            patient_net = PatientNet(parameters).to(processes.device)
        task = PatientTask(cache, recipe, patient_net, features, processes)
        document = recipe_json(replace(recipe, net=parameters))
        record = RunRecord("patients", document, cache_record(cache), start)
        run = RunFolder(out, record, writes=processes.is_first)
        processes.wait()
        optimizer = make_optimizer(recipe, patient_net)
        return fit(task, optimizer, run, processes, progress=progress)


def _slice_net(run: Path, net: SliceNet | None, cache: CohortCache) -> tuple[SliceNet, int]:
    """The slice network of a run and the input size it was trained at last."""
    if net is not None:
        return net, cache.size
    return load_slice_net(run), read_record(run).crop.input_size


def _features(
    cache: CohortCache,
    net: SliceNet,
    size: int,
    processes: Processes,
    progress: TrainingProgress | None,
    centers_hu: Sequence[float],
) -> dict[str, PatientFeatures]:
    """Features of training and validation patients; each process makes some, all read all."""
    wanted = [patient for patient in cache.patients if patient.split != "test"]
    steps = progress.steps if progress is not None else None
    read = partial(
        slice_features,
        cache,
        net,
        processes.device,
        centers_hu or None,
        dtype=processes.dtype,
        size=size,
    )
    read(patients=wanted[processes.rank :: processes.world], progress=steps)
    processes.wait()
    return read(patients=wanted)


def pad_features(features: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Stack volumes of different length.

    Parameters
    ----------
    features : sequence of ndarray of float32, each of shape (n, D)

    Returns
    -------
    Tensor of float32, shape (B, N, D); Tensor of bool, shape (B, N)
        False where a slice is padding.
    """
    longest = max(len(one) for one in features)
    padded = torch.zeros(len(features), longest, features[0].shape[1])
    valid = torch.zeros(len(features), longest, dtype=torch.bool)
    for row, one in enumerate(features):
        padded[row, : len(one)] = torch.from_numpy(np.ascontiguousarray(one))
        valid[row, : len(one)] = True
    return padded, valid


def patient_metrics(labels: NDArray[np.int64], logits: Tensor) -> tuple[dict[str, float], float]:
    """Metrics of one validation, and the score: balanced accuracy, ties by the lower loss."""
    truth = torch.from_numpy(labels)
    probabilities = logits.softmax(dim=1).numpy()
    loss = float(functional.cross_entropy(logits, truth))
    accuracy = balanced_accuracy(labels, probabilities.argmax(axis=1))
    areas = [
        area_under_curve((labels == name).astype(np.int64), probabilities[:, name])
        for name in np.unique(labels)
    ]
    metrics = {
        "validation_loss": loss,
        "accuracy": accuracy,
        "accuracy_plain": float((labels == probabilities.argmax(axis=1)).mean()),
        "auc": float(np.mean(areas)),
    }
    return metrics, accuracy - 0.001 * min(loss, 10.0)


class PatientTask:
    """The patient network as a task of :func:`training.loop.fit`."""

    def __init__(
        self,
        cache: CohortCache,
        recipe: PatientRecipe,
        net: PatientNet,
        features: dict[str, PatientFeatures],
        processes: Processes,
    ) -> None:
        self.net: nn.Module = net
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._recipe, self._features, self._processes = recipe, features, processes
        self._patients, self._validation = cache.learning_patients()

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Patients of each step."""
        recipe = self._recipe
        return draw_epoch(
            [int(patient.label) for patient in self._patients],
            recipe.patients_per_epoch,
            recipe.batch,
            recipe.seed,
            epoch,
            balanced=recipe.balance == "classes",
        )

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> PatientBatch:
        """Make one batch: features of a random window mix, some slices left out."""
        chosen = [self._patients[index] for index in indices]
        drawn = [
            self._draw(patient, sample_rng(self._recipe.seed, epoch, position))
            for patient, position in zip(chosen, positions, strict=True)
        ]
        padded, valid = pad_features(drawn)
        return PatientBatch(padded, valid, torch.tensor([int(p.label) for p in chosen]))

    def _draw(self, patient: CachedPatient, rng: np.random.Generator) -> NDArray[np.float32]:
        """A patient's features, changed at random: slices left out, window centres mixed."""
        found = self._features[patient.patient_id]
        share = rng.uniform(0.0, self._recipe.slice_dropout)
        kept = np.flatnonzero(rng.random(patient.count) >= share)
        if not len(kept):
            kept = np.arange(patient.count)
        if not self._recipe.mix_centers:
            return found.features[kept]
        weights = rng.dirichlet(np.ones(len(found.by_center))).astype(np.float32)
        mixed = np.einsum("c,cnd->nd", weights, found.by_center[:, kept])
        return np.asarray(mixed, dtype=np.float32)

    def backward(
        self, net: nn.Module, batch: PatientBatch, scale: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Cross-entropy of a batch, its gradients added up."""
        device = self._processes.device
        with self._processes.autocast():
            logits = net(batch.features.to(device), batch.valid.to(device))
        loss = functional.cross_entropy(
            logits.float(), batch.label.to(device), label_smoothing=self._recipe.label_smoothing
        )
        scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()[None]

    def loss_names(self) -> tuple[str, ...]:
        """Names of what :meth:`backward` returns."""
        return ("loss",)

    def validate(self) -> tuple[dict[str, float], float]:
        """Metrics on the validation patients, and the score that chooses the best weights."""
        logits = []
        for patient in self._validation:
            features = self._features[patient.patient_id].features
            batch = torch.from_numpy(features)[None].to(self._processes.device)
            logits.append(self.net(batch).float().cpu())
        labels = np.array([int(patient.label) for patient in self._validation])
        return patient_metrics(labels, torch.cat(logits))

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Nothing to do."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing beside the weights."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing beside the weights."""
