"""What can go wrong in an evaluation beyond a faulty cohort or bundle."""

from __future__ import annotations

from training.errors import TrainingError

__all__ = ["EvaluationError"]


class EvaluationError(TrainingError):
    """A patient cannot be read, or two evaluations cannot be compared; one sentence."""
