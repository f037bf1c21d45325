"""What every benchmark of the suite hands on: rows of a table, ratios with their goals, as JSON.

A benchmark prints its own table when it is started alone; with ``--json FILE`` it writes the same
for :mod:`run`, which sets all ratios side by side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Figures", "Ratio"]


@dataclass(frozen=True)
class Ratio:
    """One number that a goal is set for, or that only informs where `goal` is None.

    Attributes
    ----------
    name : str
    value : float
    goal : float or None
    unit : str
        ``×``, ``images/s``, ``%``, ``s``, ``ms`` …
    at_most : bool
        The goal is a limit above, not below.
    """

    name: str
    value: float
    goal: float | None = None
    unit: str = "×"
    at_most: bool = False

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def cells(self) -> tuple[str, str, str, str]:
        """Name, value, goal, verdict."""
        verdict = {None: "–", True: "met", False: "NOT MET"}[self.is_met]
        goal = "–"
        if self.goal is not None:
            goal = f"{'≤' if self.at_most else '≥'} {number(self.goal)} {self.unit}"
        return self.name, f"{number(self.value)} {self.unit}", goal, verdict


@dataclass
class Figures:
    """Of one benchmark.

    Attributes
    ----------
    title : str
    rows : list of dict
        Column name to cell, in the order of the columns.
    ratios : list of Ratio
    notes : list of str
        What a reader has to know to read the rows.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def finish(self, json_file: Path | None) -> None:
        """Print everything; write it to `json_file` where one is named."""
        print_table(self.title, self.rows)
        print_ratios(self.ratios)
        for note in self.notes:
            print(note)
        if json_file is not None:
            json_file.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, json_file: Path) -> Figures:
        """Read what :meth:`finish` wrote."""
        found = json.loads(json_file.read_text())
        found["ratios"] = [Ratio(**ratio) for ratio in found["ratios"]]
        return cls(**found)


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print `rows`, numbers to the right."""
    if not rows:
        return
    table = Table(title=title)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(number(value) for value in row.values()))
    Console(width=118).print(table)


def print_ratios(ratios: Sequence[Ratio]) -> None:
    """Print ratios with their goals."""
    if not ratios:
        return
    table = Table("", "measured", "goal", "verdict")
    for ratio in ratios:
        table.add_row(*ratio.cells())
    Console(width=118).print(table)


def number(value: object) -> str:
    """A cell: three significant digits, thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
