"""What a rule decides about an analysis before it is queued."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.settings import Priority

__all__ = ["NO_PLAN", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided about an analysis before it is queued.

    Attributes
    ----------
    rule : str
        The rule that decided.
    behind_s : float
        How much later than it is it counts as queued; less than 0: so much it is ahead.
    shadow : bool
        Nothing of it is delivered.
    destinations : tuple of str
        Names of peers; empty: all.
    """

    rule: str = ""
    priority: Priority = Priority.NORMAL
    behind_s: float = 0.0
    shadow: bool = False
    destinations: tuple[str, ...] = ()


NO_PLAN = Plan()
"""Where no rule was asked."""
