"""Training of JCS: the classifier, the segmentation, then the bridges between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inference.engine import DeviceName, Precision
from inference.jcs.network import JcsNet
from inference.jcs.reader import jcs_input
from inference.system_bundle import ONE_WINDOW
from training.augmentation import augment, resize_crop
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch, sample_rng
from training.durable import file_digest
from training.errors import CacheError, CheckpointError
from training.loop import TrainingProgress, fit
from training.optimizer import make_optimizer
from training.processes import Processes, join_processes
from training.recipe import recipe_json
from training.run_folder import BEST, RunFolder, RunRecord, cache_record, read_record, read_weights
from training.schedule import stage_of
from training.slice_reading import spaced
from training.slice_validation import area_under_curve
from training.systems.losses import segmentation_loss
from training.systems.recipe import JcsRecipe

__all__ = ["JCS", "load_parts", "train_jcs"]

JCS = "jcs"
_CLASSIFIER = "classifier."


def train_jcs(
    cache: CohortCache,
    out: Path,
    recipe: JcsRecipe,
    *,
    classification: Path | None = None,
    segmentation: Path | None = None,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    loaders: int = 1,
) -> Path:
    """Train one part of JCS on a cohort's cache; goes on where it was killed.

    Parameters
    ----------
    cache : CohortCache
        With masks of lesions where the segmentation learns.
    out : Path
        Folder of the run.
    recipe : JcsRecipe
    classification, segmentation : Path or None
        Runs of both parts, which the joint network starts from.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    parts = {"classification": classification, "segmentation": segmentation}
    if (recipe.part == "joint") != all(path is not None for path in parts.values()):
        raise CheckpointError("the joint network, and it alone, starts from runs of both parts")
    start = {name: file_digest(path / BEST) for name, path in parts.items() if path is not None}
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = JcsNet(replace(recipe.net, joint=recipe.part == "joint"))
        if classification is not None and segmentation is not None:
            load_parts(net, classification, segmentation)
        _let_learn(net, recipe)
        net = net.to(processes.device).to(memory_format=torch.channels_last)
        task = _Task(cache, recipe, net, processes)
        record = RunRecord(JCS, recipe_json(recipe), cache_record(cache), start)
        run = RunFolder(out, record, writes=processes.is_first)
        optimizer = make_optimizer(recipe, net)
        processes.wait()
        return fit(task, optimizer, run, processes, progress=progress, loaders=loaders)


def load_parts(net: JcsNet, classification: Path, segmentation: Path) -> None:
    """Put the best weights of both parts into a network; its bridges stay as they are.

    Raises
    ------
    CheckpointError
        A run is of another part or of another architecture.
    """
    wanted = net.state_dict()
    for run, part in ((classification, "classification"), (segmentation, "segmentation")):
        record = read_record(run)
        if record.kind != JCS or record.recipe.get("part") != part:
            raise CheckpointError(f"{run} is no run of JCS's {part}")
        state = {
            name.removeprefix("net."): value
            for name, value in read_weights(run).items()
            if name.removeprefix("net.").startswith(_CLASSIFIER) == (part == "classification")
        }
        odd = [n for n in state if n not in wanted or wanted[n].shape != state[n].shape]
        if odd:
            raise CheckpointError(f"the weights of {run} do not fit: {odd[0]}")
        wanted |= state
    net.load_state_dict(wanted)


def _let_learn(net: JcsNet, recipe: JcsRecipe) -> None:
    """Only what the part trains has gradients."""
    for name, parameter in net.named_parameters():
        classifies = name.startswith(_CLASSIFIER)
        if classifies != (recipe.part == "classification"):
            parameter.requires_grad = False


class _Part(nn.Module):
    """The part that learns, with one forward pass; a classifier that does not stays as it is."""

    def __init__(self, net: JcsNet, part: str) -> None:
        super().__init__()
        self.net, self.part = net, part

    def train(self, mode: bool = True) -> _Part:  # noqa: FBT001, FBT002, RUF100 - torch's signature
        super().train(mode)
        if self.part != "classification":
            self.net.classifier.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        if self.part == "classification":
            return self.net.classifier(x)[0]
        return self.net(x)


@dataclass(frozen=True, slots=True)
class _Batch:
    """`crops` in HU (B, S, S); `truth` (B,) 0 or 1, or lesion shares (B, S, S)."""

    crops: Tensor
    truth: Tensor


