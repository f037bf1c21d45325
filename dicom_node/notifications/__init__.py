"""Messages to people when something fails, or a reading is positive: by e-mail and webhook.

What is told comes from the ledger's journal, each event once; a storm of events becomes one
message. Nobody's data are in a message unless the settings allow it.
"""

from __future__ import annotations

from dicom_node.notifications.channel import Channel, NotSent, Step, channels_of
from dicom_node.notifications.notifier import Notifier
from dicom_node.notifications.wording import Rendered, render, trial_message

__all__ = [
    "Channel",
    "NotSent",
    "Notifier",
    "Rendered",
    "Step",
    "channels_of",
    "render",
    "trial_message",
]
