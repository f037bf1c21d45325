"""The tables of the document, one class each; the comment on a field is its documentation."""

from __future__ import annotations

import enum
import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dicom_node.domain import AETitle

__all__ = [
    "AnalysisSettings",
    "AuditSettings",
    "BrokerSettings",
    "CommitmentSettings",
    "CompletionSettings",
    "ConsoleSettings",
    "DeliverySettings",
    "LedgerSettings",
    "ListenerSettings",
    "Network",
    "Port",
    "ResultSettings",
    "RetentionSettings",
    "Seconds",
    "Section",
    "SelectionSettings",
    "SupersedePolicy",
    "TLSSettings",
]

# Beside this package, since listener and console know its place and import nothing of the model.
DEMONSTRATION_BUNDLE = Path(__file__).parents[2] / "inference" / "bundles" / "phantom-v1"

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
SystemName = Literal["m3lung", "m2unet", "jcs"]


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address nor a network such as 10.0.0.0/24"
        ) from None


Network = Annotated[str, AfterValidator(_network)]
"""An address, or a network such as 10.0.0.0/24."""


class Section(BaseModel):
    """A table: unknown fields are refused, nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ListenerSettings(Section):
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


class TLSSettings(Section):
    """TLS, as listener and as sender: mutual, TLS 1.2 or later (PS3.15 Annex B, RFC 9325)."""

    certificate: Path | None = None  # ours, PEM, intermediates behind it; None: no TLS at all
    key: Path | None = None  # its private key, PEM without password
    ca: Path | None = None  # PEM: CAs that peers are signed by, or the peers' own certificates
    port: Annotated[int, Field(ge=0, le=65535)] = 2762  # of the TLS listener; 0: any free (tests)
    required: bool = False  # True: the plain port is not opened

    @property
    def enabled(self) -> bool:
        """Whether this node speaks TLS."""
        return self.certificate is not None

    @model_validator(mode="after")
    def _is_whole(self) -> TLSSettings:
        given = [name for name in ("certificate", "key", "ca") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError("certificate, key and ca belong together: mutual authentication")
        if self.required and not given:
            raise ValueError("required needs certificate, key and ca")
        return self


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5), one chained JSON line for each event."""

    enabled: bool = True  # False: nothing is recorded
    identifiers: Literal["pseudonym", "plain"] = "pseudonym"  # of patients and studies; no names
    rotate_bytes: Annotated[int, Field(ge=4096)] = 16 << 20  # then the next file is begun
    keep_days: Annotated[float, Field(ge=0)] = 2190.0  # whole files older than that go; 0: never
    head: Path | None = None  # where the chain's end is kept, another disk best; None: beside it


class LedgerSettings(Section):
    """The database."""

    url: str = ""  # of SQLAlchemy; empty: SQLite under the state directory


class BrokerSettings(Section):
    """Celery's broker."""

    url: str = ""  # redis://:PASSWORD@HOST:PORT/0; empty: the embedded one


class SupersedePolicy(enum.StrEnum):
    """What late slices of an already analysed series do."""

    ALWAYS = "always"  # open the next revision, analyse it, its results supersede the former
    NEVER = "never"  # are kept and recorded, the first reading stands


class CompletionSettings(Section):
    """When a series is whole."""

    settle_s: Seconds = 5.0  # quiet time that is enough beside good evidence
    quiet_period_s: Seconds = 60.0  # quiet time that is enough alone
    maximum_wait_s: Seconds = 1800.0  # from the first image, whatever else
    study_settle_s: Annotated[float, Field(ge=0)] = 2.0  # for sister series of the same study
    query_interval_s: Seconds = 10.0  # between C-FINDs of one series
    supersede: SupersedePolicy = SupersedePolicy.ALWAYS  # late slices: read anew, or only keep


class SelectionSettings(Section):
    """Which series are analysed."""

    min_slices: Annotated[int, Field(ge=1)] = 20  # axial, with positions of their own
    min_coverage_mm: Annotated[float, Field(ge=0)] = 150.0  # first to last slice
    series_per_study: Literal["one", "all"] = "one"  # "one": the best suited


