"""End-to-end fine-tuning of slice and patient network (the paper's open point 2).

The paper trains the patient network on frozen features. Here both go on together from their
separate runs; :class:`training.recipe.JointRecipe` says how memory is kept small. Whether it
helped is for :mod:`training.evaluation` to say, on the same cohort.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from inference.engine import DeviceName, Precision
from inference.patient_net import PatientNet
from inference.slice_net import SliceNet
from inference.windowing import WindowParameters
from training.augmentation import augment, resize_crop
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch, sample_rng
from training.durable import file_digest
from training.errors import CacheError, CheckpointError
from training.loop import TrainingProgress, fit
from training.patients import load_slice_net, patient_metrics
from training.processes import Processes, join_processes
from training.recipe import JointRecipe, PatientRecipe, read_recipe, recipe_json
from training.run_folder import BEST, RunFolder, RunRecord, cache_record, load_weights, read_record
from training.schedule import stage_of
from training.slice_batches import NO_CLASS, SliceBatch, to_input
from training.slice_reading import read_patient

__all__ = ["JointNet", "load_patient_net", "train_joint"]

CHUNK = 4  # slices whose activations are held at a time


class JointNet(nn.Module):
    """Both networks as one: slices of one volume in, slice and patient logits out."""

    def __init__(self, slice_net: SliceNet, patient_net: PatientNet) -> None:
        super().__init__()
        self.slice_net = slice_net
        self.patient_net = patient_net

    def train(self, mode: bool = True) -> JointNet:
        """Batch norm keeps its statistics: slices of one patient are no fair sample."""
        super().train(mode)
        for module in self.slice_net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Run one volume.

        Parameters
        ----------
        x : Tensor of float32, shape (N, 3, S, S)
            Slices in order.

        Returns
        -------
        patient : Tensor, shape (1, 4)
        lesion : Tensor, shape (N, 2), or None
        classes : Tensor, shape (N, 4)
            Logits.
        """
        outs = [
            checkpoint(self.slice_net, part, use_reentrant=False) for part in torch.split(x, CHUNK)
        ]
        features = torch.cat([out.features for out in outs])[None]  # (1, N, D)
        lesion = None
        if outs[0].lesion_logits is not None:
            lesion = torch.cat([out.lesion_logits for out in outs])  # (N, 2)
        classes = torch.cat([out.class_logits for out in outs])  # (N, 4)
        return self.patient_net(features), lesion, classes


def load_patient_net(run: Path) -> PatientNet:
    """Return the best patient network of a run of ``train patients``, in evaluation mode.

    Raises
    ------
    CheckpointError
    """
    record = read_record(run)
    if record.kind != "patients":
        raise CheckpointError(f"{run} is a run of {record.kind}, not of patients")
    net = PatientNet(read_recipe(record.recipe, PatientRecipe).net)
    load_weights(net, run)
    return net.eval()


def train_joint(
    cache: CohortCache,
    slices: Path,
    patients: Path,
    out: Path,
    recipe: JointRecipe | None = None,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    loaders: int = 1,
) -> Path:
    """Fine-tune both networks end to end, from their separate runs.

    The first validation is that of the networks as they came; where no epoch is better, they
    are the best weights of this run too.

    Parameters
    ----------
    slices, patients : Path
        Runs to start from; the second made with the first.
    out : Path
        Folder of the run; its weights hold ``slice_net.*`` and ``patient_net.*``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    recipe = recipe or JointRecipe()
    slice_net, patient_net = load_slice_net(slices), load_patient_net(patients)
    if slice_net.feature_size != patient_net.parameters_.feature_size:
        raise CheckpointError(f"{patients} was not trained on features of {slices}")
    start = {"slices": file_digest(slices / BEST), "patients": file_digest(patients / BEST)}
    if read_record(patients).start.get("slices") != start["slices"]:
        raise CheckpointError(f"{patients} was trained on features of another run than {slices}")
    recipe = _at_size_of(recipe, read_record(slices), cache)
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        net = JointNet(slice_net, patient_net).to(processes.device)
        net = net.to(memory_format=torch.channels_last)
        task = _JointTask(cache, recipe, net, processes)
        record = RunRecord("joint", recipe_json(recipe), cache_record(cache), start)
        run = RunFolder(out, record, writes=processes.is_first)
        processes.wait()
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=recipe.schedule.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        return fit(
            task, optimizer, run, processes, progress=progress, loaders=loaders, validate_first=True
        )


@dataclass(frozen=True, slots=True)
class _Volume:
    """The drawn slices of one patient; ``label`` NO_CLASS where a slice's is not known."""

    slices: SliceBatch
    patient: int


