"""The structured report as people read it: its content tree as nested lines (PS3.3 C.17.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

__all__ = ["Item", "Report", "read_report"]

_IMAGE_LIBRARY = "Image Library"
_GROUP = "Measurement Group"
_MOST_SAID = 5
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Item:
    """One content item.

    Attributes
    ----------
    name, value : str
        What it is, and what is said of it; a container has no value.
    is_folded : bool
        Whether its children are shown on demand only: lists of images are long.
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
    if name == _GROUP:  # there are many: what each says stands in its heading
        said = [one for one in dataset.get("ContentSequence", []) if _is_said(one)][:_MOST_SAID]
        words = ", ".join(filter(None, map(_in_words, said)))
        return Item(name, words, children, is_folded=True)
    return Item(name, _value(dataset), children, is_folded=name == _IMAGE_LIBRARY)


def _is_said(dataset: Dataset) -> bool:
    name = _meaning(dataset, "ConceptNameCodeSequence")
    return dataset.get("ValueType") == "NUM" or name == "Finding"


def _in_words(dataset: Dataset) -> str:
    """Return "Probability of COVID-19 0.71": a measurement with its modifier, or a finding."""
    if dataset.get("ValueType") != "NUM":
        return _value(dataset)
    of = [
        _value(one)
        for one in dataset.get("ContentSequence", [])
        if one.get("RelationshipType") == "HAS CONCEPT MOD" and one.get("ValueType") == "CODE"
    ]
    name = _meaning(dataset, "ConceptNameCodeSequence")
    return f"{name}{' of ' + of[-1] if of else ''} {_value(dataset)}"


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
