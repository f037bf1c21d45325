"""The one configuration document: ``node.toml``, read once, frozen, passed in.

Found in this order: ``--config``, ``M3LUNG_CONFIG``, ``./node.toml``,
``~/.config/m3lung/node.toml``; without any of them the defaults hold (loopback only, nobody
is known, everything under ``~/.local/share/m3lung``). Environment variables override single
fields, for secrets above all: ``M3LUNG_LEDGER__URL=postgresql+psycopg://…``.

Nothing that changes a prediction stands here: that belongs to the model bundle.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
import tomlkit.exceptions
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dicom_node.domain import AETitle, ObjectKind
from dicom_node.errors import ConfigurationError

__all__ = [
    "NodeSettings",
    "Peer",
    "PeerRole",
    "SettingsSource",
    "SupersedePolicy",
    "find_config",
    "load_settings",
]

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListenerSettings(_Section):
    """The DICOM SCP."""

    host: str = "127.0.0.1"  # address to listen on; "0.0.0.0" opens it to the network
    port: Annotated[int, Field(ge=0, le=65535)] = 11112  # 0: any free one (tests)
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # that share the port
    called_ae_titles: tuple[AETitle, ...] = ()  # empty: only the node's own ae_title
    accept_unknown_callers: bool = False  # True: anybody who reaches the port may send
    other_storage: Literal["ignore", "refuse"] = "ignore"  # storage classes that are no CT
    max_associations: Annotated[int, Field(ge=1)] = 64  # established at a time
    max_connections: Annotated[int, Field(ge=1)] = 256  # TCP, associated or not
    max_connections_per_address: Annotated[int, Field(ge=1)] = 64  # TCP, of one peer
    max_pdu_bytes: Annotated[int, Field(ge=16384, le=1 << 20)] = 262144  # offered, and enforced
    handshake_timeout_s: Seconds = 5.0  # TLS handshake and A-ASSOCIATE-RQ
    pdu_timeout_s: Seconds = 20.0  # from a PDU's first byte to its last
    idle_timeout_s: Seconds = 60.0  # an association without any PDU
    min_free_bytes: Annotated[int, Field(ge=0)] = 512 << 20  # less free disk: refuse, 0xA700
    max_instance_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30  # larger: refuse, 0xA700


class LedgerSettings(_Section):
    """The database."""

    url: str = ""  # of SQLAlchemy; empty: SQLite under the state directory


class BrokerSettings(_Section):
    """Celery's broker."""

    url: str = ""  # redis://:PASSWORD@HOST:PORT/0; empty: the embedded one


class SupersedePolicy(enum.StrEnum):
    """What late slices of an already analysed series do."""

    ALWAYS = "always"  # open the next revision, analyse it, its results supersede the former
    NEVER = "never"  # are kept and recorded, the first reading stands


class CompletionSettings(_Section):
    """When a series is whole."""

    settle_s: Seconds = 5.0  # quiet time that is enough beside good evidence
    quiet_period_s: Seconds = 60.0  # quiet time that is enough alone
    maximum_wait_s: Seconds = 1800.0  # from the first image, whatever else
    study_settle_s: Annotated[float, Field(ge=0)] = 2.0  # for sister series of the same study
    query_interval_s: Seconds = 10.0  # between C-FINDs of one series
    supersede: SupersedePolicy = SupersedePolicy.ALWAYS  # late slices: read anew, or only keep


class SelectionSettings(_Section):
    """Which series are analysed."""

    min_slices: Annotated[int, Field(ge=1)] = 20  # axial, with positions of their own
    min_coverage_mm: Annotated[float, Field(ge=0)] = 150.0  # first to last slice
    series_per_study: Literal["one", "all"] = "one"  # "one": the best suited


class AnalysisSettings(_Section):
    """Where and how the model runs; never what it predicts."""

    bundle: Path | None = None  # None: an untrained bundle, made once under the state directory
    engine: Literal["auto", "torch", "openvino"] = "auto"  # auto: openvino on a CPU, else torch
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where it is fast
    batch_slices: Annotated[int, Field(ge=1)] = 8  # through the network at a time
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all cores
    lease_s: Seconds = 120.0  # renewed while the worker makes progress
    time_limit_s: Seconds = 3600.0  # one analysis; then it counts as failed
    max_attempts: Annotated[int, Field(ge=1)] = 3  # then the series is quarantined


class ResultSettings(_Section):
    """What the results look like."""

    banner: Annotated[str, Field(min_length=1, max_length=64)] = (
        "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"  # in every result; cannot be emptied
    )
    overlay_slices: Literal["lesion", "all"] = "lesion"  # which source slices get an overlay
    secondary_capture_modality: Literal["OT", "CT"] = "OT"  # of overlays and summary
    max_slice_groups: Annotated[int, Field(ge=0)] = 40  # per-slice groups in the SR
    institution: str = ""  # written into the results; empty: the source's


class DeliverySettings(_Section):
    """How results are sent."""

    retry_first_s: Seconds = 5.0  # after the first failure; doubles from there
    retry_cap_s: Seconds = 600.0  # longest time between two tries
    give_up_after_s: Seconds = 7 * 86400.0  # then a delivery is expired
    breaker_failures: Annotated[int, Field(ge=1)] = 3  # in a row: only C-ECHO until it answers
    connect_timeout_s: Seconds = 10.0  # TCP and association
    response_timeout_s: Seconds = 60.0  # one C-STORE
    lease_s: Seconds = 120.0  # renewed while objects are sent


