"""In what two versions of the document differ, line by line, without their secrets."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from dicom_node.configuration.masking import masked

__all__ = ["Difference", "DifferenceLine", "difference"]

_AROUND = 3


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One line of a comparison.

    Attributes
    ----------
    kind : {"same", "gone", "new", "gap"}
        A gap stands for lines that are the same and left out.
    old, new : int or None
        Its number on either side, from 1.
    text : str
    """

    kind: Literal["same", "gone", "new", "gap"]
    old: int | None
    new: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What is between two documents; no lines: they are the same."""

    lines: tuple[DifferenceLine, ...]

    @property
    def gone(self) -> int:
        """Number of lines that only the former has."""
        return sum(line.kind == "gone" for line in self.lines)

    @property
    def new(self) -> int:
        """Number of lines that only the latter has."""
        return sum(line.kind == "new" for line in self.lines)


def difference(former: str, latter: str) -> Difference:
    """Compare two documents.

    A secret that changed shows as a changed line whose value is masked on both sides.
    """
    before, after = former.splitlines(), latter.splitlines()
    shown_before = masked(former, beside=latter).splitlines()
    shown_after = masked(latter, beside=former).splitlines()
    lines: list[DifferenceLine] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for group in matcher.get_grouped_opcodes(_AROUND):
        if lines or group[0][1] or group[0][3]:
            lines.append(DifferenceLine("gap", None, None, ""))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += [
                    DifferenceLine("same", i1 + k + 1, j1 + k + 1, shown_before[i1 + k])
                    for k in range(i2 - i1)
                ]
                continue
            lines += [DifferenceLine("gone", i + 1, None, shown_before[i]) for i in range(i1, i2)]
            lines += [DifferenceLine("new", None, j + 1, shown_after[j]) for j in range(j1, j2)]
    return Difference(tuple(lines))
