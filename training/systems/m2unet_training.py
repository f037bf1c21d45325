"""Training of M²UNet: lobes and severity at once, a bag of patches per patient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from inference.bundle_files import WeightsFile
from inference.domain import ModelIdentity, Training
from inference.engine import DeviceName, Precision
from inference.m2unet.bundle import M2UNetBundle, M2UNetManifest
from inference.m2unet.network import M2UNet, PatchFeatures
from inference.m2unet.patches import make_patch
from inference.m2unet.reader import heights, label_crop
from inference.system_bundle import ONE_WINDOW
from inference.system_runner import Runner
from training.augmentation import augment, resize_crop
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch, sample_rng
from training.errors import CacheError, CheckpointError
from training.loop import TrainingProgress, fit
from training.optimizer import make_optimizer
from training.processes import Processes, join_processes
from training.recipe import recipe_json
from training.run_folder import RunFolder, RunRecord, cache_record
from training.schedule import stage_of
from training.slice_reading import spaced
from training.slice_validation import area_under_curve
from training.systems.losses import lobe_loss
from training.systems.recipe import M2UNetRecipe

__all__ = ["M2UNET", "train_m2unet"]

M2UNET = "m2unet"
UNKNOWN = -100  # cross_entropy's ignore_index


def train_m2unet(
    cache: CohortCache,
    out: Path,
    recipe: M2UNetRecipe | None = None,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    loaders: int = 1,
) -> Path:
    """Train M²UNet on a cohort's cache; goes on where it was killed.

    Parameters
    ----------
    cache : CohortCache
        With the lobes of some training patients, and the severity of some, as far as the recipe
        weighs them.
    out : Path
        Folder of the run.
    recipe : M2UNetRecipe or None

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    recipe = recipe or M2UNetRecipe()
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = M2UNet(recipe.net)
        net = net.to(processes.device)
        task = _Task(cache, recipe, net, processes)
        record = RunRecord(M2UNET, recipe_json(recipe), cache_record(cache), {})
        run = RunFolder(out, record, writes=processes.is_first)
        optimizer = make_optimizer(recipe, net)
        processes.wait()
        return fit(task, optimizer, run, processes, progress=progress, loaders=loaders)


@dataclass(frozen=True, slots=True)
class _Bag:
    """Patches of one patient.

    `patches` (P, C, S, S); `labels` (P, S, S) or None; `slice_index` (P,); `severe` 0, 1 or
    UNKNOWN.
    """

    patches: Tensor
    labels: Tensor | None
    slice_index: Tensor
    severe: int


