"""Content items of structured reports (PS3.3 C.17.3), one small function per value type.

Written out instead of taken from a library: the report needs concept modifiers on measurements,
free qualitative evaluations and the same bytes every time. The tests read the result back with
highdicom and judge it with two validators.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from pydicom.dataset import Dataset

from dicom_node.results.codes import Concept
from inference.domain import SliceReference

__all__ = [
    "code", "composite", "container", "date", "image", "number", "text", "uid_reference",
]  # fmt: skip

CONTAINS = "CONTAINS"
HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
HAS_ACQ_CONTEXT = "HAS ACQ CONTEXT"
HAS_PROPERTIES = "HAS PROPERTIES"


def container(
    name: Concept,
    children: Iterable[Dataset],
    *,
    relationship: str | None = CONTAINS,
    template: str = "",
) -> Dataset:
    """CONTAINER; the root has no `relationship`. `template` names its TID of the mapping DCMR."""
    item = _item("CONTAINER", name, relationship, children)
    item.ContinuityOfContent = "SEPARATE"
    if template:
        identification = Dataset()
        identification.MappingResource = "DCMR"
        identification.TemplateIdentifier = template
        item.ContentTemplateSequence = [identification]
    return item


def code(
    name: Concept, value: Concept, relationship: str = CONTAINS, children: Iterable[Dataset] = ()
) -> Dataset:
    """CODE."""
    item = _item("CODE", name, relationship, children)
    item.ConceptCodeSequence = [value.item()]
    return item


def text(name: Concept, value: str, relationship: str = CONTAINS) -> Dataset:
    """TEXT."""
    item = _item("TEXT", name, relationship)
    item.TextValue = value
    return item


def uid_reference(name: Concept, value: str, relationship: str = HAS_OBS_CONTEXT) -> Dataset:
    """UIDREF."""
    item = _item("UIDREF", name, relationship)
    item.UID = value
    return item


def date(name: Concept, value: dt.date, relationship: str = CONTAINS) -> Dataset:
    """DATE."""
    item = _item("DATE", name, relationship)
    item.Date = value.strftime("%Y%m%d")
    return item


def number(
    name: Concept,
    value: float,
    unit: Concept,
    relationship: str = CONTAINS,
    children: Iterable[Dataset] = (),
) -> Dataset:
    """NUM, with six significant digits (DS holds 16 characters)."""
    item = _item("NUM", name, relationship, children)
    measured = Dataset()
    measured.NumericValue = f"{value:.6g}"
    measured.MeasurementUnitsCodeSequence = [unit.item()]
    item.MeasuredValueSequence = [measured]
    return item


def image(
    reference: SliceReference, name: Concept | None = None, children: Iterable[Dataset] = ()
) -> Dataset:
    """IMAGE; key object documents want it without a concept name (TID 2010)."""
    return composite(
        reference.sop_class_uid,
        reference.sop_instance_uid,
        name,
        frame_number=reference.frame_number,
        children=children,
    )


def composite(
    sop_class_uid: str,
    sop_instance_uid: str,
    name: Concept | None,
    *,
    value_type: str = "IMAGE",
    frame_number: int | None = None,
    children: Iterable[Dataset] = (),
) -> Dataset:
    """IMAGE or COMPOSITE: a reference to an instance, or to one frame of it."""
    item = _item(value_type, name, CONTAINS, children)
    referenced = Dataset()
    referenced.ReferencedSOPClassUID = sop_class_uid
    referenced.ReferencedSOPInstanceUID = sop_instance_uid
    if frame_number is not None:
        referenced.ReferencedFrameNumber = frame_number
    item.ReferencedSOPSequence = [referenced]
    return item


def _item(
    value_type: str,
    name: Concept | None,
    relationship: str | None,
    children: Iterable[Dataset] = (),
) -> Dataset:
    item = Dataset()
    if relationship is not None:
        item.RelationshipType = relationship
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [name.item()]
    content = list(children)
    if content:
        item.ContentSequence = content
    return item
