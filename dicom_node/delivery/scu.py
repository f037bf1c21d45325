"""The storage SCU: one object over one association, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from dicom_node.delivery.encoding import StoredObject, encoded_dataset
from dicom_node.delivery.outcome import Outcome
from dicom_node.delivery.presentation import Compression, transfer_syntaxes
from dicom_node.delivery.retry import read_status
from dicom_node.delivery.upper_layer import Association, Sender
from dicom_node.errors import UnsendableObject
from dicom_node.settings import DeliverySettings, NodeSettings, Peer
from dicom_node.tls import client_context

__all__ = ["Outcome", "accepted_syntaxes", "sender_of", "store"]


def sender_of(settings: NodeSettings, peer: Peer | None = None) -> Sender:
    """Return how this node introduces itself to `peer`, over TLS if its entry says so."""
    delivery: DeliverySettings = settings.delivery
    tls = partial(client_context, settings, peer) if peer is not None and peer.tls else None
    return Sender(settings.ae_title, delivery.connect_timeout_s, delivery.response_timeout_s, tls)


def accepted_syntaxes(
    association: Association, stored: StoredObject, compress: Compression
) -> list[str]:
    """Return the transfer syntaxes in which the peer takes `stored`, the preferred one first."""
    wanted = transfer_syntaxes(stored.sop_class_uid, stored.transfer_syntax_uid, compress)
    return [uid for uid in wanted if (stored.sop_class_uid, uid) in association.accepted]


def store(association: Association, stored: StoredObject, syntaxes: Sequence[str]) -> Outcome:
    """Send `stored` in the first of `syntaxes` in which it can be encoded.

    Parameters
    ----------
    syntaxes : sequence of str
        What :func:`accepted_syntaxes` returned, at least one.

    Raises
    ------
    TransientDelivery
        The association is lost.
    UnsendableObject
        The file is missing, altered, or can be encoded in none of `syntaxes`.
    """
    began = time.monotonic()
    failure: UnsendableObject | None = None
    for syntax in syntaxes:
        try:
            with encoded_dataset(stored, syntax) as dataset:
                response = association.c_store(
                    association.accepted[stored.sop_class_uid, syntax],
                    stored.sop_class_uid,
                    stored.sop_instance_uid,
                    dataset,
                )
        except UnsendableObject as error:  # another syntax may still do
            failure = error
            continue
        answer = read_status(response.status)
        # A preferred transfer syntax that failed here is told, though the object went.
        parts = (answer.words, response.comment, str(failure or ""))
        words = ": ".join(part for part in parts if part)
        seconds = time.monotonic() - began
        return Outcome(answer.event, words, response.status, syntax, seconds)
    raise failure or UnsendableObject("no transfer syntax was accepted")
