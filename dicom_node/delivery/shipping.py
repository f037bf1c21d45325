"""A shipment: waiting objects of one destination, sent over one association.

What is claimed and recorded, and when: :mod:`dicom_node.delivery.shipment`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.crashpoints import crash_point
from dicom_node.delivery.outcome import Outcome
from dicom_node.delivery.presentation import contexts
from dicom_node.delivery.scu import accepted_syntaxes, store
from dicom_node.delivery.shipment import (
    PATIENCE,
    Bookkeeping,
    Candidate,
    Choose,
    PendingDelivery,
    Ready,
    Record,
    Shipped,
)
from dicom_node.delivery.upper_layer import Association, Sender
from dicom_node.errors import (
    DeliveryError,
    PermanentDelivery,
    TransientDelivery,
    UnsendableObject,
)
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.settings import Peer

__all__ = ["Candidate", "Choose", "PendingDelivery", "Record", "Shipped", "ship"]


def ship(
    shipment: Sequence[PendingDelivery],
    peer: Peer,
    sender: Sender,
    *,
    choose: Choose,
    record: Record,
) -> Shipped:
    """Send `shipment` to `peer`; `record` is called exactly once for each delivery.

    An association that breaks costs the object under way an attempt; the others go on over a new
    one. Errors of the two callbacks pass through: what they were to record stays unrecorded.

    Parameters
    ----------
    shipment : sequence of PendingDelivery
        In the order in which they are sent.

    Returns
    -------
    Shipped
    """
    return _Shipment(peer, sender, choose, record).send(shipment)


class _Shipment:
    def __init__(self, peer: Peer, sender: Sender, choose: Choose, record: Record) -> None:
        self._peer = peer
        self._sender = sender
        self._books = Bookkeeping(choose, record)
        self._lost = 0  # associations
        self._refused = 0  # for want of resources, in a row

    def send(self, shipment: Sequence[PendingDelivery]) -> Shipped:
        shipped = self._books.shipped
        waiting = [ready for delivery in shipment if (ready := self._books.prepared(delivery))]
        while waiting:
            try:
                waiting = self._over_one_association(waiting)
            except DeliveryError as error:  # the association never came to be
                if isinstance(error, TransientDelivery):
                    shipped.peer_failure = str(error)
                self._books.give_back(waiting, error)
                waiting = []
        if self._lost and DeliveryEvent.ACCEPTED not in shipped.counts:
            shipped.peer_failure = "each association was lost before anything was stored"
        return shipped

    def _over_one_association(self, waiting: list[Ready]) -> list[Ready]:
        """Send over one association; return what is left when it breaks."""
        proposal = contexts(
            (
                (stored.sop_class_uid, stored.transfer_syntax_uid)
                for ready in waiting
                for _, stored in ready.candidates
            ),
            self._peer.compress,
        )
        with Association.request(
            self._sender, self._peer.host, self._peer.port, self._peer.ae_title, proposal
        ) as association:
            for index, ready in enumerate(waiting):
                if not self._deliver(association, ready):
                    return self._after_loss(waiting[index + 1 :])
                if self._refused >= PATIENCE:
                    error = TransientDelivery("not tried: the peer is out of resources")
                    self._books.shipped.peer_failure = "the peer is out of resources"
                    self._books.give_back(waiting[index + 1 :], error)
                    return []
        return []

    def _deliver(self, association: Association, ready: Ready) -> bool:
        """Send the best acceptable candidate; return whether the association still stands."""
        usable = (
            (candidate, stored, syntaxes)
            for candidate, stored in ready.candidates
            if (syntaxes := accepted_syntaxes(association, stored, self._peer.compress))
        )
        found = next(usable, None)
        if found is None:
            self._books.note(
                ready.delivery, None, Outcome.of_error(_not_accepted(association, ready))
            )
            return True
        candidate, stored, syntaxes = found
        self._books.choose(ready.delivery, candidate)
        stands = True
        try:
            outcome = store(association, stored, syntaxes)
        except UnsendableObject as error:
            outcome = Outcome.of_error(error)
        except TransientDelivery as error:
            association.abort()
            stands = False
            outcome = Outcome.of_error(error)
        crash_point("delivery.after_c_store")
        self._refused = self._refused + 1 if outcome.event is DeliveryEvent.TRANSIENT else 0
        self._books.note(ready.delivery, candidate.object_id, outcome)
        return stands

    def _after_loss(self, rest: list[Ready]) -> list[Ready]:
        self._lost += 1
        if self._lost < PATIENCE:
            return rest
        self._books.shipped.peer_failure = f"{self._lost} associations were lost"
        error = TransientDelivery("not tried: associations keep breaking")
        self._books.give_back(rest, error)
        return []


def _not_accepted(association: Association, ready: Ready) -> PermanentDelivery:
    classes = {stored.sop_class_uid for _, stored in ready.candidates}
    reasons = {reason for context, reason in association.refused.items() if context[0] in classes}
    return PermanentDelivery(
        f"the peer takes no {ready.delivery.slot}: {', '.join(sorted(reasons)) or 'not proposed'}"
    )
