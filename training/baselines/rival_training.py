"""Training and reading of the rivals, from the same cohort cache and by the same loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inference.engine import DeviceName, Precision
from inference.windowing import WindowParameters
from training.baselines.recipe import BaselineRecipe
from training.baselines.rival_task import RivalTask, read_volumes
from training.baselines.rivals import RIVALS
from training.cohort.cache import CohortCache
from training.cohort.split import Part
from training.errors import CheckpointError
from training.loop import TrainingProgress, fit
from training.processes import join_processes
from training.run_folder import RunFolder, RunRecord, cache_record, load_weights

__all__ = ["predict_baseline", "train_baseline"]


def train_baseline(
    name: str,
    cache: CohortCache,
    out: Path,
    recipe: BaselineRecipe | None = None,
    *,
    progress: TrainingProgress | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    loaders: int = 1,
) -> Path:
    """Train a rival.

    Called again with the same arguments it goes on where it was killed, or returns at once when
    it had ended.

    Parameters
    ----------
    name : str
        Of :data:`~training.baselines.rivals.RIVALS`.
    cache : CohortCache
        The epoch with the best balanced accuracy on the validation patients is kept.
    out : Path
        Folder of the run (:mod:`training.run_folder`).
    recipe : BaselineRecipe or None
        None: Table III's.
    progress : TrainingProgress or None
    device, precision : str
    loaders : int
        Threads that make batches ahead.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CacheError, CheckpointError, LossDiverged, DeviceError
    """
    recipe = recipe or BaselineRecipe.of_paper(name)
    with join_processes(device, precision) as processes:
        if recipe.batch % processes.world:
            raise CheckpointError(
                f"a batch of {recipe.batch} cannot be shared by {processes.world} processes"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            net = _make(name, recipe).to(processes.device)
        task = RivalTask(cache, recipe, net, processes)
        record = RunRecord(f"baseline {name}", recipe.document(), cache_record(cache), {})
        run = RunFolder(out, record, writes=processes.is_first)
        processes.wait()
        optimizer = torch.optim.Adam(
            net.parameters(), lr=recipe.schedule.lr, weight_decay=recipe.weight_decay
        )
        return fit(task, optimizer, run, processes, progress=progress, loaders=loaders)


def predict_baseline(
    name: str,
    cache: CohortCache,
    run: Path,
    recipe: BaselineRecipe | None = None,
    part: Part = "test",
    *,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Class probabilities of the patients of one part, mean over the window centres of serving.

    Returns
    -------
    labels : ndarray of int64, shape (P,)
        In the order of ``cache.patients_of(part)``.
    probabilities : ndarray of float64, shape (P, 4)

    Raises
    ------
    CheckpointError
        The run has no weights, or those of another network.
    """
    recipe = recipe or BaselineRecipe.of_paper(name)
    patients = cache.patients_of(part)
    net = _make(name, recipe)
    load_weights(net, run)

    def tick(done: int) -> None:
        if progress is not None:
            progress(f"{name} {part}", done, len(patients))

    with join_processes(device, precision) as processes:
        net = net.eval().to(processes.device)
        centers = WindowParameters().centers_hu
        rows = read_volumes(net, cache, patients, recipe, processes, centers, tick)
    labels = np.array([int(patient.label) for patient in patients], dtype=np.int64)
    probabilities = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return labels, probabilities


def _make(name: str, recipe: BaselineRecipe) -> nn.Module:
    return RIVALS[name].make(recipe.volume.input_channels, recipe.backbone)
