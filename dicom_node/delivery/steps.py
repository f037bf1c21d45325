"""The steps of a connection test, and how each went."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Step", "StepResult", "is_healthy"]


class StepResult(enum.StrEnum):
    """How one step of the test went."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a connection test.

    Attributes
    ----------
    name : str
        "name resolution", "TCP", "TLS", "association", "C-ECHO", an ObjectKind, or "C-FIND".
    words : str
        What was found, and what an administrator has to do about it.
    """

    name: str
    result: StepResult
    words: str


def is_healthy(steps: list[Step]) -> bool:
    """Whether nothing failed."""
    return all(step.result is not StepResult.FAILED for step in steps)
