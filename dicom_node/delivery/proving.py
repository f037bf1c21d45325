"""After sending: asking the destination to prove that it holds what it accepted.

By storage commitment where the peer's ``commitment`` says so, by C-FIND or QIDO-RS where its
``verify`` does; with both, the query has the word when no report came. Each is tried a bounded
number of times, an object that the destination lacks is sent again a bounded number of times, and
what ends without proof ends as ``commit_failed`` with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dicom_node.audit import Auditor
from dicom_node.crashpoints import crash_point
from dicom_node.delivery.commitment import COMMITMENT_CONTEXTS, CommitmentAssociation
from dicom_node.delivery.qido import list_by_qido
from dicom_node.delivery.scu import sender_of
from dicom_node.errors import DeliveryError, PermanentDelivery, TransientDelivery
from dicom_node.ledger import Ledger, ShipmentClaim, Transaction, Unproven
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import QueryFailed, count_instances, list_instances
from dicom_node.storage_commitment import (
    CommitmentReport,
    EventReport,
    ReportStatus,
    answer_report,
)

__all__ = ["proof_in_s", "prove"]

_log = get_logger(__name__)

# N-ACTION status (PS3.7 §10.1.4.1.10) after which asking again is useless.
_NEVER = {0x0112, 0x0115, 0x0117, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211}


def proof_in_s(settings: NodeSettings, peer: Peer) -> float | None:
    """Return how long after an object is accepted its proof is asked for; None: never."""
    if not peer.owes_proof:
        return None
    return 0.0 if peer.commitment == "request" else settings.commitment.verify_after_s


def prove(
    ledger: Ledger, claim: ShipmentClaim, peer: Peer, settings: NodeSettings, auditor: Auditor
) -> str:
    """Ask `peer` for the proofs that are due, once; return why it could not be asked, or nothing.

    Raises
    ------
    LeaseLost
    """
    return _Proof(ledger, claim, peer, settings, auditor).ask()


class _Proof:
    def __init__(
        self,
        ledger: Ledger,
        claim: ShipmentClaim,
        peer: Peer,
        settings: NodeSettings,
        auditor: Auditor,
    ) -> None:
        self._ledger = ledger
        self._claim = claim
        self._peer = peer
        self._settings = settings
        self._rules = settings.commitment
        self._auditor = auditor

    def ask(self) -> str:
        due = self._ledger.commitments.unproven(self._claim)
        if due and not self._peer.owes_proof:
            self._ledger.commitments.waive(self._claim)
            return ""
        by_request = [one for one in due if self._is_asked_by_request(one)]
        by_query = [one for one in due if one not in by_request and self._may_query]
        unanswered = [one for one in due if one not in by_request and one not in by_query]
        for one in unanswered:
            words = f"no storage commitment report came to {self._rules.max_requests} requests"
            words += f" ({one.error})" if one.error else ""
            self._conclude([one], DeliveryEvent.COMMIT_EXHAUSTED, words)
        error = self._request(by_request) or self._query(by_query)
        if error and self._has_waited_long_enough():
            self._conclude([*by_request, *by_query], DeliveryEvent.COMMIT_EXHAUSTED, error)
            return ""
        return error

    def _has_waited_long_enough(self) -> bool:
        waited = self._ledger.database.now() - self._claim.created_at
        return waited >= self._settings.delivery.give_up_after_s

    @property
    def _may_query(self) -> bool:
        return self._peer.verify != "none"

    def _is_asked_by_request(self, one: Unproven) -> bool:
        return self._peer.commitment == "request" and one.proofs < self._rules.max_requests

    # -- storage commitment ---------------------------------------------------------------------

    def _request(self, objects: Sequence[Unproven]) -> str:
        if not objects:
            return ""
        try:
            with CommitmentAssociation.request(
                sender_of(self._settings, self._peer),
                self._peer.host,
                self._peer.port,
                self._peer.ae_title,
                COMMITMENT_CONTEXTS,
            ) as association:
                association.on_report = self._take
                return self._request_over(association, objects)
        except PermanentDelivery as error:
            self._never_mind(objects, str(error))
            return ""
        except TransientDelivery as error:
            return f"storage commitment: {error}"

    def _request_over(self, association: CommitmentAssociation, objects: Sequence[Unproven]) -> str:
        commitments, claim = self._ledger.commitments, self._claim
        transaction = commitments.begin(claim, objects, self._settings.delivery.lease_s)
        crash_point("delivery.before_n_action")
        try:
            response = association.request_commitment(transaction)
        except DeliveryError as error:
            # Orthanc, for one, aborts where it does not know our AE title: that is an answer, too.
            words = f"no answer to the commitment request: {error}"
            self._refused(transaction, words, None)
            raise
        crash_point("delivery.after_n_action")
        if response.status == 0x0000:
            commitments.asked(claim, transaction, report_within_s=self._rules.report_within_s)
            _log.info("commitment requested", destination=self._peer.name, objects=len(objects))
            try:
                association.take_reports(self._rules.linger_s)
            except TransientDelivery as error:  # the report may come in another way
                _log.info("no report on this association", reason=str(error))
            return ""
        words = f"the peer refused storage commitment: status 0x{response.status:04X}"
        words += f", {response.comment}" if response.comment else ""
        self._refused(transaction, words, response.status)
        if response.status in _NEVER and self._peer.verify == "none":
            self._conclude(objects, DeliveryEvent.COMMIT_EXHAUSTED, words)
        return ""

    def _refused(self, transaction: Transaction, words: str, status: int | None) -> None:
        never = status in _NEVER
        self._ledger.commitments.refused(
            self._claim,
            transaction,
            words,
            status=status,
            ask_in_s=0.0 if never else self._settings.delivery.retry_cap_s,
            proofs=self._rules.max_requests if never else None,
        )
        _log.warning("commitment refused", destination=self._peer.name, reason=words)

    def _never_mind(self, objects: Sequence[Unproven], error: str) -> None:
        """Note that this peer does not offer storage commitment: C-FIND, or no proof at all."""
        _log.warning("no storage commitment", destination=self._peer.name, reason=error)
        if self._may_query:
            self._query(objects)
        else:
            self._conclude(objects, DeliveryEvent.COMMIT_EXHAUSTED, error)

    def _take(self, event: EventReport) -> int:
        try:
            return answer_report(event, self._take_report)
        except Exception as error:  # noqa: BLE001  the DIMSE edge: recorded and answered
            _log.exception("report not taken", error=type(error).__name__)
            return ReportStatus.PROCESSING_FAILURE

    def _take_report(self, report: CommitmentReport) -> bool:
        taken = self._ledger.commitment_reports.take(
            report, {self._peer.name}, max_resends=self._rules.max_resends
        )
        self._auditor.commitment_reported(
            taken, ae_title=self._peer.ae_title, address=self._peer.host
        )
        return taken is not None

    # -- C-FIND, QIDO-RS -----------------------------------------------------------------------

    def _query(self, objects: Sequence[Unproven]) -> str:
        if not objects:
            return ""
        study_instance_uid = self._ledger.commitments.study_instance_uid(self._claim)
        by_series: dict[str, list[Unproven]] = {}
        for one in objects:
            by_series.setdefault(one.series_instance_uid, []).append(one)
        for series_instance_uid, members in by_series.items():
            try:
                is_held = self._held(study_instance_uid, series_instance_uid)
            except QueryFailed as error:
                return f"verification: {error}"
            if is_held is None:
                asked = {"c-find": "C-FIND", "qido": "QIDO-RS"}[self._peer.verify]
                words = f"the peer answers no {asked} that tells what it holds"
                self._conclude(members, DeliveryEvent.COMMIT_EXHAUSTED, words)
                continue
            found = [one for one in members if is_held(one)]
            self._conclude(found, DeliveryEvent.FOUND, "")
            self._miss([one for one in members if one not in found])
        return ""

    def _held(self, study_uid: str, series_uid: str) -> Callable[[Unproven], bool] | None:
        """Ask for one series; return whether the peer lists an object, None if it cannot tell."""
        if self._peer.verify == "qido":
            listed = list_by_qido(self._settings, self._peer, study_uid, series_uid)
            return None if listed is None else lambda one: one.sop_instance_uid in listed
        uids = list_instances(self._settings, self._peer, study_uid, series_uid)
        if uids is not None:
            return lambda one: one.sop_instance_uid in uids
        count = count_instances(self._settings, self._peer, study_uid, series_uid)
        if count is None:
            return None
        # Ours alone: nobody else adds to a series that this node made.
        complete = count >= self._ledger.commitments.objects_in_series(self._claim)[series_uid]
        return lambda _one: complete

    def _miss(self, objects: Sequence[Unproven]) -> None:
        """Look again later, send again, or give up."""
        looked = 0 if self._peer.commitment == "none" else self._rules.max_requests
        for one in objects:
            looks = max(one.proofs - looked, 0) + 1
            if looks < self._rules.max_requests:
                wait = self._rules.verify_after_s * 2.0**looks
                self._ledger.commitments.look_again(self._claim, [one.delivery_id], wait)
                continue
            words = "the peer accepted it and does not list it"
            if one.resends < self._rules.max_resends:
                self._conclude([one], DeliveryEvent.COMMIT_FAILURE, words)
            else:
                words += f", though it was sent {one.resends + 1} times"
                self._conclude([one], DeliveryEvent.COMMIT_EXHAUSTED, words)

    # -- the end --------------------------------------------------------------------------------

    def _conclude(self, objects: Sequence[Unproven], event: DeliveryEvent, error: str) -> None:
        if not objects:
            return
        if event is not DeliveryEvent.FOUND:
            _log.warning(
                "no proof", destination=self._peer.name, objects=len(objects), reason=error
            )
        self._ledger.commitments.conclude(
            self._claim, [one.delivery_id for one in objects], event, error
        )
