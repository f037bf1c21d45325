"""C-STORE: one dataset from its first fragment to its durable receipt (PS3.4 Annex B)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from dicom_node.audit import Transfer
from dicom_node.domain import Receipt, StoredInstance, is_legal_uid
from dicom_node.errors import DatasetMismatch
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_dataset_header
from dicom_node.ledger import Arrival, Tally
from dicom_node.listener.command_set import Command, CommandField
from dicom_node.listener.contexts import CT_STORAGE
from dicom_node.listener.group_commit import GroupCommit
from dicom_node.listener.intake import Intake
from dicom_node.listener.negotiation import AcceptedContext
from dicom_node.listener.reports import CommitmentReports, ReportInProgress
from dicom_node.listener.status import SOPClassNotSupported
from dicom_node.listener.water_marks import WaterMarks
from dicom_node.spool import IncomingFile, Spool

__all__ = ["Dataset", "Session", "Storage"]

_MOST_STUDIES = 1000  # of one association, that the audit trail tells apart


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


@dataclass(frozen=True, slots=True)
class Storage:
    """What all associations of one listener share."""

    spool: Spool
    intake: Intake
    group_commit: GroupCommit
    reports: CommitmentReports | None = None
    marks: WaterMarks | None = None
    tally: Tally = field(default_factory=Tally)


class Session:
    """The storage side of one association; the ledger hears of it at its first C-STORE."""

    def __init__(
        self,
        storage: Storage,
        *,
        calling_ae: str,
        called_ae: str,
        address: str,
        reporters: frozenset[str] = frozenset(),
        max_resends: int = 0,
        heard: Callable[..., None] = lambda _taken, **_peer: None,
    ) -> None:
        self._storage = storage
        self._reporters = reporters  # names of the destinations that this caller is
        self._max_resends = max_resends
        self._heard = partial(heard, ae_title=calling_ae, address=address)
        self._who = {"calling_ae": calling_ae, "called_ae": called_ae, "address": address}
        self._association_id: int | None = None
        self.calling_ae = calling_ae
        self.transfers: dict[str, Transfer] = {}  # study instance UID → what came of it
        self.receipts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()

    @property
    def association_id(self) -> int:
        """The ledger's id of this association."""
        if self._association_id is None:
            self._association_id = self._storage.intake.open_association(**self._who)
        return self._association_id

    def begin(self, command: Command, context: AcceptedContext) -> Dataset:
        """Prepare for the dataset of a C-STORE-RQ or N-EVENT-REPORT-RQ.

        Raises
        ------
        ReceiveError
            The command alone is reason enough to refuse.
        """
        if command.field == CommandField.N_EVENT_REPORT_RQ:
            return ReportInProgress(
                command,
                context,
                self._storage.reports,
                self._reporters,
                self._max_resends,
                self._heard,
            )
        if command.sop_class_uid != context.abstract_syntax:
            raise SOPClassNotSupported("SOP Class UID is not that of the presentation context")
        if not is_legal_uid(command.sop_instance_uid):
            raise DatasetMismatch("Affected SOP Instance UID is missing or illegal")
        if command.sop_class_uid not in CT_STORAGE:
            return _Ignored(self, command.sop_class_uid)
        file = self._storage.spool.receive(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax,
        )
        return _Kept(self, command, context, file)

    def commit(self, arrival: Arrival) -> Receipt:
        """Make an arrival durable, with whatever other associations bring now."""
        return self._storage.group_commit.commit(arrival)

    def note_answer(self, outcome: str, status: int) -> None:
        """Count what a C-STORE was answered."""
        self.receipts[outcome] += 1
        self._storage.tally.count("c_store", outcome, f"0x{status:04X}")

    def note_transfer(self, header: InstanceHeader) -> None:
        """Remember for the audit trail what was taken, of the studies that one route holds."""
        uid = header.study_instance_uid
        if uid not in self.transfers:
            if len(self.transfers) >= _MOST_STUDIES:
                uid = ""  # counted all the same, under no study
            self.transfers.setdefault(uid, Transfer(uid, header.patient_id if uid else ""))
        self.transfers[uid].sop_classes[header.sop_class_uid] += 1

    def forget(self, stored: StoredInstance) -> None:
        """Delete an instance that the ledger did not take."""
        self._storage.spool.remove(stored.digest)

    def count_ignored(self, sop_class_uid: str) -> None:
        """Note an object that was taken and thrown away."""
        _ = self.association_id
        self._ignored[sop_class_uid] += 1

    def close(self, outcome: str) -> None:
        """Tell the ledger how the association ended, if it knows of it.

        Raises
        ------
        Exception
            Whatever the ledger raises.
        """
        self._storage.tally.count("associations", outcome)
        if self._association_id is not None:
            self._storage.intake.close_association(
                self._association_id, outcome=outcome, ignored=self._ignored
            )


class _Kept:
    """A CT instance on its way into spool and ledger."""

    def __init__(
        self, session: Session, command: Command, context: AcceptedContext, file: IncomingFile
    ) -> None:
        self._session = session
        self._command = command
        self._transfer_syntax = context.transfer_syntax
        self._file = file

    def write(self, fragment: memoryview) -> None:
        self._file.write(fragment)

    def finish(self) -> Receipt:
        header = self._read_header()
        association_id = self._session.association_id
        stored = self._file.keep()
        receipt = self._session.commit(Arrival(association_id, header, stored))
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
            transfer_syntax_uid=self._transfer_syntax,
        )
        if header.sop_class_uid != self._command.sop_class_uid:
            raise DatasetMismatch("SOP Class UID differs from the command's")
        if header.sop_instance_uid != self._command.sop_instance_uid:
            raise DatasetMismatch("SOP Instance UID differs from the command's")
        return header

    def discard(self) -> None:
        self._file.discard()


class _Ignored:
    """An object of another storage class: taken, so that the study's route goes on."""

    def __init__(self, session: Session, sop_class_uid: str) -> None:
        self._session = session
        self._sop_class_uid = sop_class_uid

    def write(self, fragment: memoryview) -> None:
        pass

    def finish(self) -> Receipt:
        self._session.count_ignored(self._sop_class_uid)
        return Receipt.IGNORED

    def discard(self) -> None:
        pass


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
