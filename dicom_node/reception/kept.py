"""One dataset from its first fragment to its durable receipt."""

from __future__ import annotations

from typing import Protocol

from dicom_node.domain import Receipt
from dicom_node.errors import DatasetMismatch
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_dataset_header
from dicom_node.ledger import Arrival
from dicom_node.reception.session import ReceptionSession

__all__ = ["Dataset", "IgnoredInstance", "KeptInstance", "Refused"]


class Dataset(Protocol):
    """Where the fragments of one dataset go."""

    def write(self, fragment: memoryview) -> None:
        """Take the next fragment."""
        ...

    def finish(self) -> Receipt:
        """Return what became of the whole; raise what the sender is to be told."""
        ...

    def discard(self) -> None:
        """The dataset will not be finished (or is already)."""
        ...


class KeptInstance:
    """A CT instance on its way into spool and ledger.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        As announced: by the command of C-STORE, by the File Meta Information of a file.
    study_instance_uid : str
        The only study that it may belong to; empty: any.

    Raises
    ------
    OutOfResources
        No space, or the spool cannot be written.
    """

    def __init__(
        self,
        session: ReceptionSession,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        announced_by: str = "the command",
        study_instance_uid: str = "",
    ) -> None:
        self._session = session
        self._sop_class_uid = sop_class_uid
        self._sop_instance_uid = sop_instance_uid
        self._transfer_syntax_uid = transfer_syntax_uid
        self._announced_by = announced_by
        self._study_instance_uid = study_instance_uid
        self._file = session.reception.spool.receive(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )

    def write(self, fragment: memoryview) -> None:
        """Append a fragment of the encoded dataset.

        Raises
        ------
        OutOfResources
        """
        self._file.write(fragment)

    def finish(self) -> Receipt:
        """Return when it is durable in spool and ledger.

        Raises
        ------
        ReceiveError
            It is not, and must not be acknowledged. So with every other exception.
        """
        header = self._read_header()
        association_id = self._session.association_id
        stored = self._file.keep()
        receipt = self._session.commit(
            Arrival(association_id, header, stored), self._file.make_durable
        )
        self._session.note_transfer(header)
        if receipt is Receipt.OWN_OUTPUT:
            # One of our own results came back: nothing in the ledger refers to this copy.
            self._session.forget(stored)
        return receipt

    def _read_header(self) -> InstanceHeader:
        header = read_dataset_header(
            self._file.fileno(),
            start=self._file.dataset_offset,
            end=self._file.size_bytes,
            transfer_syntax_uid=self._transfer_syntax_uid,
        )
        if header.sop_class_uid != self._sop_class_uid:
            raise DatasetMismatch(f"SOP Class UID differs from {self._announced_by}'s")
        if header.sop_instance_uid != self._sop_instance_uid:
            raise DatasetMismatch(f"SOP Instance UID differs from {self._announced_by}'s")
        if self._study_instance_uid not in ("", header.study_instance_uid):
            raise DatasetMismatch("Study Instance UID differs from the address's")
        return header

    def discard(self) -> None:
        """Forget the file; harmless after `finish`."""
        self._file.discard()


class IgnoredInstance:
    """An object of another storage class: taken, so that the study's route goes on."""

    def __init__(self, session: ReceptionSession, sop_class_uid: str) -> None:
        self._session = session
        self._sop_class_uid = sop_class_uid

    def write(self, fragment: memoryview) -> None:
        """Throw it away."""

    def finish(self) -> Receipt:
        """Count it."""
        self._session.count_ignored(self._sop_class_uid)
        return Receipt.IGNORED

    def discard(self) -> None:
        """Nothing is held."""


class Refused:
    """The rest of a dataset whose fate is sealed: read to its end, then answered with the error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def write(self, fragment: memoryview) -> None:
        """Drop it."""

    def finish(self) -> Receipt:
        """Raise what was wrong."""
        raise self._error

    def discard(self) -> None:
        """Nothing is held."""
