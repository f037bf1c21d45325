"""The one configuration document: ``node.toml``, read once, frozen, passed in.

Found in this order: ``--config``, ``M3LUNG_CONFIG``, ``./node.toml``,
``~/.config/m3lung/node.toml``; without any of them the defaults hold (loopback only, nobody
is known, everything under ``~/.local/share/m3lung``). Environment variables override single
fields, for secrets above all: ``M3LUNG_LEDGER__URL=postgresql+psycopg://…``.

Nothing that changes a prediction stands here: that belongs to the model bundle.
"""

from __future__ import annotations

from dicom_node.settings.dicomweb import PeerCredentials, StowSettings
from dicom_node.settings.document import SettingsSource, find_config, load_settings
from dicom_node.settings.monitoring import (
    MailSettings,
    MetricsSettings,
    NotificationSettings,
    WebhookSettings,
)
from dicom_node.settings.node import NodeSettings
from dicom_node.settings.peer import Peer, PeerRole, QuietHours
from dicom_node.settings.rule import DEFAULT_RULE, Priority, PrioritySettings, Rule
from dicom_node.settings.sections import (
    AnalysisSettings,
    AuditSettings,
    BrokerSettings,
    CommitmentSettings,
    CompletionSettings,
    ConsoleSettings,
    DeliverySettings,
    LedgerSettings,
    ListenerSettings,
    ResultSettings,
    RetentionSettings,
    SelectionSettings,
    SupersedePolicy,
    TLSSettings,
)

__all__ = [
    "DEFAULT_RULE",
    "AnalysisSettings",
    "AuditSettings",
    "BrokerSettings",
    "CommitmentSettings",
    "CompletionSettings",
    "ConsoleSettings",
    "DeliverySettings",
    "LedgerSettings",
    "ListenerSettings",
    "MailSettings",
    "MetricsSettings",
    "NodeSettings",
    "NotificationSettings",
    "Peer",
    "PeerCredentials",
    "PeerRole",
    "Priority",
    "PrioritySettings",
    "QuietHours",
    "ResultSettings",
    "RetentionSettings",
    "Rule",
    "SelectionSettings",
    "SettingsSource",
    "StowSettings",
    "SupersedePolicy",
    "TLSSettings",
    "WebhookSettings",
    "find_config",
    "load_settings",
]
