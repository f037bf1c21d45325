"""Training of the slice network (paper III-B)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock, Bottleneck

from inference.engine import DeviceName, Precision
from inference.slice_net import SliceNet, load_imagenet_weights
from inference.windowing import WindowParameters
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch
from training.durable import file_digest
from training.errors import CacheError, CheckpointError
from training.location_loss import location_loss
from training.loop import TrainingProgress, fit
from training.optimizer import make_optimizer
from training.processes import Processes, join_processes
from training.recipe import SliceRecipe, recipe_json
from training.run_folder import BEST, RunFolder, RunRecord, cache_record, load_weights
from training.schedule import stage_of
from training.slice_batches import NO_CLASS, SliceBatch, SliceTable, load_slices, to_input
from training.slice_reading import read_patient, spaced
from training.slice_validation import slice_metrics
from training.weak_labels import first_labels, has_unknown, label_anew

__all__ = ["slice_losses", "train_slices"]


def train_slices(
    cache: CohortCache,
    out: Path,
    recipe: SliceRecipe | None = None,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    imagenet: Path | None = None,
    start_from: Path | None = None,
    loaders: int = 1,
) -> Path:
    """Train the slice network on a cohort's cache.

    Called again with the same arguments it goes on where it was killed, or returns at once when
    it had ended.

    Parameters
    ----------
    cache : CohortCache
    out : Path
        Folder of the run.
    recipe : SliceRecipe or None
        None: the paper's.
    progress : TrainingProgress or None
    device, precision : str
        As in the node's settings; precision decides about autocast.
    imagenet : Path or None
        A torchvision state dict to start from (:func:`inference.slice_net.load_imagenet_weights`).
    start_from : Path or None
        A run (or its safetensors) to start from, such as one at a smaller input.
    loaders : int
        Threads that make batches ahead.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, BundleError, DeviceError
    """
    recipe = recipe or SliceRecipe()
    start = {
        name: file_digest(path / BEST if path.is_dir() else path)
        for name, path in (("imagenet", imagenet), ("run", start_from))
        if path is not None
    }
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        net = _first_net(recipe, imagenet, start_from)
        net = net.to(processes.device).to(memory_format=torch.channels_last)
        task = _SliceTask(cache, recipe, net, processes)
        record = RunRecord("slices", recipe_json(recipe), cache_record(cache), start)
        run = RunFolder(out, record, writes=processes.is_first)
        optimizer = make_optimizer(recipe, net)
        processes.wait()
        return fit(task, optimizer, run, processes, progress=progress, loaders=loaders)


def _first_net(recipe: SliceRecipe, imagenet: Path | None, start_from: Path | None) -> SliceNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = SliceNet(recipe.net)
    if recipe.zero_init_residual:
        for module in net.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)
    if imagenet is not None:
        load_imagenet_weights(net, imagenet)
    if start_from is not None:
        load_weights(net, start_from)
    return net


def slice_losses(
    net: nn.Module,
    batch: SliceBatch,
    window: WindowParameters,
    smoothing: float,
    lesion_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies of both heads (paper III-B.3: they are summed), and the location loss.

    Parameters
    ----------
    smoothing : float
        Label smoothing of the four-way loss.
    lesion_weight : Tensor or None, shape (2,)
        Weights of slices without and with lesion in the two-way loss.

    Returns
    -------
    lesion, classes, location : Tensor, shape ()
        Sums over the batch divided by its length: slices without a class add nothing, so parts
        of a batch can be added up. `lesion` is 0 without a lesion head, `location` without masks.
    """
    out = net(to_input(batch.hu, batch.center_hu, window))
    classes = functional.cross_entropy(
        out.class_logits.float(),
        batch.label,
        ignore_index=NO_CLASS,
        label_smoothing=smoothing,
        reduction="sum",
    )
    lesion = location = classes.new_zeros(())
    if out.lesion_logits is not None:
        lesion = functional.cross_entropy(
            out.lesion_logits.float(), batch.lesion, weight=lesion_weight, reduction="sum"
        )
    if batch.lesion_share is not None and out.location is not None:
        location = location_loss(out.location, batch.lesion_share)
    return lesion / len(batch), classes / len(batch), location


