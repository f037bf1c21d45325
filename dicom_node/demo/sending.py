"""The series to PACS and node: one association each, as a scanner would."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from dicom_node.delivery.encoding import StoredObject, read_stored
from dicom_node.delivery.presentation import contexts
from dicom_node.delivery.scu import accepted_syntaxes, store
from dicom_node.delivery.upper_layer import Association, Sender
from dicom_node.demo.local_pacs import CALLING_AE_TITLE
from dicom_node.errors import NodeError, PermanentDelivery
from dicom_node.ledger.states import DeliveryEvent

__all__ = ["SendingFailed", "send_instances"]


class SendingFailed(NodeError):
    """An image was not taken."""


def send_instances(
    instances: Mapping[str, tuple[str, Path]],
    ae_title: str,
    port: int,
    progress: Callable[[int, int], None],
) -> None:
    """Send files by C-STORE to an application entity on the loopback interface.

    Parameters
    ----------
    instances : mapping of str to (str, Path)
        SOP Instance UID to SOP class UID and file.
    progress : callable
        Called with (done, total).

    Raises
    ------
    SendingFailed
        One was not accepted; the text says which file and why.
    DeliveryError
        No association.
    """
    stored = [_stored(path, uid, sop_class) for uid, (sop_class, path) in instances.items()]
    proposed = contexts(((item.sop_class_uid, item.transfer_syntax_uid) for item in stored), "none")
    sender = Sender(CALLING_AE_TITLE)
    with Association.request(sender, "127.0.0.1", port, ae_title, proposed) as association:
        for done, item in enumerate(stored):
            progress(done, len(stored))
            _send(association, item, ae_title)
        progress(len(stored), len(stored))


def _stored(path: Path, sop_instance_uid: str, sop_class_uid: str) -> StoredObject:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return read_stored(path, digest, sop_class_uid, sop_instance_uid)


def _send(association: Association, item: StoredObject, ae_title: str) -> None:
    syntaxes = accepted_syntaxes(association, item, "none")
    if not syntaxes:
        raise PermanentDelivery(f"{ae_title} takes {item.path.name} in no transfer syntax we have")
    outcome = store(association, item, syntaxes)
    if outcome.event is not DeliveryEvent.ACCEPTED:
        status = "" if outcome.status is None else f" (0x{outcome.status:04X})"
        raise SendingFailed(f"{ae_title} refused {item.path.name}{status}: {outcome.words}")