class AnalysisSettings(Section):
    """Where and how the model runs; what it predicts only as far as `precision` rounds."""

    bundle: Path | None = None  # folder of a model bundle; None: the demonstration model
    models: Annotated[tuple[SystemName, ...], Field(min_length=1)] = ("m3lung",)  # "m2unet", "jcs"
    models_to: dict[str, tuple[SystemName, ...]] = {}  # by destination, whose objects; else all
    m2unet_bundle: Path | None = None  # lung lobes and severity; needed for "m2unet"
    jcs_bundle: Path | None = None  # lesion outlines and explanation; needed for "jcs"
    engine: Literal["auto", "torch", "openvino"] = "auto"  # auto: openvino on a CPU, else torch
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  # auto: bfloat16 if fast
    batch_slices: Annotated[int, Field(ge=1)] = 8  # through the network at a time
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all cores
    decoders: Annotated[int, Field(ge=0)] = 0  # child processes that decode pixels; 0: all cores
    decoder_memory_bytes: Annotated[int, Field(ge=1 << 28)] = 2 << 30  # each, beyond its file
    decoder_time_limit_s: Seconds = 30.0  # one image; then it counts as undecodable
    lease_s: Seconds = 120.0  # renewed while the worker makes progress
    time_limit_s: Seconds = 3600.0  # one analysis; then it counts as failed
    max_attempts: Annotated[int, Field(ge=1)] = 3  # then the series is quarantined
    speculative: bool = True  # idle workers read a series that looks complete; sent once it is

    @model_validator(mode="after")
    def _models_have_bundles(self) -> AnalysisSettings:
        if "m3lung" not in self.models:
            raise ValueError('models: "m3lung" is always among them: the others stand beside it')
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: every model may stand once")
        for name in ("m2unet", "jcs"):
            if name in self.models and getattr(self, f"{name}_bundle") is None:
                raise ValueError(f"models: {name} needs {name}_bundle")
        return self

    def other_bundle(self, name: Literal["m2unet", "jcs"]) -> Path | None:
        """Bundle of one of the other systems; None where it does not run."""
        bundle: Path | None = getattr(self, f"{name}_bundle")
        return bundle.expanduser() if bundle is not None and name in self.models else None

    @property
    def bundle_folder(self) -> Path:
        """The bundle that is read with: the configured one, else the one that comes along."""
        return DEMONSTRATION_BUNDLE if self.bundle is None else self.bundle.expanduser()


class ResultSettings(Section):
    """What the results look like."""

    banner: Annotated[str, Field(min_length=1, max_length=64)] = (
        "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"  # in every result; cannot be emptied
    )
    overlay_slices: Literal["lesion", "all"] = "lesion"  # which source slices get an overlay
    secondary_capture_modality: Literal["OT", "CT"] = "OT"  # of overlays and summary
    max_slice_groups: Annotated[int, Field(ge=0)] = 40  # per-slice groups in the SR
    institution: str = ""  # written into the results; empty: the source's


class DeliverySettings(Section):
    """How results are sent."""

    retry_first_s: Seconds = 5.0  # after the first failure; doubles from there
    retry_cap_s: Seconds = 600.0  # longest time between two tries
    give_up_after_s: Seconds = 7 * 86400.0  # then a delivery is expired
    breaker_failures: Annotated[int, Field(ge=1)] = 3  # in a row: only C-ECHO until it answers
    connect_timeout_s: Seconds = 10.0  # TCP and association
    response_timeout_s: Seconds = 60.0  # one C-STORE
    lease_s: Seconds = 120.0  # renewed while objects are sent


class CommitmentSettings(Section):
    """How a destination proves that it holds the results; whether it has to: see ``peers``."""

    report_within_s: Seconds = 1800.0  # for a commitment report; then the request is repeated
    linger_s: Annotated[float, Field(ge=0)] = 1.0  # for a report on the association that asked
    max_requests: Annotated[int, Field(ge=1)] = 3  # without any report; then by C-FIND, or failed
    max_resends: Annotated[int, Field(ge=0)] = 2  # of an object that the destination does not hold
    verify_after_s: Annotated[float, Field(ge=0)] = 10.0  # first C-FIND; the next after twice that


class RetentionSettings(Section):
    """How long received images are kept. Nothing unfinished is ever removed."""

    purge_after_days: Annotated[float, Field(ge=0)] | None = None  # None: only by `m3lung purge`
    without_proof_days: Annotated[float, Field(ge=0)] | None = None  # None: never without proof
    high_water_percent: Annotated[float, Field(gt=0, le=100)] = 97.0  # spool disk: no associations
    low_water_percent: Annotated[float, Field(gt=0, le=100)] = 95.0  # … until it is below this
    purge_at_high_water: bool = False  # True: then remove what is proven, oldest first, of any age
    sweep_interval_s: Seconds = 60.0  # between looks for what may go
    orphan_age_s: Annotated[float, Field(ge=3600)] = 86400.0  # files that the ledger does not know

    @model_validator(mode="after")
    def _marks_are_ordered(self) -> RetentionSettings:
        if self.low_water_percent > self.high_water_percent:
            raise ValueError("low_water_percent has to be at most high_water_percent")
        return self


class ConsoleSettings(Section):
    """The web console. It speaks plain HTTP: put a reverse proxy with TLS before it."""

    enabled: bool = True  # whether `m3lung serve` starts it
    host: str = "127.0.0.1"  # address to listen on
    port: Annotated[int, Field(ge=0, le=65535)] = 8765  # 0: any free one (tests)
    base_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = (
        ""  # "/m3lung": under that
    )
    session_hours: Annotated[float, Field(gt=0, le=720)] = 12.0  # then one has to log in again
    trusted_proxies: tuple[Network, ...] = ()  # believed below
    login_header: Annotated[str, Field(pattern=r"^([A-Za-z0-9-]+)?$")] = (
        ""  # names who is logged in
    )

    @model_validator(mode="after")
    def _header_needs_a_proxy(self) -> ConsoleSettings:
        if self.login_header and not self.trusted_proxies:
            raise ValueError("login_header needs trusted_proxies: anybody can send a header")
        return self
