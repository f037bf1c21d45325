"""Everything that can go wrong between a cohort and a bundle.

::

    TrainingError
    ├── CohortError         a row of the cohort is wrong; names the file and the row
    ├── CacheError          a cache is missing, partly built, altered or of another cohort
    ├── CheckpointError     a run cannot be resumed or read
    ├── LossDiverged        the loss is no number any more; names epoch and step
    └── PhantomError        a phantom was asked for that cannot be drawn

Each message is one sentence.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "CacheError",
    "CheckpointError",
    "CohortError",
    "LossDiverged",
    "PhantomError",
    "TrainingError",
]


class TrainingError(Exception):
    """Base of all errors of :mod:`training`."""


class CohortError(TrainingError):
    """A cohort cannot be used.

    Parameters
    ----------
    file : Path
        The CSV (or the split, or a file of slice labels).
    row : int or None
        Line of `file`, the header being line 1; None where the whole file is meant.
    text : str
        What is wrong.
    """

    def __init__(self, file: Path, row: int | None, text: str) -> None:
        where = f"{file}: " if row is None else f"{file}, row {row}: "
        super().__init__(where + text)
        self.file = file
        self.row = row


class CacheError(TrainingError):
    """A cache is missing, partly built, altered, or of another cohort."""


class CheckpointError(TrainingError):
    """A run cannot be resumed, or its weights do not fit what they are wanted for."""


class LossDiverged(TrainingError):
    """The loss is infinite or not a number.

    Parameters
    ----------
    epoch, step : int
        Counted from 1.
    loss : float
    """

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"the loss is {loss} in epoch {epoch}, step {step}; the last good checkpoint is kept, "
            "try a smaller learning rate"
        )
        self.epoch = epoch
        self.step = step


class PhantomError(TrainingError):
    """A phantom was asked for that cannot be drawn."""
