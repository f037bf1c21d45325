"""docs/benchmarks.md: the figures of one run of the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figures import Figures, number

__all__ = ["write_page"]

HEAD = """# Benchmarks

Written by `make bench` or `make bench-full` (`benchmarks/run.py`); do not edit. A ratio is taken
within one run; absolute figures move from machine to machine, and with what else runs there.
*Plain* is what one would write for oneself: slice by slice, scikit-image, eager torch in float32,
batch 1 (`benchmarks/naive.py`). The series is the project's own phantom. What a goal that is not
met hangs on, and what the figures mean for a hospital, says [scaling](scaling.md).
"""


def write_page(
    target: Path,
    found: dict[str, Figures],
    missing: dict[str, str],
    circumstances: dict[str, str],
) -> None:
    """Write the page: circumstances, ratios with goals, then each benchmark's own table."""
    parts = [HEAD, markdown(["", ""], list(circumstances.items())), "\n## Ratios and goals\n"]
    ratios = [ratio.cells() for figures in found.values() for ratio in figures.ratios]
    parts.append(markdown(["", "measured", "goal", "verdict"], ratios))
    for name, reason in missing.items():
        parts.append(f"\nMissing in this run: {name} ({reason}).\n")
    for name, figures in found.items():
        parts.append(f"\n## {name[0].upper()}{name[1:]}\n\n{figures.title}.\n")
        if figures.rows:
            rows = [[number(cell) for cell in row.values()] for row in figures.rows]
            parts.append(markdown(list(figures.rows[0]), rows))
        parts += [f"\n{note}.\n".replace("..", ".") for note in figures.notes]
    target.write_text("\n".join(part.strip("\n") + "\n" for part in parts))


def markdown(head: list[str], rows: list[Any]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