class _Task:
    """One part of JCS as a task of :func:`training.loop.fit`."""

    def __init__(
        self, cache: CohortCache, recipe: JcsRecipe, net: JcsNet, processes: Processes
    ) -> None:
        self.net: nn.Module = _Part(net, recipe.part)
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._cache, self._recipe, self._processes = cache, recipe, processes
        learning, validating = cache.learning_patients()
        self._patients = [p for p in learning if self._side(p) is not None]
        self._validation = [p for p in validating if self._side(p) is not None]
        self._table = self._slices(self._patients)
        self._validation_table = self._slices(self._validation, recipe.validation_slices)
        self._epoch = 0
        classes = 2 if recipe.part == "classification" else 1
        for table, words in ((self._table, "training"), (self._validation_table, "validation")):
            if len(np.unique(table[:, 2])) < classes:
                wanted = "masks of lesions" if classes == 1 else "slices of both sides"
                raise CacheError(f"{cache.directory}: no {words} patient has {wanted}")
        for stage in recipe.stages:
            if stage.size > cache.size:
                raise CacheError(f"{cache.directory} holds {cache.size} px, less than {stage.size}")

    def _side(self, patient: CachedPatient) -> int | None:
        if patient.label in self._recipe.positive:
            return 1
        return 0 if patient.label in self._recipe.negative else None

    def _slices(self, patients: list[CachedPatient], wanted: int = 0) -> NDArray[np.int64]:
        """Rows (patient, slice, positive): what the part learns from.

        Segmentation sees lesions only: in the product it sees positives only.
        """
        rows = []
        for number, patient in enumerate(patients):
            positive = self._side(patient)
            if self._recipe.part == "classification":
                index = np.flatnonzero(patient.slice_lesion == positive)
            elif positive and patient.has_masks:
                index = np.flatnonzero(patient.slice_lesion == 1)
            else:
                continue
            if wanted and len(index):
                index = index[spaced(len(index), wanted)]
            rows += [(number, int(one), int(bool(positive))) for one in index]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _size(self, epoch: int) -> int:
        return stage_of(self.stages, epoch)[0].size or self._cache.size

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        self._epoch, recipe = epoch, self._recipe
        return draw_epoch(
            self._table[:, 2], recipe.slices_per_epoch, recipe.batch, recipe.seed, epoch,
            balanced=True,
        )  # fmt: skip

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> _Batch:
        size, recipe = self._size(epoch), self._recipe
        crops, truths = [], []
        for index, position in zip(indices, positions, strict=True):
            row = self._table[index]
            plane, mask = self._read(self._patients, row, size)
            random = sample_rng(recipe.seed, epoch, position)
            changed = augment(plane, recipe.augmentation, random, mask)
            crops.append(changed.plane)
            truths.append(row[2] if changed.mask is None else changed.mask / np.float32(255))
        return _batch(crops, truths)

    def _read(
        self, patients: list[CachedPatient], row: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        patient, number = patients[row[0]], int(row[1])
        plane = resize_crop(self._cache.crops(patient)[number], size)
        if self._recipe.part == "classification":
            return plane, None
        return plane, resize_crop(self._cache.lesion_shares(patient)[number], size)

    def backward(self, net: nn.Module, batch: _Batch, scale: Callable[[Tensor], Tensor]) -> Tensor:
        device = self._processes.device
        x = jcs_input(batch.crops.numpy(), ONE_WINDOW).to(device)
        truth = batch.truth.to(device)
        with self._processes.autocast():
            out = net(x.contiguous(memory_format=torch.channels_last))
        if self._recipe.part == "classification":
            loss = functional.cross_entropy(out.float(), truth)
        else:
            loss = segmentation_loss(out, truth)
        scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()[None]

    def loss_names(self) -> tuple[str, ...]:
        return ("loss",)

    def validate(self) -> tuple[dict[str, float], float]:
        """Score: AUC over slices, or Dice over all pixels of the lesion slices."""
        mine = np.arange(len(self._validation_table))[self._processes.rank :: self._processes.world]
        found = self._processes.gather([self._measure(int(index)) for index in mine])
        values = np.array(found, dtype=np.float64)
        if self._recipe.part == "classification":
            auc = area_under_curve(values[:, 0].astype(np.int64), values[:, 1].astype(np.float32))
            return {"slice_auc": auc}, auc
        said, true, both = values.sum(axis=0)
        dice = float(2 * both / max(said + true, 1))
        return {"lesion_dice": dice}, dice

    def _measure(self, index: int) -> tuple[float, ...]:
        row = self._validation_table[index]
        plane, mask = self._read(self._validation, row, self._size(self._epoch))
        x = jcs_input(plane[None], ONE_WINDOW).to(self._processes.device)
        with self._processes.autocast():
            out = self.net(x)
        if mask is None:
            return float(row[2]), float(out.float().softmax(dim=1)[0, 1])
        said = out[0][0].float().cpu().numpy() > 0
        true = mask > 127
        return float(said.sum()), float(true.sum()), float((said & true).sum())

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def _batch(crops: list[NDArray[np.float32]], truths: list[Any]) -> _Batch:
    return _Batch(torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(truths)))
