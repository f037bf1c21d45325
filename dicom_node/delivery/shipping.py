"""A shipment: waiting objects of one destination, sent over one association or several at once.

What is claimed and recorded, and when: :mod:`dicom_node.delivery.shipment`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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

_WORTH_ONE = 4  # objects: fewer are sent before another association is open


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
    one. Of several at once (`peer.associations`) those that the peer grants share what waits. The
    callbacks are called by one of them at a time; their errors pass through, and what they were to
    record stays unrecorded.

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
    """Objects that wait, and the associations that take them: as many as the peer grants."""

    def __init__(self, peer: Peer, sender: Sender, choose: Choose, record: Record) -> None:
        self._peer = peer
        self._sender = sender
        self._books = Bookkeeping(choose, record)
        self._guard = threading.Lock()
        self._waiting: deque[Ready] = deque()
        self._ended: DeliveryError | None = None  # why the rest is not tried
        self._lost = 0  # associations
        self._refused = 0  # for want of resources, in a row

    def send(self, shipment: Sequence[PendingDelivery]) -> Shipped:
        shipped = self._books.shipped
        self._waiting.extend(
            ready for delivery in shipment if (ready := self._books.prepared(delivery))
        )
        number = min(self._peer.associations, max(1, len(self._waiting) // _WORTH_ONE))
        if number == 1:
            errors = [self._work()]
        else:
            with ThreadPoolExecutor(number, "association") as pool:
                errors = list(pool.map(lambda _: self._work(), range(number)))
        if self._waiting:
            error = self._ended or next(filter(None, errors))
            if self._ended is None and isinstance(error, TransientDelivery):
                shipped.peer_failure = str(error)
            self._books.give_back(list(self._waiting), error)
        if self._lost and DeliveryEvent.ACCEPTED not in shipped.counts:
            shipped.peer_failure = "each association was lost before anything was stored"
        return shipped

    def _work(self) -> DeliveryError | None:
        """Send what waits, over one association after another; return why there is none more.

        Where the peer grants others and not this one, they take what waits.
        """
        try:
            while self._waiting and self._ended is None:
                try:
                    self._over_one_association()
                except DeliveryError as error:  # the association never came to be
                    return error
        except BaseException:  # of a callback: nobody goes on
            self._ended = TransientDelivery("not tried: what was sent could not be recorded")
            raise
        return None

    def _over_one_association(self) -> None:
        """Send until nothing waits or the association breaks."""
        with self._guard:
            proposal = contexts(
                (
                    (stored.sop_class_uid, stored.transfer_syntax_uid)
                    for ready in self._waiting
                    for _, stored in ready.candidates
                ),
                self._peer.compress,
            )
        if not proposal:
            return  # the others took the last
        with Association.request(
            self._sender, self._peer.host, self._peer.port, self._peer.ae_title, proposal
        ) as association:
            while (ready := self._next()) is not None:
                if not self._deliver(association, ready):
                    self._note_loss()
                    return

    def _next(self) -> Ready | None:
        with self._guard:
            return self._waiting.popleft() if self._waiting and self._ended is None else None

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
        self._books.note(ready.delivery, candidate.object_id, outcome)
        self._note_refusal(outcome.event is DeliveryEvent.TRANSIENT)
        return stands

    def _note_refusal(self, refused: bool) -> None:
        with self._guard:
            self._refused = self._refused + 1 if refused else 0
            if self._refused >= PATIENCE and self._ended is None:
                self._books.shipped.peer_failure = "the peer is out of resources"
                self._ended = TransientDelivery("not tried: the peer is out of resources")

    def _note_loss(self) -> None:
        with self._guard:
            self._lost += 1
            if self._lost >= PATIENCE and self._ended is None:
                self._books.shipped.peer_failure = f"{self._lost} associations were lost"
                self._ended = TransientDelivery("not tried: associations keep breaking")


def _not_accepted(association: Association, ready: Ready) -> PermanentDelivery:
    classes = {stored.sop_class_uid for _, stored in ready.candidates}
    reasons = {reason for context, reason in association.refused.items() if context[0] in classes}
    return PermanentDelivery(
        f"the peer takes no {ready.delivery.slot}: {', '.join(sorted(reasons)) or 'not proposed'}"
    )
