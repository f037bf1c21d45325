"""N-EVENT-REPORT: a peer tells what became of what we sent it (PS3.4 J.3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dicom_node.crashpoints import crash_point
from dicom_node.domain import Receipt
from dicom_node.errors import CannotUnderstand, OutOfResources
from dicom_node.ledger import TakenReport
from dicom_node.listener.command_set import Command, encode_response
from dicom_node.listener.negotiation import AcceptedContext
from dicom_node.logs import get_logger
from dicom_node.reception.status import SOPClassNotSupported, status_of
from dicom_node.storage_commitment import (
    MAX_REPORT_BYTES,
    PUSH_MODEL,
    CommitmentReport,
    EventReport,
    ReportStatus,
    answer_report,
)

__all__ = ["CommitmentReports", "Heard", "ReportInProgress", "answer_event"]

_log = get_logger(__name__)
_IMPLICIT_VR = "1.2.840.10008.1.2"
Heard = Callable[[TakenReport | None], None]
"""Is told of each report what it changed; None: nobody asked for it."""


class CommitmentReports(Protocol):
    """The ledger's door for reports: :class:`dicom_node.ledger.CommitmentReports`."""

    def take(
        self, report: CommitmentReport, peers: frozenset[str], *, max_resends: int
    ) -> TakenReport | None:
        """Make a report durable; None if none of `peers` was asked by its Transaction UID."""
        ...


class ReportInProgress:
    """The data set of a report: kept in memory, of bounded size.

    Raises
    ------
    SOPClassNotSupported
        The presentation context is not that of storage commitment, or nobody takes reports here.
    """

    def __init__(
        self,
        command: Command,
        context: AcceptedContext,
        reports: CommitmentReports | None,
        reporters: frozenset[str],
        max_resends: int,
        heard: Heard = lambda _taken: None,
    ) -> None:
        if context.abstract_syntax != PUSH_MODEL or reports is None:
            raise SOPClassNotSupported("reports come in a storage commitment context")
        self._command = command
        self._context = context
        self._reports = reports
        self._reporters = reporters
        self._max_resends = max_resends
        self._heard = heard
        self._data = bytearray()

    def write(self, fragment: memoryview) -> None:
        """Take the next fragment."""
        if len(self._data) + len(fragment) > MAX_REPORT_BYTES:
            raise OutOfResources("the report is larger than this node reads")
        self._data += fragment

    def finish(self) -> Receipt:
        """Refuse: a report is no instance."""
        raise CannotUnderstand("a report is no instance")

    def discard(self) -> None:
        """Forget it."""
        self._data.clear()

    def answer(self) -> int:
        """Make the report durable; return the DIMSE status."""
        return answer_report(
            EventReport(
                self._command.sop_class_uid,
                self._command.sop_instance_uid,
                self._command.event_type,
                bytes(self._data),
                implicit_vr=self._context.transfer_syntax == _IMPLICIT_VR,
            ),
            self._take,
        )

    def _take(self, report: CommitmentReport) -> bool:
        crash_point("listener.in_report")
        taken = self._reports.take(report, self._reporters, max_resends=self._max_resends)
        crash_point("listener.after_report")
        _log.info(
            "commitment_reported" if taken else "commitment_report_unknown",
            peers=sorted(self._reporters),
            committed=len(report.committed),
            failed=len(report.failed),
        )
        self._heard(taken)
        return taken is not None


def answer_event(command: Command, dataset: object) -> bytes:
    """Return the response to an N-EVENT-REPORT whose data set is complete."""
    try:
        if isinstance(dataset, ReportInProgress):
            status = dataset.answer()
        elif dataset is None:
            status = ReportStatus.INVALID_ARGUMENT
        else:  # refused before
            status = _refusal(dataset)
    except Exception as error:  # noqa: BLE001  the DIMSE edge: recorded and answered
        _log.error("commitment_report_failed", error=type(error).__name__)
        status = ReportStatus.PROCESSING_FAILURE
    return encode_response(
        command,
        status,
        sop_class_uid=PUSH_MODEL,
        sop_instance_uid=command.sop_instance_uid if status == 0 else "",
        event_type=command.event_type,
    )


def _refusal(dataset: object) -> int:
    try:
        dataset.finish()  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001  what it raises says why it was refused
        return status_of(error)[0]
    return ReportStatus.PROCESSING_FAILURE
