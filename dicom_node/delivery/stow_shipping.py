"""A shipment by STOW-RS: waiting objects of one destination, a request each.

What is claimed and recorded, and when: :mod:`dicom_node.delivery.shipment`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.crashpoints import crash_point
from dicom_node.delivery.encoding import StoredObject
from dicom_node.delivery.outcome import Outcome
from dicom_node.delivery.presentation import transfer_syntaxes
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
from dicom_node.delivery.stow import store_by_web
from dicom_node.delivery.stow_answer import Other, StowAnswer
from dicom_node.delivery.web_client import WebClient, credentials_name
from dicom_node.errors import PermanentDelivery, TransientDelivery
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.settings import NodeSettings, Peer

__all__ = ["ship_by_stow"]


def ship_by_stow(
    shipment: Sequence[PendingDelivery],
    peer: Peer,
    settings: NodeSettings,
    *,
    choose: Choose,
    record: Record,
) -> Shipped:
    """Send `shipment` to the ``stow_url`` of `peer`; `record` is called once for each delivery.

    As :func:`dicom_node.delivery.shipping.ship` does by C-STORE. What the peer refuses because of
    its SOP class goes as the next alternative; what it refuses because of its transfer syntax goes
    in the next one, and the others of the shipment go so at once.
    """
    books = Bookkeeping(choose, record)
    ready = [
        one for delivery in shipment if (one := books.prepared(delivery, with_alternatives=True))
    ]
    if not ready:
        return books.shipped
    try:
        with WebClient(settings, peer) as client:
            _StowShipment(client, peer, books).send(ready)
    except TransientDelivery as error:  # our own TLS files
        books.shipped.peer_failure = str(error)
        books.give_back(ready, error)
    return books.shipped


class _StowShipment:
    def __init__(self, client: WebClient, peer: Peer, books: Bookkeeping) -> None:
        self._client = client
        self._peer = peer
        self._books = books
        self._refused_syntaxes: set[tuple[str, str]] = set()  # SOP class, transfer syntax
        self._failures = 0  # of the peer as a whole, in a row
        self._failure = ""

    def send(self, waiting: Sequence[Ready]) -> None:
        for index, ready in enumerate(waiting):
            rest = waiting[index + 1 :]
            refusal = self._deliver(ready)
            if refusal:
                self._books.give_back(rest, PermanentDelivery(refusal))
                return
            if self._failures >= PATIENCE:
                self._books.shipped.peer_failure = self._failure
                error = TransientDelivery(f"not tried: {self._failure}")
                self._books.give_back(rest, error)
                return
        if self._failures and DeliveryEvent.ACCEPTED not in self._books.shipped.counts:
            self._books.shipped.peer_failure = self._failure

    def _deliver(self, ready: Ready) -> str:
        """Send the best candidate that the peer takes; return why none of the rest will go."""
        refused: Candidate | None = None
        for number, (candidate, stored) in enumerate(ready.candidates, 1):
            self._books.choose(ready.delivery, candidate, refused)
            outcome, answer = self._store(stored)
            crash_point("delivery.after_c_store")
            is_last = number == len(ready.candidates)
            if is_last or answer is None or answer.other is not Other.SOP_CLASS:
                self._books.note(ready.delivery, candidate.object_id, outcome)
                return outcome.words if answer is not None and answer.concerns_all else ""
            refused = candidate  # in so many words: the peer does not hold it
        raise AssertionError("a ready delivery has a candidate")

    def _store(self, stored: StoredObject) -> tuple[Outcome, StowAnswer | None]:
        syntaxes = self._syntaxes(stored)
        credentials = credentials_name(self._peer)
        try:
            outcome, answer = store_by_web(self._client, stored, syntaxes, credentials=credentials)
        except TransientDelivery as error:
            self._note_failure(str(error))
            return Outcome.of_error(error), None
        if outcome.event is DeliveryEvent.TRANSIENT:
            self._note_failure(outcome.words)
        elif answer is not None:
            self._failures = 0
            # Those that were tried in vain need not be tried with the next object of this class.
            tried = syntaxes[: syntaxes.index(outcome.transfer_syntax_uid)]
            self._refused_syntaxes.update((stored.sop_class_uid, uid) for uid in tried)
        return outcome, answer

    def _note_failure(self, words: str) -> None:
        self._failures += 1
        self._failure = words

    def _syntaxes(self, stored: StoredObject) -> list[str]:
        """What to try, the preferred one first: nothing is negotiated, so the answer decides."""
        wanted = transfer_syntaxes(
            stored.sop_class_uid, stored.transfer_syntax_uid, self._peer.compress
        )
        return [uid for uid in wanted if (stored.sop_class_uid, uid) not in self._refused_syntaxes]
