"""The whole document."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.domain import AETitle
from dicom_node.errors import ConfigurationError
from dicom_node.settings.dicomweb import (
    PeerCredentials,
    StowSettings,
    credentials_key,
    objection_to_dicomweb,
)
from dicom_node.settings.monitoring import (
    MailSettings,
    MetricsSettings,
    NotificationSettings,
    WebhookSettings,
)
from dicom_node.settings.peer import Peer, QuietHours
from dicom_node.settings.rule import DEFAULT_RULE, PrioritySettings, Rule
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
    TLSSettings,
)

__all__ = ["NodeSettings"]


class NodeSettings(BaseSettings):
    """Everything the node is told. See the module's docstring for where it comes from."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="M3LUNG_", env_nested_delimiter="__"
    )

    ae_title: AETitle = "M3LUNG"  # ours, calling and called
    state_dir: Path = Path("~/.local/share/m3lung")  # everything that is kept
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # of every process
    listener: ListenerSettings = ListenerSettings()
    stow: StowSettings = StowSettings()
    tls: TLSSettings = TLSSettings()
    audit: AuditSettings = AuditSettings()
    ledger: LedgerSettings = LedgerSettings()
    broker: BrokerSettings = BrokerSettings()
    completion: CompletionSettings = CompletionSettings()
    selection: SelectionSettings = SelectionSettings()
    priorities: PrioritySettings = PrioritySettings()
    analysis: AnalysisSettings = AnalysisSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    commitment: CommitmentSettings = CommitmentSettings()
    retention: RetentionSettings = RetentionSettings()
    console: ConsoleSettings = ConsoleSettings()
    metrics: MetricsSettings = MetricsSettings()
    notifications: NotificationSettings = NotificationSettings()
    mail: MailSettings = MailSettings()
    webhook: WebhookSettings = WebhookSettings()
    credentials: dict[str, PeerCredentials] = {}
    peers: tuple[Peer, ...] = ()
    rules: tuple[Rule, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over document: that is where secrets come from."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _peers_are_distinct(self) -> NodeSettings:
        names = [peer.name for peer in self.peers]
        if len(set(names)) != len(names):
            raise ValueError("peers: every name may stand once")
        for peer in self.peers:
            own = {self.ae_title, *self.listener.called_ae_titles}
            by_dimse = peer.is_destination and not peer.stow_url
            if by_dimse and peer.ae_title in own and peer.port == self.listener.port:
                raise ValueError(f"peers.{peer.name}: this is the node itself; results would loop")
            if peer.tls and not self.tls.enabled:
                raise ValueError(
                    f"peers.{peer.name}: tls needs our own certificate, key and ca under [tls]"
                )
        return self

    @model_validator(mode="after")
    def _dicomweb_is_whole(self) -> NodeSettings:
        objection = objection_to_dicomweb(self.peers, self.credentials, self.stow, self.tls)
        if objection:
            raise ValueError(objection)
        return self

    @model_validator(mode="after")
    def _rules_name_what_there_is(self) -> NodeSettings:
        names = [rule.name for rule in self.rules]
        known = {peer.name for peer in self.peers}
        for number, rule in enumerate(self.rules):
            if rule.name == DEFAULT_RULE.name:
                raise ValueError(f"rules.{rule.name}.name: is what holds where no rule fits")
            if rule.name in names[:number]:
                raise ValueError(f"rules.{rule.name}.name: every name may stand once")
            for field in ("source", "destinations"):
                unknown = set(getattr(rule, field)) - known
                if unknown:
                    raise ValueError(
                        f"rules.{rule.name}.{field}: no peer is called {min(unknown)!r}; "
                        f"known: {', '.join(sorted(known)) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _models_go_to_what_there_is(self) -> NodeSettings:
        destinations = {peer.name for peer in self.peers if peer.is_destination}
        for name in self.analysis.models_to:
            if name not in destinations:
                raise ValueError(
                    f"analysis.models_to.{name}: no destination is called so; known: "
                    f"{', '.join(sorted(destinations)) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _patient_data_travel_sealed(self) -> NodeSettings:
        if self.notifications.include_patient_data:
            if self.mail.host and self.mail.security == "none":
                raise ValueError('notifications.include_patient_data: mail.security is "none"')
            if self.webhook.url.startswith("http:"):
                raise ValueError("notifications.include_patient_data: webhook.url is not https")
        return self

    @property
    def root(self) -> Path:
        """State directory, absolute."""
        return self.state_dir.expanduser().absolute()

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger.url or f"sqlite:///{self.root / 'ledger.sqlite3'}"

    @property
    def spool_dir(self) -> Path:
        """Received instances."""
        return self.root / "spool"

    @property
    def results_dir(self) -> Path:
        """Written results."""
        return self.root / "results"

    @property
    def memos_dir(self) -> Path:
        """Readings made ahead of the evidence, put aside."""
        return self.root / "memos"

    @property
    def called_ae_titles(self) -> tuple[str, ...]:
        """AE titles we answer to."""
        return self.listener.called_ae_titles or (self.ae_title,)

    def credentials_of(self, peer: Peer) -> PeerCredentials:
        """Return what `peer` and this node show each other in DICOMweb."""
        return self.credentials.get(credentials_key(peer.name), PeerCredentials())

    def quiet(self, now: float) -> dict[str, QuietHours]:
        """Return the destinations whose quiet hours it is, `now` in seconds since the epoch."""
        found = ((peer.name, peer.quiet_at(now)) for peer in self.peers if peer.is_destination)
        return {name: hours for name, hours in found if hours is not None}

    def peer(self, name: str) -> Peer:
        """Return the peer called `name`.

        Raises
        ------
        ConfigurationError
            There is none; the text lists those there are.
        """
        for peer in self.peers:
            if peer.name == name:
                return peer
        known = ", ".join(peer.name for peer in self.peers) or "none"
        raise ConfigurationError(f"no peer is called {name!r}; known: {known}")
