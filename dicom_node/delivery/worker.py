"""One shipment: claimed in the ledger, sent, and each answer recorded as it comes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from dicom_node.audit import Auditor, Transfer
from dicom_node.delivery.breaker import (
    Breaker,
    BreakerState,
    Permission,
    after_failure,
    after_success,
    permission,
)
from dicom_node.delivery.connection_test import StepResult, probe
from dicom_node.delivery.proving import proof_in_s, prove
from dicom_node.delivery.retry import backoff_s
from dicom_node.delivery.scu import Outcome, sender_of
from dicom_node.delivery.shipping import Candidate, PendingDelivery, Shipped, ship
from dicom_node.delivery.stow_shipping import ship_by_stow
from dicom_node.errors import ConfigurationError, LeaseLost
from dicom_node.ledger import Ledger, ShipmentClaim, Tally
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.shipments import BreakerRow
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings, Peer

__all__ = ["DeliveryWorker"]

_log = get_logger(__name__)


class DeliveryWorker:
    """Takes shipments to their destinations, one at a time.

    Parameters
    ----------
    settings : callable
        The settings in force.
    ledger : Ledger
    auditor : Auditor, optional
        Hears what went where.
    tally : Tally, optional
        Counts what came of each attempt.
    """

    def __init__(
        self,
        settings: Callable[[], NodeSettings],
        ledger: Ledger,
        auditor: Auditor | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._settings = settings
        self._ledger = ledger
        self._auditor = auditor or Auditor(settings(), "deliver")
        self._owner = this_owner()

    def run(self, shipment_id: int) -> None:
        """Send what the destination does not hold yet; a second nudge does nothing."""
        settings = self._settings()
        quiet = settings.quiet(self._ledger.database.now())
        claim = self._ledger.shipments.claim(
            shipment_id, self._owner, settings.delivery.lease_s, quiet=quiet
        )
        if claim is None:
            return
        log = _log.bind(shipment_id=shipment_id, destination=claim.destination)
        try:
            self._take(claim, settings)
        except LeaseLost as error:
            log.warning("shipment abandoned", reason=str(error))
        except Exception as error:
            log.exception("shipment failed")
            self._wait(claim, settings, f"delivery failed unexpectedly ({type(error).__name__})")

    def _take(self, claim: ShipmentClaim, settings: NodeSettings) -> None:
        try:
            peer = settings.peer(claim.destination)
        except ConfigurationError:
            self._wait(claim, settings, "the destination is no longer configured")
            return
        if not peer.is_destination:
            self._wait(claim, settings, "the destination is disabled")
            return
        if not self._may_send(claim, peer, settings):
            return
        shipped = Shipped()
        if claim.pending:
            shipped = self._ship(claim, peer, settings)
            self._keep_breaker(peer, settings, shipped.peer_failure)
        # A peer that cannot be reached now is asked for its proofs another time.
        error = shipped.peer_failure or prove(self._ledger, claim, peer, settings, self._auditor)
        transient = shipped.counts.get(DeliveryEvent.TRANSIENT, 0)
        if transient or error:
            self._wait(claim, settings, error or f"{transient} objects not sent")
        else:
            self._ledger.shipments.release(claim, retry_in_s=0.0)
            if claim.pending:
                _log.info(
                    "shipment sent",
                    destination=claim.destination,
                    **{str(event): count for event, count in shipped.counts.items()},
                )

    def _ship(self, claim: ShipmentClaim, peer: Peer, settings: NodeSettings) -> Shipped:
        given_up = (
            self._ledger.database.now() - claim.created_at >= settings.delivery.give_up_after_s
        )

        def choose(delivery_id: int, object_id: int, instead_of: int | None = None) -> None:
            self._ledger.shipments.choose(claim, delivery_id, object_id, instead_of)

        sop_classes = {
            option.object_id: option.sop_class_uid
            for item in claim.pending
            for option in item.candidates
        }
        sent: Counter[str] = Counter()
        recorded: set[int] = set()

        def record(delivery_id: int, object_id: int | None, outcome: Outcome) -> None:
            event = outcome.event
            recorded.add(delivery_id)
            if event is DeliveryEvent.ACCEPTED and object_id is not None:
                sent[sop_classes[object_id]] += 1
            if event is DeliveryEvent.TRANSIENT and given_up:
                event = DeliveryEvent.GIVE_UP
            self._ledger.shipments.record(
                claim,
                delivery_id,
                event,
                lease_s=settings.delivery.lease_s,
                status=outcome.status,
                error=outcome.words,
                proof_in_s=proof_in_s(settings, peer),
            )
            self._tally.count("deliveries", peer.name, event)

        pending = [
            PendingDelivery(
                item.delivery_id,
                item.slot,
                tuple(
                    Candidate(
                        option.object_id,
                        option.sop_class_uid,
                        option.sop_instance_uid,
                        settings.results_dir / option.path,
                        option.sha256,
                        option.rank,
                        chosen=item.chosen,
                    )
                    for option in item.candidates
                ),
            )
            for item in claim.pending
        ]
        try:
            if peer.stow_url:
                return ship_by_stow(pending, peer, settings, choose=choose, record=record)
            return ship(pending, peer, sender_of(settings, peer), choose=choose, record=record)
        finally:
            self._audit(claim, peer, sent, failed=len(recorded) - sent.total())

    def _audit(self, claim: ShipmentClaim, peer: Peer, sent: Counter[str], failed: int) -> None:
        if not sent:
            return  # nothing left the node
        transfer = Transfer(*self._ledger.shipments.subject(claim.shipment_id), sop_classes=sent)
        words = f"{failed} objects were not accepted" if failed else ""
        address = peer.stow_host or peer.host
        self._auditor.sent(
            transfer, ae_title=peer.ae_title, address=address, failed=failed > 0, words=words
        )

    # -- the destination's breaker ----------------------------------------------------------------

    def _may_send(self, claim: ShipmentClaim, peer: Peer, settings: NodeSettings) -> bool:
        """Ask the breaker; probe the destination where it says so. False: the shipment waits."""
        delivery = settings.delivery
        now = self._ledger.database.now()
        row = self._ledger.shipments.breaker(peer.name)
        verdict, breaker = permission(_breaker(row), now, cap_s=delivery.retry_cap_s)
        if verdict is Permission.SEND:
            return True
        if verdict is Permission.WAIT:
            error = row.last_error if row else ""
            self._ledger.shipments.release(
                claim, retry_in_s=max(0.5, breaker.retry_at - now), error=error
            )
            return False
        self._write_breaker(peer, breaker, row.last_error if row else "")
        step = probe(settings, peer)
        if step.result is not StepResult.OK:
            self._keep_breaker(peer, settings, step.words)
            self._wait(claim, settings, step.words)
            return False
        self._keep_breaker(peer, settings, "")
        return True

    def _keep_breaker(self, peer: Peer, settings: NodeSettings, failure: str) -> None:
        delivery = settings.delivery
        row = self._ledger.shipments.breaker(peer.name)
        if not failure:
            if row is not None:
                self._write_breaker(peer, after_success(_breaker(row)), "")
            return
        breaker = after_failure(
            _breaker(row),
            self._ledger.database.now(),
            limit=delivery.breaker_failures,
            first_s=delivery.retry_first_s,
            cap_s=delivery.retry_cap_s,
            uniform=random.random(),  # noqa: S311 - jitter, no secret
        )
        if breaker.state is BreakerState.OPEN:
            _log.warning("destination is left alone for a while", destination=peer.name)
        self._write_breaker(peer, breaker, failure)

    def _write_breaker(self, peer: Peer, breaker: Breaker, error: str) -> None:
        self._ledger.shipments.set_breaker(
            BreakerRow(peer.name, breaker.state, breaker.failures, breaker.retry_at, error)
        )

    def _wait(self, claim: ShipmentClaim, settings: NodeSettings, error: str) -> None:
        """Give the shipment back for a later attempt."""
        wait = backoff_s(
            claim.attempts + 1,
            first_s=settings.delivery.retry_first_s,
            cap_s=settings.delivery.retry_cap_s,
            uniform=random.random(),  # noqa: S311 - jitter, no secret
        )
        self._ledger.shipments.release(claim, retry_in_s=wait, error=error)
        _log.warning(
            "shipment waits", destination=claim.destination, in_s=round(wait, 1), error=error
        )


def _breaker(row: BreakerRow | None) -> Breaker:
    if row is None:
        return Breaker()
    return Breaker(BreakerState(row.state), row.failures, row.probe_at)
