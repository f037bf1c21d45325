"""From the journal to people's inboxes: one sweep after another, beside the reconciler.

Everything is in the ledger, so it may be killed, started again or run twice at any time.
"""

from __future__ import annotations

from collections.abc import Callable

from dicom_node.ledger import Ledger
from dicom_node.ledger.outbox import OutgoingMessage
from dicom_node.logs import get_logger
from dicom_node.notifications.channel import Channel, NotSent, Step, channels_of
from dicom_node.notifications.occasions import Conditions, notices_of
from dicom_node.notifications.wording import render
from dicom_node.settings import NodeSettings

__all__ = ["SWEEP_INTERVAL_S", "Notifier"]

_log = get_logger(__name__)
SWEEP_INTERVAL_S = 5.0
_LEAST_LEASE_S = 60.0


class Notifier:
    """Makes messages and sends them.

    Parameters
    ----------
    settings : callable
        The settings in force.
    ledger : Ledger
    """

    def __init__(self, settings: Callable[[], NodeSettings], ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._conditions = Conditions(ledger)

    def sweep(self) -> int:
        """Look once at everything that is new or due; return how many messages were sent."""
        settings = self._settings()
        channels = channels_of(settings)
        names = frozenset(channels)
        self._read_journal(settings, names)
        if names:
            self._conditions.look(settings, names)
        rules = settings.notifications
        for name in names:
            self._ledger.outbox.bundle(
                name,
                group_s=rules.group_s,
                interval_s=rules.interval_s,
                keep_s=rules.give_up_after_s,
            )
        return self._send_due(settings, channels)

    def _read_journal(self, settings: NodeSettings, channels: frozenset[str]) -> None:
        outbox = self._ledger.outbox
        while True:
            position, rows = outbox.unread()
            if not rows:
                return
            # Without channels the bookmark moves all the same: who adds one is not told of old.
            notices = [
                notice
                for row in (rows if channels else ())
                for notice in notices_of(row, self._ledger, settings)
            ]
            if not outbox.note(position, rows[-1].id, notices, channels):
                return  # somebody else reads, too

    def _send_due(self, settings: NodeSettings, channels: dict[str, Channel]) -> int:
        lease_s = max([_LEAST_LEASE_S, *(2 * one.patience_s for one in channels.values())])
        sent = 0
        while (message := self._ledger.outbox.claim(lease_s)) is not None:
            sent += self._send(message, settings, channels)
        return sent

    def _send(
        self, message: OutgoingMessage, settings: NodeSettings, channels: dict[str, Channel]
    ) -> bool:
        outbox, rules = self._ledger.outbox, settings.notifications
        channel = channels.get(message.channel)
        if channel is None:
            outbox.failed(message, "the channel is no longer configured", retry_in_s=None)
            return False
        content = outbox.content(message)
        rendered = render(content, settings, token=message.token, created_at=message.created_at)
        steps: list[Step] = []
        try:
            channel.send(rendered, steps.append)
        except NotSent as error:
            age_s = self._ledger.database.now() - message.created_at
            given_up = age_s >= rules.give_up_after_s
            wait_s = min(rules.retry_cap_s, rules.retry_first_s * 2.0 ** (message.attempts - 1))
            outbox.failed(message, str(error), retry_in_s=None if given_up else wait_s)
            _log.warning(
                "message not sent",
                channel=message.channel,
                reason=str(error),
                attempt=message.attempts,
                given_up=given_up,
            )
            return False
        outbox.sent(message)
        for step in steps:
            if not step.ok:
                _log.warning("message sent in part", channel=message.channel, reason=step.words)
        _log.info("message sent", channel=message.channel, notices=len(content))
        return True
