"""What one attempt to deliver one object came to."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.delivery.retry import event_of_error
from dicom_node.errors import DeliveryError
from dicom_node.ledger.states import DeliveryEvent

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt to deliver one object came to.

    Attributes
    ----------
    event : DeliveryEvent
        ACCEPTED, TRANSIENT, PERMANENT or BAD_OBJECT.
    words : str
        For an administrator; empty for a plain success, a warning's text for one with a warning.
    status : int or None
        The peer's C-STORE status or STOW-RS failure reason, None if it gave none.
    transfer_syntax_uid : str
        What was sent, empty if nothing was.
    seconds : float
        From opening the file to the peer's answer.
    """

    event: DeliveryEvent
    words: str = ""
    status: int | None = None
    transfer_syntax_uid: str = ""
    seconds: float = 0.0

    @classmethod
    def of_error(cls, error: DeliveryError) -> Outcome:
        """Return the outcome that `error` stands for."""
        return cls(event_of_error(error), str(error))
