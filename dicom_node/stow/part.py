"""One part of a request: a DICOM file, its File Meta Information first (PS3.10 §7.1).

What comes in is not the file that is kept: the dataset is, byte for byte, under meta information
of our own, as if it had come by C-STORE. So the same instance is the same whichever door it took.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dicom_node.domain import Receipt, is_legal_uid
from dicom_node.errors import CannotUnderstand, DatasetMismatch
from dicom_node.reception.kept import Dataset, IgnoredInstance, KeptInstance, Refused
from dicom_node.reception.session import ReceptionSession
from dicom_node.reception.sop_classes import (
    CT_STORAGE,
    DECODABLE_TRANSFER_SYNTAXES,
    other_storage,
)
from dicom_node.reception.status import SOPClassNotSupported, TransferSyntaxNotSupported

__all__ = ["MAX_META_BYTES", "DicomPart", "read_meta"]

MAX_META_BYTES = 64 << 10
"""More of File Meta Information is no file's."""

_PREFIX = 128 + 4 + 12  # preamble, DICM, (0002,0000)
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID = 0x0002, 0x0003, 0x0010


class DicomPart:
    """A part on its way in.

    Parameters
    ----------
    session : ReceptionSession
    study_instance_uid : str
        Of the address; empty: any.
    refuses_others : bool
        Whether storage classes that are no CT are refused, as ``listener.other_storage`` says.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : str
        As the meta information says, empty as long as it says nothing legal.
    """

    def __init__(
        self, session: ReceptionSession, *, study_instance_uid: str, refuses_others: bool
    ) -> None:
        self._session = session
        self._study_instance_uid = study_instance_uid
        self._refuses_others = refuses_others
        self._head: bytearray | None = bytearray()
        self._dataset: Dataset = Refused(CannotUnderstand("no DICOM file"))
        self.sop_class_uid = ""
        self.sop_instance_uid = ""

    def refuse(self, error: Exception) -> None:
        """Answer the part with `error` whatever it holds."""
        self._head = None
        self._dataset.discard()
        self._dataset = Refused(error)

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes; what is wrong with them is told at the end."""
        try:
            if self._head is not None:
                fragment = self._read_head(fragment)
            if fragment:
                self._dataset.write(fragment)
        except Exception as error:  # noqa: BLE001  the edge: recorded and answered
            self.refuse(error)

    def finish(self) -> Receipt:
        """Return when it is durable.

        Raises
        ------
        Exception
            What the sender is to be told.
        """
        if self._head is not None:
            raise CannotUnderstand("no DICOM file with File Meta Information")
        return self._dataset.finish()

    def discard(self) -> None:
        """Forget it; harmless when it is finished."""
        self._dataset.discard()

    def _read_head(self, fragment: memoryview) -> memoryview:
        """Take what belongs to the head; return the rest, which belongs to the dataset."""
        assert self._head is not None  # noqa: S101  asked before
        fragment = self._fill(fragment, _PREFIX)
        if len(self._head) < _PREFIX:
            return fragment
        if self._head[128:132] != b"DICM" or self._head[132:140] != _GROUP_LENGTH:
            raise CannotUnderstand("no DICOM file with File Meta Information")
        length = int.from_bytes(self._head[140:144], "little")
        if length > MAX_META_BYTES:
            raise CannotUnderstand("the File Meta Information is too long")
        fragment = self._fill(fragment, _PREFIX + length)
        if len(self._head) == _PREFIX + length:
            meta = bytes(self._head[_PREFIX:])
            self._head = None
            self._dataset = self._begin(meta)
        return fragment

    def _fill(self, fragment: memoryview, size: int) -> memoryview:
        assert self._head is not None  # noqa: S101  asked before
        missing = max(0, size - len(self._head))
        self._head += fragment[:missing]
        return fragment[missing:]

    def _begin(self, encoded: bytes) -> Dataset:
        meta = read_meta(encoded)
        sop_class, sop_instance, transfer_syntax = (
            uid if is_legal_uid(uid) else ""
            for uid in (
                meta.get(number, b"").rstrip(b"\0 ").decode("latin-1")
                for number in (_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID)
            )
        )
        self.sop_class_uid, self.sop_instance_uid = sop_class, sop_instance
        if not sop_class or not sop_instance:
            raise DatasetMismatch("the file's meta information lacks a legal SOP UID")
        if not transfer_syntax:
            raise CannotUnderstand("the File Meta Information names no transfer syntax")
        if sop_class not in CT_STORAGE:
            if self._refuses_others or sop_class not in other_storage():
                raise SOPClassNotSupported("the SOP class is not stored here")
            return IgnoredInstance(self._session, sop_class)
        if transfer_syntax not in DECODABLE_TRANSFER_SYNTAXES:
            raise TransferSyntaxNotSupported("the transfer syntax is not read here")
        return KeptInstance(
            self._session,
            sop_class_uid=sop_class,
            sop_instance_uid=sop_instance,
            transfer_syntax_uid=transfer_syntax,
            announced_by="the file's meta information",
            study_instance_uid=self._study_instance_uid,
        )


def read_meta(encoded: bytes) -> dict[int, bytes]:
    """Return the elements of group 0002 by element number (Explicit VR Little Endian).

    Raises
    ------
    CannotUnderstand
        Lengths that lead nowhere, or another group.
    """
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if offset + 8 > len(encoded):
            raise CannotUnderstand("the File Meta Information ends in an element")
        group, element, vr, length = struct.unpack_from("<HH2sH", encoded, offset)
        offset += 8
        if group != 0x0002:
            raise CannotUnderstand("the File Meta Information holds another group")
        if vr in _LONG_VRS:
            if offset + 4 > len(encoded):
                raise CannotUnderstand("the File Meta Information ends in an element")
            (length,) = struct.unpack_from("<L", encoded, offset)
            offset += 4
        if offset + length > len(encoded):
            raise CannotUnderstand("an element of the File Meta Information is too long")
        found[element] = encoded[offset : offset + length]
        offset += length
    return found


PartMaker = Callable[[], DicomPart]
"""Makes the next part."""
