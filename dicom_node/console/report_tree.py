"""The structured report as people read it: its content tree as nested lines (PS3.3 C.17.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

__all__ = ["Item", "Report", "read_report"]

_IMAGE_LIBRARY = "Image Library"
_LONG = 12  # children; beyond, they are folded
_DEEPEST = 20
_CONTEXT = "HAS OBS CONTEXT"


@dataclass(frozen=True, slots=True)
class Item:
    """One content item.

    Attributes
    ----------
    name, value : str
        What it is, and what is said of it; a container has no value.
    is_folded : bool
        Whether its children are shown on demand only: the list of images is long.
    """

    name: str
    value: str
    children: tuple[Item, ...]
    is_folded: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its title, whether somebody verified it, and its content."""

    title: str
    series_description: str
    completion: str
    verification: str
    items: tuple[Item, ...]


def read_report(path: Path) -> Report | None:
    """Read a structured report; None where the file cannot be read."""
    try:
        dataset = dcmread(path)
    except (OSError, InvalidDicomError):
        return None
    return Report(
        title=_meaning(dataset, "ConceptNameCodeSequence"),
        series_description=str(dataset.get("SeriesDescription", "")),
        completion=str(dataset.get("CompletionFlag", "")).lower(),
        verification=str(dataset.get("VerificationFlag", "")).lower(),
        items=_children(dataset, 0),
    )


def _children(dataset: Dataset, depth: int) -> tuple[Item, ...]:
    if depth > _DEEPEST:
        return ()
    return tuple(_item(one, depth) for one in dataset.get("ContentSequence", []))


def _item(dataset: Dataset, depth: int) -> Item:
    name = _meaning(dataset, "ConceptNameCodeSequence")
    children = _children(dataset, depth + 1)
    is_folded = (
        name == _IMAGE_LIBRARY
        or len(children) > _LONG
        or (depth > 0 and bool(children) and dataset.get("RelationshipType") == _CONTEXT)
    )
    return Item(name, _value(dataset), children, is_folded)


def _value(dataset: Dataset) -> str:
    kind = str(dataset.get("ValueType", ""))
    if kind == "NUM":
        measured = dataset.get("MeasuredValueSequence") or [Dataset()]
        unit = str(_code(measured[0], "MeasurementUnitsCodeSequence").get("CodeValue", ""))
        number = str(measured[0].get("NumericValue", ""))
        return number if unit in ("", "1") else f"{number} {unit}"
    if kind in ("IMAGE", "COMPOSITE"):
        referenced = dataset.get("ReferencedSOPSequence") or [Dataset()]
        frame = referenced[0].get("ReferencedFrameNumber")
        uid = str(referenced[0].get("ReferencedSOPInstanceUID", ""))
        return f"{uid}, frame {frame}" if frame else uid
    if kind == "CODE":
        return _meaning(dataset, "ConceptCodeSequence")
    keyword = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATE": "Date",
               "TIME": "Time", "DATETIME": "DateTime"}.get(kind)  # fmt: skip
    return str(dataset.get(keyword, "")) if keyword else ""


def _code(dataset: Dataset, keyword: str) -> Dataset:
    found = dataset.get(keyword)
    return found[0] if found else Dataset()


def _meaning(dataset: Dataset, keyword: str) -> str:
    code = _code(dataset, keyword)
    return str(code.get("CodeMeaning", "") or code.get("CodeValue", ""))
