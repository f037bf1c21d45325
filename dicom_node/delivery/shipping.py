"""A shipment: waiting objects of one destination, sent over one association.

The caller claims the deliveries in the ledger and passes two callbacks. ``choose`` is called
before an alternative of a slot is sent for the first time, ``record`` right after each answer,
so that a process killed at any point re-sends nothing but what was not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.crashpoints import crash_point
from dicom_node.delivery.encoding import StoredObject, read_stored
from dicom_node.delivery.presentation import contexts
from dicom_node.delivery.scu import Outcome, accepted_syntaxes, store
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

# After this many lost associations, or refusals for want of resources in a row, the rest waits.
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object that may fill a slot.

    Attributes
    ----------
    path : Path
        Absolute.
    sha256 : str
        Hex digest of the whole file.
    rank : int
        Lower is better; the report exists as 88.34, 88.33 and 88.22.
    chosen : bool
        An earlier attempt sent this one: it is the only one from then on, since the peer may
        hold it although no answer arrived.
    """

    object_id: int
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    sha256: str
    rank: int = 0
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One slot on its way to one destination; exactly one of its candidates goes."""

    delivery_id: int
    slot: str
    candidates: tuple[Candidate, ...]


Record = Callable[[int, int | None, Outcome], None]
"""``record(delivery_id, object_id, outcome)``; None where no candidate could be sent."""
Choose = Callable[[int, int], None]
"""``choose(delivery_id, object_id)``, durable when it returns."""


@dataclass(slots=True)
class Shipped:
    """How a shipment went, for the destination's breaker and for logs.

    Attributes
    ----------
    counts : dict of DeliveryEvent to int
    peer_failure : str
        Why the destination as a whole failed (nothing connected, association lost for good),
        empty otherwise. This is what counts for the breaker.
    """

    counts: dict[DeliveryEvent, int] = field(default_factory=dict)
    peer_failure: str = ""


@dataclass(frozen=True, slots=True)
class _Ready:
    delivery: PendingDelivery
    candidates: tuple[tuple[Candidate, StoredObject], ...]  # best first


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
        self._choose = choose
        self._record = record
        self._shipped = Shipped()
        self._lost = 0  # associations
        self._refused = 0  # for want of resources, in a row

    def send(self, shipment: Sequence[PendingDelivery]) -> Shipped:
        waiting = [ready for delivery in shipment if (ready := self._prepared(delivery))]
        while waiting:
            try:
                waiting = self._over_one_association(waiting)
            except DeliveryError as error:  # the association never came to be
                if isinstance(error, TransientDelivery):
                    self._shipped.peer_failure = str(error)
                waiting = self._give_back(waiting, error)
        if self._lost and DeliveryEvent.ACCEPTED not in self._shipped.counts:
            self._shipped.peer_failure = "each association was lost before anything was stored"
        return self._shipped

    def _prepared(self, delivery: PendingDelivery) -> _Ready | None:
        """Read the file headers; a slot without a readable candidate is recorded at once."""
        chosen = [candidate for candidate in delivery.candidates if candidate.chosen]
        ranked = chosen or sorted(delivery.candidates, key=lambda candidate: candidate.rank)
        readable = []
        failure = UnsendableObject("the slot holds no object")
        failed_id: int | None = None
        for candidate in ranked:
            try:
                stored = read_stored(
                    candidate.path,
                    candidate.sha256,
                    candidate.sop_class_uid,
                    candidate.sop_instance_uid,
                )
            except UnsendableObject as error:
                failure, failed_id = error, candidate.object_id
            else:
                readable.append((candidate, stored))
        if readable:
            return _Ready(delivery, tuple(readable))
        self._note(delivery, failed_id, Outcome.of_error(failure))
        return None

    def _over_one_association(self, waiting: list[_Ready]) -> list[_Ready]:
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
                if self._refused >= _PATIENCE:
                    error = TransientDelivery("not tried: the peer is out of resources")
                    self._shipped.peer_failure = "the peer is out of resources"
                    return self._give_back(waiting[index + 1 :], error)
        return []

    def _deliver(self, association: Association, ready: _Ready) -> bool:
        """Send the best acceptable candidate; return whether the association still stands."""
        usable = (
            (candidate, stored, syntaxes)
            for candidate, stored in ready.candidates
            if (syntaxes := accepted_syntaxes(association, stored, self._peer.compress))
        )
        found = next(usable, None)
        if found is None:
            self._note(ready.delivery, None, Outcome.of_error(_not_accepted(association, ready)))
            return True
        candidate, stored, syntaxes = found
        if not candidate.chosen:
            self._choose(ready.delivery.delivery_id, candidate.object_id)
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
        self._note(ready.delivery, candidate.object_id, outcome)
        return stands

    def _after_loss(self, rest: list[_Ready]) -> list[_Ready]:
        self._lost += 1
        if self._lost < _PATIENCE:
            return rest
        self._shipped.peer_failure = f"{self._lost} associations were lost"
        return self._give_back(rest, TransientDelivery("not tried: associations keep breaking"))

    def _give_back(self, rest: list[_Ready], error: DeliveryError) -> list[_Ready]:
        outcome = Outcome.of_error(error)
        for ready in rest:
            self._note(ready.delivery, None, outcome)
        return []

    def _note(self, delivery: PendingDelivery, object_id: int | None, outcome: Outcome) -> None:
        self._record(delivery.delivery_id, object_id, outcome)
        counts = self._shipped.counts
        counts[outcome.event] = counts.get(outcome.event, 0) + 1


def _not_accepted(association: Association, ready: _Ready) -> PermanentDelivery:
    classes = {stored.sop_class_uid for _, stored in ready.candidates}
    reasons = {reason for context, reason in association.refused.items() if context[0] in classes}
    return PermanentDelivery(
        f"the peer takes no {ready.delivery.slot}: {', '.join(sorted(reasons)) or 'not proposed'}"
    )
