"""How a message leaves: which channels there are, and at which step one failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dicom_node.notifications.mail import Mail
from dicom_node.notifications.steps import NotSent, Step
from dicom_node.notifications.webhook import Webhook
from dicom_node.notifications.wording import Rendered
from dicom_node.settings import NodeSettings

__all__ = ["Channel", "NotSent", "Step", "channels_of"]


class Channel(Protocol):
    """Sends messages."""

    @property
    def patience_s(self) -> float:
        """How long sending one may take at most."""
        ...

    def send(self, message: Rendered, done: Callable[[Step], None] = ...) -> None:
        """Send `message`; tell `done` of each step that was taken.

        Raises
        ------
        NotSent
            The text says which step failed, and why.
        """
        ...


def channels_of(settings: NodeSettings) -> dict[str, Channel]:
    """Return the channels that are configured, by name."""
    found: dict[str, Channel] = {}
    if settings.mail.host:
        found["mail"] = Mail(settings.mail)
    if settings.webhook.url:
        found["webhook"] = Webhook(settings.webhook)
    return found