class _JointTask:
    """Both networks as a task of :func:`training.loop.fit`; a batch is a list of volumes."""

    def __init__(
        self, cache: CohortCache, recipe: JointRecipe, net: JointNet, processes: Processes
    ) -> None:
        self.net: JointNet = net
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._cache, self._recipe, self._processes = cache, recipe, processes
        self._window = WindowParameters()
        self._patients, self._validation = cache.learning_patients()

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        recipe = self._recipe
        return draw_epoch(
            [int(patient.label) for patient in self._patients],
            recipe.patients_per_epoch,
            recipe.batch,
            recipe.seed,
            epoch,
            balanced=recipe.balance == "classes",
        )

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> list[_Volume]:
        return [
            self._volume(self._patients[index], epoch, position)
            for index, position in zip(indices, positions, strict=True)
        ]

    def _volume(self, patient: CachedPatient, epoch: int, position: int) -> _Volume:
        rng = sample_rng(self._recipe.seed, epoch, position)
        wanted = min(self._recipe.slices_per_patient, patient.count)
        edges = np.arange(wanted + 1) * patient.count / wanted
        chosen = np.floor(rng.uniform(edges[:-1], edges[1:])).astype(int).clip(0, patient.count - 1)
        size = stage_of(self.stages, epoch)[0].size or self._cache.size
        crops = self._cache.crops(patient)
        planes, center_hu = [], 0.0
        for index in chosen:
            # The same numbers for each slice: a patient is turned and windowed as a whole.
            again = sample_rng(self._recipe.seed, epoch, position)
            plane, center_hu, _ = augment(
                resize_crop(crops[index], size), self._recipe.augmentation, again
            )
            planes.append(plane)
        lesion = patient.slice_lesion[chosen].astype(np.int64)
        label = np.where(lesion == 1, int(patient.label), NO_CLASS)
        label[(lesion == 0) & (int(patient.label) == 0)] = 0
        slices = SliceBatch(
            torch.from_numpy(np.stack(planes)),
            torch.full((len(chosen),), center_hu),
            torch.from_numpy(np.where(lesion < 0, NO_CLASS, lesion)),
            torch.from_numpy(label),
        )
        return _Volume(slices, int(patient.label))

    def backward(
        self, net: nn.Module, batch: list[_Volume], scale: Callable[[Tensor], Tensor]
    ) -> Tensor:
        total = torch.zeros(3, device=self._processes.device)
        for number, volume in enumerate(batch):
            waits = number + 1 < len(batch) and isinstance(net, DistributedDataParallel)
            with net.no_sync() if waits else nullcontext():  # type: ignore[operator]
                patient, slices = self._losses(net, volume)
                loss = (patient + self._recipe.slice_weight * slices) / len(batch)
                scale(loss).backward()  # type: ignore[no-untyped-call]
            total += torch.stack([loss, patient / len(batch), slices / len(batch)]).detach()
        return total

    def _losses(self, net: nn.Module, volume: _Volume) -> tuple[Tensor, Tensor]:
        slices = volume.slices.to(self._processes.device)
        with self._processes.autocast():
            patient, lesion, classes = net(to_input(slices.hu, slices.center_hu, self._window))
        truth = torch.tensor([volume.patient], device=self._processes.device)
        slice_loss = functional.cross_entropy(
            classes.float(), slices.label, ignore_index=NO_CLASS, reduction="sum"
        )
        if lesion is not None:
            slice_loss = slice_loss + functional.cross_entropy(
                lesion.float(), slices.lesion, ignore_index=NO_CLASS, reduction="sum"
            )
        return functional.cross_entropy(patient.float(), truth), slice_loss / len(slices)

    def loss_names(self) -> tuple[str, ...]:
        return ("loss", "loss_patient", "loss_slices")

    def validate(self) -> tuple[dict[str, float], float]:
        """All slices of the validation patients, at all of serving's window centres."""
        found = []
        for patient in self._validation[self._processes.rank :: self._processes.world]:
            readings = [
                read_patient(
                    self.net.slice_net,
                    self._cache,
                    patient,
                    self._processes,
                    size=self.stages[-1].size,
                    center_hu=center,
                )
                for center in self._window.centers_hu
            ]
            features = np.mean([one.features for one in readings], axis=0, dtype=np.float32)
            logits = self.net.patient_net(
                torch.from_numpy(features)[None].to(self._processes.device)
            )
            found.append((patient.patient_id, logits.float().cpu().numpy()))
        everyone = dict(self._processes.gather(found))
        logits = torch.from_numpy(
            np.concatenate([everyone[patient.patient_id] for patient in self._validation])
        )
        return patient_metrics(np.array([int(p.label) for p in self._validation]), logits)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def _at_size_of(recipe: JointRecipe, record: RunRecord, cache: CohortCache) -> JointRecipe:
    """Stages without a size take that of the slice network's run."""
    size = record.crop.input_size
    stages = tuple(replace(stage, size=stage.size or size) for stage in recipe.stages)
    if max(stage.size for stage in stages) > cache.size:
        raise CacheError(f"{cache.directory} holds {cache.size} px, less than the stages want")
    return replace(recipe, stages=stages)