class PeerRole(enum.StrEnum):
    """What a peer may do here."""

    SOURCE = "source"  # may send to us
    DESTINATION = "destination"  # gets results


class Peer(_Section):
    """A DICOM application entity that we know.

    Attributes
    ----------
    name : str
        What commands and the ledger call it: lower case, digits, ``_`` and ``-``.
    ae_title : str
        Its own AE title.
    host : str
        Name or address of its machine.
    port : int
        TCP port of its DICOM service.
    roles : tuple of PeerRole
        A source may send to us, a destination gets results.
    enabled : bool
        False: known, but neither heard nor served.
    outputs : tuple of ObjectKind
        What a destination gets.
    query : bool
        Whether a source answers C-FIND at series level, which tells how many images a series has.
    compress : {"none", "lossless", "jpeg"}
        Transfer syntax offered first for overlays; uncompressed is always offered beside it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    ae_title: AETitle
    host: str = "127.0.0.1"
    port: Port = 104
    roles: tuple[PeerRole, ...] = (PeerRole.SOURCE, PeerRole.DESTINATION)
    enabled: bool = True
    query: bool = False
    outputs: tuple[ObjectKind, ...] = tuple(ObjectKind)
    compress: Literal["none", "lossless", "jpeg"] = "lossless"

    @property
    def is_source(self) -> bool:
        """Whether it may send to us now."""
        return self.enabled and PeerRole.SOURCE in self.roles

    @property
    def is_destination(self) -> bool:
        """Whether it gets results now."""
        return self.enabled and PeerRole.DESTINATION in self.roles


class NodeSettings(BaseSettings):
    """Everything the node is told. See the module's docstring for where it comes from."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="M3LUNG_", env_nested_delimiter="__"
    )

    ae_title: AETitle = "M3LUNG"  # ours, calling and called
    state_dir: Path = Path("~/.local/share/m3lung")  # everything that is kept
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # of every process
    listener: ListenerSettings = ListenerSettings()
    ledger: LedgerSettings = LedgerSettings()
    broker: BrokerSettings = BrokerSettings()
    completion: CompletionSettings = CompletionSettings()
    selection: SelectionSettings = SelectionSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    peers: tuple[Peer, ...] = ()

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
            if peer.is_destination and peer.ae_title in own and peer.port == self.listener.port:
                raise ValueError(f"peers.{peer.name}: this is the node itself; results would loop")
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
    def called_ae_titles(self) -> tuple[str, ...]:
        """AE titles we answer to."""
        return self.listener.called_ae_titles or (self.ae_title,)

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


def find_config(path: Path | None = None) -> Path | None:
    """Return the configuration document to use, None if there is none.

    Raises
    ------
    ConfigurationError
        `path` or ``M3LUNG_CONFIG`` names a file that does not exist.
    """
    named = path or (Path(os.environ["M3LUNG_CONFIG"]) if "M3LUNG_CONFIG" in os.environ else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"no configuration at {named}")
        return named
    for candidate in (Path("node.toml"), Path("~/.config/m3lung/node.toml").expanduser()):
        if candidate.is_file():
            return candidate
    return None


def load_settings(path: Path | None = None) -> NodeSettings:
    """Read `path` (or the document :func:`find_config` finds) and the environment.

    Raises
    ------
    ConfigurationError
        The document does not parse or holds an unknown or illegal field; the text names it.
    """
    found = find_config(path)
    document: dict[str, Any] = {}
    if found is not None:
        try:
            document = tomlkit.parse(found.read_text(encoding="utf-8")).unwrap()
        except (OSError, UnicodeDecodeError, tomlkit.exceptions.ParseError) as error:
            raise ConfigurationError(f"{found}: {error}") from error
        for name in document:
            if name.startswith("_"):  # pydantic-settings would take these as its own options
                raise ConfigurationError(f"{found}: {name}: Extra inputs are not permitted")
        state_dir = document.get("state_dir")
        if isinstance(state_dir, str) and not Path(state_dir).expanduser().is_absolute():
            # A relative state directory is relative to its document, not to who starts the node.
            document["state_dir"] = str(found.absolute().parent / state_dir)
    try:
        return NodeSettings(**document)
    except SettingsError as error:  # an environment variable that should hold JSON
        raise ConfigurationError(f"environment: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise ConfigurationError(f"{found or 'settings'}: {field}: {first['msg']}") from error


class SettingsSource:
    """The settings as the document says now; a running process asks again whenever it matters.

    A document that was edited into nonsense changes nothing: the last good settings stay in
    force, and :attr:`error` says why. What is read once at start (ports, ledger, broker) needs a
    restart; peers, results and completion rules do not.

    Parameters
    ----------
    path : Path or None
        As for :func:`load_settings`.

    Raises
    ------
    ConfigurationError
        The document is wrong at the start already.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = find_config(path)
        self._stamp = self._read_stamp()
        self._settings = load_settings(self.path)
        self.error = ""

    def __call__(self) -> NodeSettings:
        """Return the settings in force."""
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = load_settings(self.path)
                self.error = ""
            except ConfigurationError as error:
                self.error = str(error)
        return self._settings

    def _read_stamp(self) -> tuple[int, int, int] | None:
        if self.path is None:
            return None
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
