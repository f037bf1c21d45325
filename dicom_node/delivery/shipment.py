"""The nouns of a shipment, and its bookkeeping: the same by C-STORE and by STOW-RS.

The caller claims the deliveries in the ledger and passes two callbacks. ``choose`` is called
before an alternative of a slot is sent for the first time, ``record`` right after each answer,
so that a process killed at any point re-sends nothing but what was not recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.delivery.encoding import StoredObject, read_stored
from dicom_node.delivery.outcome import Outcome
from dicom_node.errors import DeliveryError, UnsendableObject
from dicom_node.ledger.states import DeliveryEvent

__all__ = [
    "PATIENCE",
    "Bookkeeping",
    "Candidate",
    "Choose",
    "PendingDelivery",
    "Ready",
    "Record",
    "Shipped",
]

PATIENCE = 3
"""After this many lost connections, or refusals for want of resources in a row, the rest waits."""


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
Choose = Callable[..., None]
"""``choose(delivery_id, object_id)``, durable when it returns; with a third argument, in place of
the object of that id, which the peer has refused."""


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
class Ready:
    """A delivery whose files can be read."""

    delivery: PendingDelivery
    candidates: tuple[tuple[Candidate, StoredObject], ...]  # best first


class Bookkeeping:
    """What becomes of each delivery of one shipment; the ledger is told of each once."""

    def __init__(self, choose: Choose, record: Record) -> None:
        self._choose = choose
        self._record = record
        self._guard = threading.Lock()  # associations at once share the books
        self.shipped = Shipped()

    def prepared(
        self, delivery: PendingDelivery, *, with_alternatives: bool = False
    ) -> Ready | None:
        """Read the file headers; a slot without a readable candidate is recorded at once.

        Where a candidate was chosen it is the only one; `with_alternatives` the others follow it.
        """
        ranked = sorted(delivery.candidates, key=lambda one: (not one.chosen, one.rank))
        chosen = [candidate for candidate in ranked if candidate.chosen]
        if chosen and not with_alternatives:
            ranked = chosen
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
            return Ready(delivery, tuple(readable))
        self.note(delivery, failed_id, Outcome.of_error(failure))
        return None

    def choose(
        self, delivery: PendingDelivery, candidate: Candidate, refused: Candidate | None = None
    ) -> None:
        """Fix `candidate` as what this slot is sent as: the first, or in place of `refused`."""
        with self._guard:
            if refused is not None:
                self._choose(delivery.delivery_id, candidate.object_id, refused.object_id)
            elif not candidate.chosen:
                self._choose(delivery.delivery_id, candidate.object_id)

    def note(self, delivery: PendingDelivery, object_id: int | None, outcome: Outcome) -> None:
        """Record what a delivery came to."""
        with self._guard:
            self._record(delivery.delivery_id, object_id, outcome)
            counts = self.shipped.counts
            counts[outcome.event] = counts.get(outcome.event, 0) + 1

    def give_back(self, rest: Sequence[Ready], error: DeliveryError) -> None:
        """Record for all of `rest` that `error` kept them from being sent."""
        outcome = Outcome.of_error(error)
        for ready in rest:
            self.note(ready.delivery, None, outcome)
