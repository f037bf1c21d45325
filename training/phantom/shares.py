"""How many people have which artefact or incidental finding."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["SHARES", "Shares"]


@dataclass(frozen=True, slots=True)
class Shares:
    """Share of people with each artefact or finding; None leaves it to the generator."""

    breathing: float | None = None
    pulsation: float | None = None
    respiratory_drift: float | None = None
    emphysema: float | None = None
    dependent_atelectasis: float | None = None
    uneven_ventilation: float | None = None
    scars: float | None = None
    nodules: float | None = None

    def of(self, name: str, otherwise: float) -> float:
        """Return the share of one, `otherwise` where it was not asked for."""
        share: float | None = getattr(self, name)
        return otherwise if share is None else share


SHARES = tuple(field.name for field in fields(Shares))
