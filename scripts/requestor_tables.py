"""The tables of docs/conformance.md that say what the node proposes, asks and makes of answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from markdown_tables import table, titled, titles
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_node import errors, source_query
from dicom_node.delivery.commitment import COMMITMENT_CONTEXTS
from dicom_node.delivery.connection_test import SOP_CLASSES
from dicom_node.delivery.presentation import contexts
from dicom_node.delivery.retry import read_status, rejection
from dicom_node.domain import ObjectKind
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.settings import NodeSettings, Peer

__all__ = [
    "asked",
    "commitment_contexts",
    "find_contexts",
    "find_keys",
    "kinds_by_class",
    "rejections_taken",
    "requestor_contexts",
    "store_status_taken",
]

_STORED = str(ExplicitVRLittleEndian)  # dicom_node.results.dicom_file writes nothing else


def kinds_by_class() -> dict[str, list[ObjectKind]]:
    """Return SOP class → what is sent as it."""
    found: dict[str, list[ObjectKind]] = {}
    for kind, classes in SOP_CLASSES.items():
        for sop_class in classes:
            found.setdefault(sop_class, []).append(kind)
    return found


def requestor_contexts() -> str:
    """What delivery proposes for each result, by the peer's `compress`."""
    rows = []
    for uid, kinds in kinds_by_class().items():
        cells = []
        for compress in ("none", "lossless", "jpeg"):
            proposed = contexts([(uid, _STORED)], compress)  # type: ignore[arg-type]
            cells.append("<br>".join(UID(syntax).name for _, syntax in proposed))
        merged = cells if len(set(cells)) > 1 else [cells[0], "the same", "the same"]
        rows.append((titled(uid), ", ".join(kinds).replace("_", " "), *merged))
    heads = ('`compress = "none"`', '`"lossless"` (default)', '`"jpeg"`')
    return table(("SOP class", "output", *heads), rows)


def commitment_contexts() -> str:
    """What the request for storage commitment proposes."""
    return table(
        ("SOP class", "transfer syntax", "role"),
        ((titled(uid), UID(syntax).name, "SCU") for uid, syntax in COMMITMENT_CONTEXTS),
    )


def store_status_taken() -> str:
    """How delivery reads a C-STORE status: every one of the 65,536 is asked for."""
    groups: dict[tuple[DeliveryEvent, str], list[int]] = {}
    for status in range(0x10000):
        answer = read_status(status)
        words = answer.words.replace(f" (0x{status:04X})", "")
        groups.setdefault((answer.event, words), []).append(status)
    largest = max(groups, key=lambda group: len(groups[group]))
    rows = []
    for group, statuses in sorted(groups.items(), key=lambda item: (item[0] == largest, item[1])):
        codes = "any other" if group == largest else _ranges(statuses)
        rows.append((codes, group[1] or "success", _BEHAVIOUR[group[0]]))
    return table(("status", "read as", "then"), rows)


_BEHAVIOUR = {
    DeliveryEvent.ACCEPTED: "delivered",
    DeliveryEvent.TRANSIENT: "tried again by itself",
    DeliveryEvent.PERMANENT: "parked until somebody changes something",
}


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers as a hexadecimal range; holes in it have rows of their own."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f"0x{first:04X}"
    return f"0x{first:04X} to 0x{last:04X}"


def rejections_taken() -> str:
    """How an A-ASSOCIATE-RJ is read."""
    rows = []
    for source, reasons in ((1, (1, 2, 3, 7)), (2, (1, 2)), (3, (1, 2))):
        for reason in reasons:
            found = []
            for result in (1, 2):
                error = rejection(result, source, reason, us="ours", them="theirs")
                again = isinstance(error, errors.TransientDelivery)
                found.append("tried again by itself" if again else "parked")
            words = str(error).removeprefix("association rejected: ").partition(" (result")[0]
            rows.append((source, reason, words, *found))
    heads = ("source", "reason", "in words", "result 1: permanent", "result 2: transient")
    return table(heads, rows)


# -- C-FIND ---------------------------------------------------------------------------------------


class _ListeningPacs:
    """Stands where an association would, and keeps the identifiers that are sent over it."""

    is_established = True

    def __init__(self) -> None:
        self.identifiers: list[Dataset] = []

    def send_c_find(self, identifier: Dataset, _model: object) -> Iterator[tuple[Dataset, Any]]:
        self.identifiers.append(identifier)
        pending, done = Dataset(), Dataset()
        pending.Status, done.Status = 0xFF00, 0x0000
        answer = Dataset()
        answer.SeriesInstanceUID = identifier.SeriesInstanceUID
        yield pending, answer  # names the series and no count: the images are asked for, too
        yield done, None

    def release(self) -> None:
        pass


def asked() -> tuple[AE, list[Dataset]]:
    """Return the entity that asks a source how many images it has, and what it sends."""
    pacs, entities = _ListeningPacs(), []

    class Entity(AE):
        def associate(self, *_where: object, **_how: object) -> _ListeningPacs:
            entities.append(self)
            return pacs

    peer = Peer(name="pacs", ae_title="ARCHIVE", query=True)
    with (
        patch.object(source_query, "AE", Entity),
        patch.object(source_query, "_reach", lambda *_: None),
    ):
        source_query.count_instances(NodeSettings(), peer, "1.2", "1.3")
    return entities[0], pacs.identifiers


def find_contexts() -> str:
    """What the C-FIND SCU proposes."""
    return table(
        ("SOP class", "transfer syntaxes, in one context", "role"),
        (
            (titled(context.abstract_syntax), titles(map(str, context.transfer_syntax)), "SCU")
            for context in asked()[0].requested_contexts
        ),
    )


def find_keys() -> str:
    """The identifiers of both queries, as they are sent."""
    rows = []
    for identifier in asked()[1]:
        for element in identifier:
            tag = f"({element.tag.group:04X},{element.tag.element:04X})"
            kind = "return key" if not element.value else "single value matching"
            if element.keyword == "QueryRetrieveLevel":
                kind = "level"
            rows.append((identifier.QueryRetrieveLevel, element.name, tag, element.VR, kind))
    return table(("level", "attribute", "tag", "VR", "use"), rows)