class _SliceTask:
    """The slice network as a task of :func:`training.loop.fit`."""

    def __init__(
        self, cache: CohortCache, recipe: SliceRecipe, net: SliceNet, processes: Processes
    ) -> None:
        self.net: nn.Module = net
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._cache, self._recipe, self._processes = cache, recipe, processes
        self._window = WindowParameters()
        self._patients, self._validation = cache.learning_patients()
        for stage in recipe.stages:
            if stage.size > cache.size:
                raise CacheError(f"{cache.directory} holds {cache.size} px, less than {stage.size}")
        if recipe.mask_weight and not any(patient.has_masks for patient in self._patients):
            raise CacheError(f"{cache.directory} holds no masks of lesions to learn places from")
        self._lesion = first_labels(self._patients)
        self._make_table()
        self._size = self._size_of(0)

    def _make_table(self) -> None:
        self._table = SliceTable.of(
            self._patients, self._lesion, normal_slices=self._recipe.normal_slices
        )
        if not len(self._table):
            raise CacheError(f"{self._cache.directory} has no slice to train on")
        self._lesion_weight = None
        if self._recipe.balance == "classes":
            weights = self._table.lesion_weights()
            self._lesion_weight = torch.tensor(weights, device=self._processes.device)

    def _size_of(self, epoch: int) -> int:
        return stage_of(self.stages, epoch)[0].size or self._cache.size

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        self._size = self._size_of(epoch)
        recipe = self._recipe
        return draw_epoch(
            self._table.label,
            recipe.slices_per_epoch,
            recipe.batch,
            recipe.seed,
            epoch,
            balanced=recipe.balance == "classes",
        )

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> SliceBatch:
        return load_slices(
            self._cache,
            self._patients,
            self._table,
            indices,
            positions,
            size=self._size_of(epoch),
            augmentation=self._recipe.augmentation,
            seed=self._recipe.seed,
            epoch=epoch,
            masks=self._recipe.mask_weight > 0,
        )

    def backward(
        self, net: nn.Module, batch: SliceBatch, scale: Callable[[Tensor], Tensor]
    ) -> Tensor:
        length = len(batch)
        step = self._recipe.micro_batch or length
        total = torch.zeros(4, device=self._processes.device)
        for start in range(0, length, step):
            part = batch.part(slice(start, start + step)).to(self._processes.device)
            share = len(part) / length
            waits = start + step < length and isinstance(net, DistributedDataParallel)
            with net.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self._processes.autocast():
                    losses = slice_losses(
                        net, part, self._window, self._recipe.label_smoothing, self._lesion_weight
                    )
                loss = (losses[0] + losses[1] + self._recipe.mask_weight * losses[2]) * share
                scale(loss).backward()  # type: ignore[no-untyped-call]
            total += torch.stack([loss, *(one * share for one in losses)]).detach()
        return total if self._recipe.mask_weight else total[:3]

    def loss_names(self) -> tuple[str, ...]:
        names = ("loss", "loss_lesion", "loss_class")
        return (*names, "loss_location") if self._recipe.mask_weight else names

    def validate(self) -> tuple[dict[str, float], float]:
        """Score: mean of the lesion head's AUC and the four-way balanced accuracy."""
        mine = self._validation[self._processes.rank :: self._processes.world]
        found = []
        for patient in mine:
            chosen = spaced(patient.count, self._recipe.validation_slices)
            found.append((patient.patient_id, chosen, self._read(patient, chosen)))
        everyone = {
            name: (chosen, scores) for name, chosen, scores in self._processes.gather(found)
        }
        metrics = slice_metrics(
            self._validation,
            [everyone[patient.patient_id][0] for patient in self._validation],
            [everyone[patient.patient_id][1] for patient in self._validation],
        )
        return metrics, (metrics["slice_auc"] + metrics["accuracy"]) / 2

    def _read(self, patient: CachedPatient, chosen: NDArray[np.int64]) -> Any:
        return read_patient(
            self.net,
            self._cache,
            patient,
            self._processes,
            size=self._size,
            chosen=chosen,
            batch=self._recipe.micro_batch or 16,
        )

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Label unknown slices anew where it is time (:mod:`training.weak_labels`)."""
        late = epoch + 1 - self._recipe.weak_warmup
        unknown = [n for n, patient in enumerate(self._patients) if has_unknown(patient)]
        if not unknown or late < 0 or late % max(1, self._recipe.weak_interval):
            return {}
        found = []
        for number in unknown[self._processes.rank :: self._processes.world]:
            patient = self._patients[number]
            scores = self._read(patient, np.arange(patient.count))
            found.append((number, label_anew(patient, scores.lesion)))
        for number, labels in self._processes.gather(found):
            self._lesion[number] = labels
        self._make_table()
        return {"weak_positive": float(sum((self._lesion[n] == 1).sum() for n in unknown))}

    def state(self) -> dict[str, Any]:
        return {"lesion": [torch.from_numpy(labels) for labels in self._lesion]}

    def restore(self, state: dict[str, Any]) -> None:
        self._lesion = [labels.numpy() for labels in state["lesion"]]
        self._make_table()
