"""A rival as a task of the common training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from inference.windowing import WindowParameters
from training.baselines.recipe import BaselineRecipe
from training.baselines.volumes import network_input, resample_volume
from training.cohort.cache import CachedPatient, CohortCache
from training.draw import draw_epoch, sample_rng
from training.patients import patient_metrics
from training.processes import Processes

__all__ = ["RivalTask", "VolumeBatch", "read_volumes"]

VALIDATION_CENTER_HU = -600.0


@dataclass(frozen=True, slots=True)
class VolumeBatch:
    """Volumes as they go to the device.

    Attributes
    ----------
    inputs : Tensor of float32, shape (B, C, T, H, W)
    label : Tensor of int64, shape (B,)
    """

    inputs: Tensor
    label: Tensor


class RivalTask:
    """What :func:`training.loop.fit` trains.

    Parameters
    ----------
    cache : CohortCache
    recipe : BaselineRecipe
    net : nn.Module
    processes : Processes

    Raises
    ------
    CacheError
        There are no training or no validation patients.
    """

    def __init__(
        self, cache: CohortCache, recipe: BaselineRecipe, net: nn.Module, processes: Processes
    ) -> None:
        self.net = net
        self.stages, self.schedule = recipe.stages, recipe.schedule
        self.checkpoint_steps = recipe.checkpoint_steps
        self._cache, self._recipe, self._processes = cache, recipe, processes
        self._patients, self._validation = cache.learning_patients()

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Patients of each step."""
        recipe = self._recipe
        return draw_epoch(
            [int(patient.label) for patient in self._patients],
            0,
            recipe.batch,
            recipe.seed,
            epoch,
            balanced=recipe.balance == "classes",
        )

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> VolumeBatch:
        """Volumes under a random window each, mirrored at random."""
        recipe = self._recipe
        volumes = []
        for index, position in zip(indices, positions, strict=True):
            rng = sample_rng(recipe.seed, epoch, position)
            center_hu = float(rng.uniform(*recipe.center_hu))
            volume = volume_input(self._cache, self._patients[index], recipe, (center_hu,))[0]
            volumes.append(volume.flip(-1) if rng.random() < recipe.flip_columns else volume)
        labels = torch.tensor([int(self._patients[index].label) for index in indices])
        return VolumeBatch(torch.stack(volumes), labels)

    def backward(
        self, net: nn.Module, batch: VolumeBatch, scale: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Cross-entropy, by micro batches."""
        length, step = len(batch.label), self._recipe.micro_batch
        total = torch.zeros(1, device=self._processes.device)
        for start in range(0, length, step):
            part = slice(start, start + step)
            inputs = batch.inputs[part].to(self._processes.device, non_blocking=True)
            label = batch.label[part].to(self._processes.device, non_blocking=True)
            waits = start + step < length and isinstance(net, DistributedDataParallel)
            with net.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self._processes.autocast():
                    logits = net(inputs)
                loss = functional.cross_entropy(logits.float(), label, reduction="sum") / length
                scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def loss_names(self) -> tuple[str, ...]:
        """The loss alone."""
        return ("loss",)

    def validate(self) -> tuple[dict[str, float], float]:
        """Metrics under the middle window; each process reads some of the patients."""
        processes = self._processes
        mine = self._validation[processes.rank :: processes.world]
        rows = read_volumes(
            self.net, self._cache, mine, self._recipe, processes, (VALIDATION_CENTER_HU,)
        )
        found = dict(
            processes.gather([(p.patient_id, row) for p, row in zip(mine, rows, strict=True)])
        )
        labels = np.array([int(patient.label) for patient in self._validation])
        probabilities = np.stack([found[patient.patient_id] for patient in self._validation])
        # Log-probabilities are logits: a softmax leaves their probabilities as they are.
        return patient_metrics(labels, torch.from_numpy(probabilities).clamp_min(1e-12).log())

    def end_epoch(self, epoch: int) -> dict[str, float]:  # of the protocol
        """Nothing has to happen."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing but the network and the optimiser has a state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """See :meth:`state`."""


def volume_input(
    cache: CohortCache, patient: CachedPatient, recipe: BaselineRecipe, centers_hu: Sequence[float]
) -> Tensor:
    """One patient under several windows: (windows, C, T, H, W)."""
    shape = recipe.volume
    volume = resample_volume(cache.crops(patient), shape.slices, shape.size)
    window = WindowParameters()
    return torch.stack([network_input(volume, center, window, shape) for center in centers_hu])


@torch.inference_mode()
def read_volumes(
    net: nn.Module,
    cache: CohortCache,
    patients: Sequence[CachedPatient],
    recipe: BaselineRecipe,
    processes: Processes,
    centers_hu: Sequence[float],
    tick: Callable[[int], None] | None = None,
) -> list[NDArray[np.float32]]:
    """Class probabilities (4,) of each patient, mean over the windows, one volume at a time."""
    rows = []
    for done, patient in enumerate(patients, start=1):
        inputs = volume_input(cache, patient, recipe, centers_hu)
        with processes.autocast():
            logits = [net(one[None].to(processes.device)) for one in inputs]
        rows.append(torch.cat(logits).float().softmax(dim=1).mean(dim=0).cpu().numpy())
        if tick is not None:
            tick(done)
    return rows
