"""Storage commitment as SCP: requests are answered, reports follow as ordered (PS3.4 Annex J)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.simulated_pacs.behaviour import Behaviour
from dicom_node.simulated_pacs.holdings import Holdings
from dicom_node.storage_commitment import new_transaction_uid

__all__ = ["CommitmentRequest", "CommitmentScp", "SentReport"]

_NO_SUCH_INSTANCE, _PROCESSING_FAILURE = 0x0112, 0x0110


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """An N-ACTION that was accepted."""

    number: int
    calling_ae_title: str
    transaction_uid: str
    references: tuple[tuple[str, str], ...]  # SOP class and instance UID


@dataclass(frozen=True, slots=True)
class SentReport:
    """A report that was sent, and how it was answered; -1: not at all."""

    transaction_uid: str
    via: str
    committed: int
    failed: int
    status: int


class CommitmentScp:
    """Takes requests, and reports on them in threads of its own.

    Attributes
    ----------
    requests : list of CommitmentRequest
    reports : list of SentReport
    """

    def __init__(
        self, ae_title: str, holdings: Holdings, behaviour: Behaviour, watch: Callable[[str], None]
    ) -> None:
        self._ae_title = ae_title
        self._holdings = holdings
        self._addresses = behaviour.move_destinations
        self._behaviour = behaviour.commitment
        self._watch = watch
        self._lock = threading.Lock()
        self._later: dict[str, list[Dataset]] = {}
        self._stopping = threading.Event()
        self.requests: list[CommitmentRequest] = []
        self.reports: list[SentReport] = []

    def stop(self) -> None:
        """Send no more reports."""
        self._stopping.set()

    # -- requests -------------------------------------------------------------------------------

    def action(self, event: Any) -> tuple[int, Dataset | None]:
        """Handle an N-ACTION request."""
        _send_whole_messages(event.assoc)
        information = event.action_information
        request = CommitmentRequest(
            len(self.requests),
            str(event.assoc.requestor.ae_title).strip(),
            str(information.TransactionUID),
            tuple(
                (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in information.ReferencedSOPSequence
            ),
        )
        self.requests.append(request)
        refused = self._behaviour.status and request.number < self._behaviour.refused_first
        status = self._behaviour.status if refused else 0x0000
        self._watch(
            f"N-ACTION {request.calling_ae_title}: {len(request.references)} objects, "
            f"transaction {request.transaction_uid} -> 0x{status:04X}"
        )
        with self._lock:
            owed = self._later.pop(request.calling_ae_title, [])
        if owed:
            # After our answer: a requestor that gets a request in its place may well hang up.
            self._start(self._send_over, event.assoc, owed, "later")
        if status == 0x0000 and request.number >= self._behaviour.silent_first:
            self._start(self._report, request, event.assoc)
        return status, None

    # -- reports --------------------------------------------------------------------------------

    def _start(self, function: Callable[..., object], *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _report(self, request: CommitmentRequest, association: Any) -> None:
        if self._stopping.wait(self._behaviour.delay_s):
            return
        report = self._verdict(request)
        reports = [report] * self._behaviour.copies
        if self._behaviour.unknown:
            stranger = self._verdict(request)
            stranger.TransactionUID = new_transaction_uid()
            reports.insert(0, stranger)
        self._send(request.calling_ae_title, association, reports)

    def _verdict(self, request: CommitmentRequest) -> Dataset:
        behaviour, number = self._behaviour, request.number
        references = request.references
        if number < behaviour.partial_first:
            references = references[: (len(references) + 1) // 2]
        committed: list[Dataset] = []
        failed: list[Dataset] = []
        for index, (sop_class_uid, sop_instance_uid) in enumerate(references):
            item = Dataset()
            item.ReferencedSOPClassUID = sop_class_uid
            item.ReferencedSOPInstanceUID = sop_instance_uid
            reason = 0
            if sop_instance_uid not in self._holdings:
                reason = _NO_SUCH_INSTANCE
            elif number < behaviour.fail_first or (index % 2 and number < behaviour.half_first):
                reason = _PROCESSING_FAILURE
            if reason:
                item.FailureReason = reason
            (failed if reason else committed).append(item)
        report = Dataset()
        report.TransactionUID = request.transaction_uid
        if committed:
            report.ReferencedSOPSequence = committed
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _send(self, caller: str, association: Any, reports: Sequence[Dataset]) -> None:
        via = self._behaviour.via
        if via == "same" and association.is_established:
            left = self._send_over(association, reports, "same")
            if not left:
                return
            reports = left
        if via != "later" and caller in self._addresses and self._send_new(caller, reports):
            return
        self._watch(f"report to {caller} waits for its next association")
        with self._lock:
            self._later.setdefault(caller, []).extend(reports)

    def _send_new(self, caller: str, reports: Sequence[Dataset]) -> bool:
        """Open an association as SCP, which the role selection says (PS3.7 D.3.3.4)."""
        ae = AE(self._ae_title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        host, port = self._addresses[caller]
        deadline = time.monotonic() + 60.0
        while not self._stopping.is_set():
            association = None
            if _listens(host, port):
                association = ae.associate(host, port, ae_title=caller, ext_neg=[role])
            if association is not None and association.is_established:
                left = self._send_over(association, reports, "new")
                association.release()
                return not left
            self._watch(f"report to {caller}: {host}:{port} takes no association")
            if time.monotonic() > deadline or self._stopping.wait(1.0):
                break
        return False

    def _send_over(self, association: Any, reports: Sequence[Dataset], via: str) -> list[Dataset]:
        """Send reports over a standing association; return those that were not answered."""
        left = []
        for number, report in enumerate(reports, start=1):
            failed = len(report.get("FailedSOPSequence") or ())
            committed = len(report.get("ReferencedSOPSequence") or ())
            status = -1
            try:
                answer, _ = association.send_n_event_report(
                    report,
                    2 if failed else 1,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                    msg_id=number,
                )
                status = int(answer.get("Status", -1))
            except (RuntimeError, ValueError, AttributeError) as error:  # it is gone
                self._watch(f"report not sent: {error}")
            self._watch(
                f"N-EVENT-REPORT ({via}) transaction {report.TransactionUID}: {committed} "
                f"committed, {failed} failed -> {f'0x{status:04X}' if status >= 0 else 'no answer'}"
            )
            self.reports.append(
                SentReport(str(report.TransactionUID), via, committed, failed, status)
            )
            if status < 0:
                left.append(report)
        return left


def _send_whole_messages(association: Any) -> None:
    """Let no two threads mix the PDUs of their messages: pynetdicom sends them without a lock."""
    send, lock = association.dimse.send_msg, threading.Lock()
    if getattr(send, "whole", False):
        return

    def send_whole(*arguments: Any, **options: Any) -> None:
        with lock:
            send(*arguments, **options)

    send_whole.whole = True  # type: ignore[attr-defined]
    association.dimse.send_msg = send_whole


def _listens(host: str, port: int) -> bool:
    """Look by hand first: pynetdicom leaves the socket of a failed connection open."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True
