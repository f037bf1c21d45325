"""The training loop, the same for all three trainings: what is trained is a :class:`Task`.

A run's state after each step is a function of its record alone: the order of samples, their
augmentation and the learning rate are pure functions of (seed, epoch, step), and everything else
is in the checkpoint. So a run that was killed gives the same weights as one that was not, bit for
bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import LossDiverged
from training.processes import Processes
from training.recipe import Schedule, Stage
from training.run_folder import RunFolder
from training.schedule import learning_rate, stage_of, total_epochs

__all__ = ["Task", "TrainingProgress", "fit"]

_B = TypeVar("_B")

Progress = Callable[[str, int, int], None]
EpochReport = Callable[[dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training reports to.

    Attributes
    ----------
    steps : callable or None
        Called with (stage in words, done, total) after each step.
    epochs : callable or None
        Called with the metrics of each epoch.
    """

    steps: Progress | None = None
    epochs: EpochReport | None = None


class Task(Protocol[_B]):
    """What is trained."""

    @property
    def net(self) -> nn.Module:
        """All that is trained."""
        ...

    @property
    def stages(self) -> Sequence[Stage]:
        """Of the recipe."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Of the recipe."""
        ...

    @property
    def checkpoint_steps(self) -> int:
        """Of the recipe."""
        ...

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Sample indices of each step of an epoch."""
        ...

    def load(self, epoch: int, positions: range, indices: NDArray[np.int64]) -> _B:
        """Make a batch, or this process's part of it; runs in other threads.

        `positions` are the samples' places in the epoch, by which their randomness is drawn.
        """
        ...

    def backward(self, net: nn.Module, batch: _B, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """Add up gradients (of `scale`d losses); return the losses, shape (k,), total first."""
        ...

    def loss_names(self) -> Sequence[str]:
        """Names of what :meth:`backward` returns."""
        ...

    def validate(self) -> tuple[dict[str, float], float]:
        """Metrics on the validation patients, and the score by which the best is kept."""
        ...

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """What has to happen between epochs, such as labelling anew."""
        ...

    def state(self) -> dict[str, Any]:
        """What else a checkpoint has to hold."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take :meth:`state` back."""
        ...


@dataclass
class _Position:
    """Where a run stands; part of the checkpoint."""

    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    sums: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    task: Task[_B],
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
    processes: Processes,
    *,
    progress: TrainingProgress | None = None,
    loaders: int = 1,
    validate_first: bool = False,
) -> Path:
    """Train `task` to its last epoch, from the run's checkpoint if there is one.

    Parameters
    ----------
    loaders : int
        Threads that make batches ahead.
    validate_first : bool
        Also validate before the first step, as epoch 0: the best weights may be the first ones.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    LossDiverged
        The checkpoint on disk is then of a step with a finite loss.
    CheckpointError
    """
    loop = _Loop(task, optimizer, run, processes, progress or TrainingProgress(), loaders)
    loop.restore()
    with run.metrics(loop.at.history):
        if validate_first and not loop.at.history and loop.at.step == 0:
            loop.start_from_scores()
        while loop.at.epoch < total_epochs(task.stages):
            loop.run_epoch()
    processes.wait()
    return run.directory


class _Loop(Generic[_B]):
    def __init__(
        self,
        task: Task[_B],
        optimizer: torch.optim.Optimizer,
        run: RunFolder,
        processes: Processes,
        progress: TrainingProgress,
        loaders: int,
    ) -> None:
        self.task, self.optimizer, self.run = task, optimizer, run
        self.processes, self.progress, self.loaders = processes, progress, loaders
        self.net = processes.wrap(task.net)
        self.scaler = torch.amp.GradScaler(
            processes.device.type, enabled=processes.dtype == torch.float16
        )
        self.at = _Position()

    def restore(self) -> None:
        state = self.run.load()
        if state is None:
            return
        self.task.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.task.restore(state["task"])
        self.at = _Position(**state["position"])

    def save(self) -> None:
        if not self.processes.is_first:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self.task.net.parameters()):
            # The loss was finite still, the step it led to was not.
            raise LossDiverged(self.at.epoch + 1, self.at.step, math.nan)
        self.run.save(
            {
                "net": self.task.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "task": self.task.state(),
                "position": vars(self.at),
            }
        )

    def run_epoch(self) -> None:
        at, task = self.at, self.task
        batches = task.batches(at.epoch)
        words = f"epoch {at.epoch + 1}/{total_epochs(task.stages)}"
        if at.step == 0 and at.epoch > 0 and stage_of(task.stages, at.epoch)[1] == 0:
            at.best = -math.inf  # scores at another input size do not compare
        first, began = at.step, time.monotonic()
        self.net.train()
        for batch in self._loaded(batches):
            rate = learning_rate(task.schedule, task.stages, at.epoch, at.step, len(batches))
            losses = self._step(batch, rate)
            at.sums = [a + b for a, b in zip(at.sums or [0.0] * len(losses), losses, strict=True)]
            at.step += 1
            if self.progress.steps is not None:
                self.progress.steps(words, at.step, len(batches))
            if at.step % task.checkpoint_steps == 0 and at.step < len(batches):
                self.save()
        seconds = time.monotonic() - began
        self._finish_epoch(len(batches), rate, (len(batches) - first) / max(seconds, 1e-9))

    def _step(self, batch: _B, rate: float) -> list[float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.processes.mean(self.task.backward(self.net, batch, self.scaler.scale))
        values: list[float] = losses.tolist()
        if not math.isfinite(values[0]):
            raise LossDiverged(self.at.epoch + 1, self.at.step + 1, values[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values

    def _finish_epoch(self, steps: int, rate: float, steps_per_s: float) -> None:
        at = self.at
        names = self.task.loss_names()
        metrics = {"epoch": float(at.epoch + 1), "lr": rate}
        metrics |= {name: value / steps for name, value in zip(names, at.sums, strict=True)}
        began = time.monotonic()
        metrics |= self._validated()
        with torch.no_grad():
            metrics |= self.task.end_epoch(at.epoch)
        metrics["steps_per_s"] = steps_per_s
        metrics["validation_s"] = time.monotonic() - began
        at.epoch, at.step, at.sums = at.epoch + 1, 0, []
        self._keep(metrics)

    def start_from_scores(self) -> None:
        self._keep({"epoch": 0.0} | self._validated())

    def _validated(self) -> dict[str, float]:
        """Metrics with the score; the best weights are kept."""
        self.net.eval()
        with torch.no_grad():
            metrics, score = self.task.validate()
        if score > self.at.best:
            self.at.best = score
            if self.processes.is_first:
                self.run.save_best(self.task.net)
        return metrics | {"score": score}

    def _keep(self, metrics: dict[str, float]) -> None:
        self.at.history.append(metrics)
        if self.processes.is_first:
            self.run.add_metrics(metrics)
        self.save()
        if self.progress.epochs is not None:
            self.progress.epochs(metrics)

    def _loaded(self, batches: list[NDArray[np.int64]]) -> Iterator[_B]:
        """The epoch's remaining batches, made ahead by other threads, in order."""
        epoch, share = self.at.epoch, self.processes
        left = list(enumerate(batches))[self.at.step :]
        with ThreadPoolExecutor(self.loaders, thread_name_prefix="load") as pool:
            waiting: deque[Future[_B]] = deque()
            try:
                for step, batch in left:
                    mine = share.share(len(batch))
                    places = range(step * len(batch) + mine.start, step * len(batch) + mine.stop)
                    waiting.append(pool.submit(self.task.load, epoch, places, batch[mine]))
                    if len(waiting) > self.loaders + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
