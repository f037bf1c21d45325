"""Tables in Markdown, and SOP classes and transfer syntaxes as PS3.6 names them."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.uid import UID

__all__ = ["table", "titled", "titles"]

BAR = "\\|"  # a bar within a cell


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table with one line for each row."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', BAR) for cell in row)} |" for row in lines
    )


def titled(uid: str) -> str:
    """Return name and UID, as PS3.6 has them."""
    return f"{UID(uid).name}<br>`{uid}`"


def titles(uids: Iterable[str]) -> str:
    """Return names and UIDs, one under the other."""
    return "<br>".join(f"{UID(uid).name} `{uid}`" for uid in uids)
