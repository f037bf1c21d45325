"""The row "max pooling" of Table IV: the patient network without attention.

It is no part of the product, so it lives here; it is trained by the patient network's own task.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from inference.engine import DeviceName, Precision
from inference.slice_net import SliceNet
from training.cohort.cache import CohortCache
from training.durable import file_digest
from training.features import slice_features
from training.loop import TrainingProgress, fit
from training.optimizer import make_optimizer
from training.patients import PatientTask
from training.processes import join_processes
from training.recipe import PatientRecipe, recipe_json
from training.run_folder import BEST, RunFolder, RunRecord, cache_record

__all__ = ["MaxPoolingNet", "train_max_pooling"]


class MaxPoolingNet(nn.Module):
    """The largest value of each feature over all slices, then the patient network's last layers.

    Parameters
    ----------
    feature_size, reduced_size : int
        D and D'.

    Notes
    -----
    The paper names the row without a drawing. D is reduced to D' before the four-way
    classifier, as in the patient network, so that the rows differ in the pooling alone
    **(decided)**.
    """

    def __init__(self, feature_size: int = 3072, reduced_size: int = 512) -> None:
        super().__init__()
        self.reduce = nn.Linear(feature_size, reduced_size)
        self.class_head = nn.Linear(reduced_size, 4)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) and (B, N), False where a slice is padding, to (B, 4) logits."""
        if valid is not None:
            features = features.masked_fill(~valid[:, :, None], -torch.inf)
        patient = self.reduce(features.amax(dim=1))  # (B, D) -> (B, D')
        logits: Tensor = self.class_head(torch.relu(patient))  # (B, 4)
        return logits


def train_max_pooling(
    cache: CohortCache,
    slices: Path,
    net: SliceNet,
    size: int,
    out: Path,
    recipe: PatientRecipe,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> Path:
    """Train :class:`MaxPoolingNet` as :func:`training.patients.train_patients` trains its own.

    Parameters
    ----------
    slices : Path
        Run of the slice network.
    net : SliceNet
        Its best weights.
    size : int
        Rows and columns it was trained at.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    parameters = replace(recipe.net, feature_size=net.feature_size)
    with join_processes(device, precision) as processes:
        wanted = [patient for patient in cache.patients if patient.split != "test"]
        features = slice_features(
            cache, net, processes.device, patients=wanted, size=size, dtype=processes.dtype
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            head = MaxPoolingNet(net.feature_size, parameters.reduced_size).to(processes.device)
        # The task asks nothing of the network but (features, valid) -> logits.
        task = PatientTask(cache, recipe, head, features, processes)  # type: ignore[arg-type]
        document = recipe_json(replace(recipe, net=parameters))
        start = {"slices": file_digest(slices / BEST)}
        record = RunRecord("patients max pooling", document, cache_record(cache), start)
        run = RunFolder(out, record, writes=processes.is_first)
        return fit(task, make_optimizer(recipe, head), run, processes, progress=progress)