class _Whole(nn.Module):
    """Both halves of a step in one forward pass, as data-parallel training wants it."""

    def __init__(self, net: M2UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, patches: Tensor, slice_index: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.net(patches)
        return logits, self.net.assess(features, slice_index)


class _Task:
    """M²UNet as a task of :func:`training.loop.fit`."""

    def __init__(
        self, cache: CohortCache, recipe: M2UNetRecipe, net: M2UNet, processes: Processes
    ) -> None:
        self.net: nn.Module = _Whole(net)
        self._plain = net
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._cache, self._recipe, self._processes = cache, recipe, processes
        self._patients, self._validation = cache.learning_patients()
        self._require(recipe)
        self._epoch = 0

    def _require(self, recipe: M2UNetRecipe) -> None:
        where = self._cache.directory
        for patients, words in ((self._patients, "training"), (self._validation, "validation")):
            if recipe.lobe_weight and not any(patient.has_lobes for patient in patients):
                raise CacheError(f"{where}: no {words} patient's lobes are known")
            known = {patient.severe for patient in patients} - {None}
            if recipe.severity_weight and known != {True, False}:
                raise CacheError(
                    f"{where}: severity needs severe and other {words} patients, known as such"
                )
        for epoch in range(sum(stage.epochs for stage in recipe.stages)):
            if not recipe.net.patch_px <= self._size(epoch) <= self._cache.size:
                raise CacheError(
                    f"{where} holds {self._cache.size} px: a stage of {self._size(epoch)} px with "
                    f"patches of {recipe.net.patch_px} px does not fit"
                )

    def _size(self, epoch: int) -> int:
        return stage_of(self.stages, epoch)[0].size or self._cache.size

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        self._epoch = epoch
        groups = [{True: 1, False: 0, None: 2}[patient.severe] for patient in self._patients]
        recipe = self._recipe
        return draw_epoch(groups, 0, recipe.batch, recipe.seed, epoch, balanced=True)

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> list[_Bag]:
        seed = self._recipe.seed
        return [
            self._bag(self._patients[index], epoch, sample_rng(seed, epoch, position))
            for index, position in zip(indices, positions, strict=True)
        ]

    def _bag(self, patient: CachedPatient, epoch: int, random: np.random.Generator) -> _Bag:
        recipe, size = self._recipe, self._size(epoch)
        parts = np.array_split(np.arange(patient.count), min(recipe.bag_slices, patient.count))
        at = heights(patient.slice_number)
        patches, labels, slices = [], [], []
        last = size - recipe.net.patch_px
        for part in parts:
            number = int(random.choice(part))
            plane = resize_crop(self._cache.crops(patient)[number], size)
            plane = augment(plane, recipe.augmentation, random).plane
            lobes = self._lobes(patient, number, size)
            for _ in range(recipe.bag_patches):
                top, left = (int(random.integers(0, last + 1)) for _ in range(2))
                patch = make_patch(plane, (top, left), float(at[number]), recipe.net, ONE_WINDOW)
                patches.append(patch)
                slices.append(number)
                if lobes is not None:
                    end = recipe.net.patch_px
                    labels.append(lobes[top : top + end, left : left + end])
        return _Bag(
            torch.from_numpy(np.stack(patches)),
            torch.from_numpy(np.stack(labels).astype(np.int64)) if labels else None,
            torch.tensor(slices),
            UNKNOWN if patient.severe is None else int(patient.severe),
        )

    def _lobes(self, patient: CachedPatient, number: int, size: int) -> NDArray[np.uint8] | None:
        if not patient.has_lobes:
            return None
        plane = np.ascontiguousarray(self._cache.lobes(patient)[number])
        if plane.shape[0] != size:
            plane = cv2.resize(plane, (size, size), interpolation=cv2.INTER_NEAREST)
        return np.asarray(plane, dtype=np.uint8)

    def backward(
        self, net: nn.Module, batch: list[_Bag], scale: Callable[[Tensor], Tensor]
    ) -> Tensor:
        device, recipe = self._processes.device, self._recipe
        total = torch.zeros(4, device=device)
        for number, bag in enumerate(batch):
            waits = number + 1 < len(batch) and isinstance(net, DistributedDataParallel)
            with net.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self._processes.autocast():
                    logits, severity = net(bag.patches.to(device), bag.slice_index.to(device))
                zero = logits.sum() * 0.0
                entropy = overlap = severe = zero
                if bag.labels is not None and recipe.lobe_weight:
                    entropy, overlap = lobe_loss(logits, bag.labels.to(device))
                if bag.severe != UNKNOWN and recipe.severity_weight:
                    wanted = torch.tensor([bag.severe], device=device)
                    severe = functional.cross_entropy(severity.float()[None], wanted)
                loss = recipe.lobe_weight * (entropy + overlap) + recipe.severity_weight * severe
                loss = loss / len(batch) + severity.sum() * 0.0
                scale(loss).backward()  # type: ignore[no-untyped-call]
            parts = [one / len(batch) for one in (entropy, overlap, severe)]
            total += torch.stack([loss, *parts]).detach()
        return total

    def loss_names(self) -> tuple[str, ...]:
        return ("loss", "loss_lobes", "loss_dice", "loss_severity")

    def validate(self) -> tuple[dict[str, float], float]:
        """Score: mean of the lobes' Dice and the AUC of severity, of what is trained."""
        mine = self._validation[self._processes.rank :: self._processes.world]
        found = self._processes.gather([self._read(patient) for patient in mine])
        counts = sum((one[0] for one in found), np.zeros((3, 6)))
        dice = 2 * counts[2] / np.maximum(counts[0] + counts[1], 1)
        known = [(severe, score) for _, severe, score in found if severe is not None]
        metrics = {}
        if self._recipe.lobe_weight:
            metrics["lobe_dice"] = float(dice[1:].mean())
        if self._recipe.severity_weight:
            truth = np.array([int(severe) for severe, _ in known])
            scores = np.array([score for _, score in known], np.float32)
            metrics["severity_auc"] = area_under_curve(truth, scores)
        return metrics, float(np.mean(list(metrics.values())))

    def _read(self, patient: CachedPatient) -> tuple[NDArray[np.float64], bool | None, float]:
        """Pixels of each label said, true and both; severity and its score."""
        size, at = self._size(self._epoch), heights(patient.slice_number)
        counts = np.zeros((3, 6))
        bundle = _as_bundle(self._plain, self._recipe)
        runner = Runner(self._processes.device, self._processes.dtype, 16)
        parts: list[PatchFeatures] = []
        slices: list[int] = []
        for number in spaced(patient.count, self._recipe.validation_slices).tolist():
            plane = resize_crop(self._cache.crops(patient)[number], size)
            said, _, features = label_crop(bundle, runner, plane, float(at[number]))
            parts.append(features)
            slices += [number] * len(features.share)
            truth = self._lobes(patient, number, size)
            if truth is not None:
                for row, labels in enumerate((said, truth, np.where(said == truth, said, 0))):
                    counts[row] += np.bincount(labels.ravel(), minlength=6)
        index = torch.tensor(slices, device=self._processes.device)
        logits = self._plain.assess(PatchFeatures.join(parts), index)
        return counts, patient.severe, float(logits.float().softmax(dim=0)[1])

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def _as_bundle(net: M2UNet, recipe: M2UNetRecipe) -> M2UNetBundle:
    """The net under training as a bundle, so that it is validated by serving's own functions."""
    manifest = M2UNetManifest(
        name="run",
        version="0",
        training=Training.DEMONSTRATION,
        limits="under training",
        architecture=recipe.net,
        weights=WeightsFile(file="net.safetensors", sha256="0" * 64),
    )
    identity = ModelIdentity("run", "0", "0" * 64, Training.DEMONSTRATION, 0.5)
    return M2UNetBundle(manifest, identity, net)
