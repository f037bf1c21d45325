"""``m3lung check``: whether this node can do its work, and does it."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.table import Table

from dicom_node.cli.terminal import (
    EXIT_UNHEALTHY,
    ConfigOption,
    JsonOption,
    out,
    print_json,
    settings_source,
)
from dicom_node.errors import NodeError
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import NodeSettings, Peer

__all__ = ["Finding", "certificates", "look_at", "register"]

_STALE_S = 600.0  # ready work that nobody took for so long means that nobody takes it
_EXPIRY_WARNING_DAYS = 30.0
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    words: str


def check(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Look at everything the node needs; exit 3 when something is wrong.

    Health is progress: ready work that nobody takes is unhealthy, however well each process feels.
    """
    source = settings_source(config)
    settings = source()
    findings = [
        Finding("configuration", True, str(source.path or "built-in defaults")),
        *look_at(settings),
    ]
    healthy = all(finding.ok for finding in findings)
    if json:
        print_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
            table.add_row(mark, finding.name, finding.words)
        out.print(table, highlight=False)
    if not healthy:
        raise typer.Exit(EXIT_UNHEALTHY)


def look_at(settings: NodeSettings) -> list[Finding]:
    """Return what there is to say about everything that the node needs."""
    return [finding for look in _LOOKS for finding in _looked(look, settings)]


def _looked(
    look: Callable[[NodeSettings], Iterator[Finding]], settings: NodeSettings
) -> list[Finding]:
    from inference.errors import InferenceError

    name = look.__name__.strip("_").replace("_", " ")
    try:
        return list(look(settings))
    except (NodeError, InferenceError, OSError, ImportError) as error:
        return [Finding(name, False, str(error))]


def _packages(settings: NodeSettings) -> Iterator[Finding]:
    """`inference` and `training` are generic names: they have to be ours."""
    import dicom_node
    import inference
    import training

    roots = {
        Path(str(package.__file__)).parents[1] for package in (dicom_node, inference, training)
    }
    ours = len(roots) == 1
    version = importlib.metadata.version("m3lung-node")
    words = f"m3lung-node {version}" if ours else "another package named inference or training"
    yield Finding("packages", ours, words)


def _state_directory(settings: NodeSettings) -> Iterator[Finding]:
    settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(settings.root).free
    enough = free > settings.listener.min_free_bytes
    words = f"{settings.root}, {free / 1e9:.1f} GB free"
    if not enough:
        words += f"; images are refused below {settings.listener.min_free_bytes / 1e9:.1f} GB"
    yield Finding("state directory", enough, words)


def _ledger(settings: NodeSettings) -> Iterator[Finding]:
    with open_node_ledger(settings) as ledger:
        counts = ledger.worklist.counts()
    kind = "SQLite" if settings.ledger_url.startswith("sqlite") else "PostgreSQL"
    yield Finding("ledger", True, f"{kind}, {sum(counts.revisions.values())} series revisions")
    for name, age in (
        ("oldest waiting analysis", counts.oldest_waiting_analysis_s),
        ("oldest open delivery", counts.oldest_open_shipment_s),
    ):
        if age is not None:
            yield Finding(name, age < _STALE_S, f"waits for {age:.0f} s")
    for state, count in counts.analyses.items():
        if state == "quarantined":
            yield Finding("analyses set aside", False, f"{count}; see 'm3lung status'")
    parked = sum(counts.deliveries.get(state, 0) for state in ("parked", "quarantined", "expired"))
    if parked:
        yield Finding("parked deliveries", False, f"{parked} objects; see 'm3lung status'")
    if counts.conflicts:
        words = f"{counts.conflicts} images came again with other content and were set aside"
        yield Finding("conflicting images", True, words)


def _broker(settings: NodeSettings) -> Iterator[Finding]:
    from dicom_node.broker import check_broker, make_app

    yield Finding("broker", True, check_broker(make_app(settings)))


def _listener(settings: NodeSettings) -> Iterator[Finding]:
    from dicom_node.delivery.connection_test import StepResult, echo

    sources = [peer for peer in settings.peers if peer.is_source]
    if not sources and not settings.listener.accept_unknown_callers:
        yield Finding("listener", False, "no source is known, every caller is refused")
        return
    for secure in (False, True):
        if (secure and not settings.tls.enabled) or (not secure and settings.tls.required):
            continue
        ourselves = _ourselves(settings, secure=secure)
        callers = [peer.ae_title for peer in sources if peer.tls == secure]
        caller = settings.model_copy(update={"ae_title": callers[0] if callers else "M3LUNG-CHECK"})
        step = echo(caller, ourselves)
        # A source that is bound to its address or certificate is not us: refused is answered.
        refused = "association rejected" in step.words and "reason 3" in step.words
        words = "answers, and refuses this test as it should" if refused else step.words
        yield Finding(
            "listener, TLS" if secure else "listener",
            refused or step.result is StepResult.OK,
            f"{ourselves.host}:{ourselves.port}: {words}",
        )


def _stow(settings: NodeSettings) -> Iterator[Finding]:
    stow = settings.stow
    if not stow.enabled:
        return
    host = "127.0.0.1" if stow.host == "0.0.0.0" else stow.host  # noqa: S104
    port = stow.port or int((settings.root / "stow.port").read_text(encoding="ascii"))
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        yield Finding("STOW-RS", False, f"{host}:{port}: {error.strerror or error}")
    else:
        yield Finding("STOW-RS", True, f"{host}:{port}: answers")


def _ourselves(settings: NodeSettings, *, secure: bool) -> Peer:
    from dicom_node.tls.certificates import read_certificates

    port = settings.tls.port if secure else settings.listener.port
    file = settings.root / ("listener-tls.port" if secure else "listener.port")
    host = "127.0.0.1" if settings.listener.host == "0.0.0.0" else settings.listener.host  # noqa: S104
    fingerprints: tuple[str, ...] = ()
    if secure and settings.tls.certificate:
        fingerprints = (read_certificates(settings.tls.certificate)[0].sha256,)
    return Peer(
        name="ourselves",
        ae_title=settings.called_ae_titles[0],
        host=host,
        port=port or int(file.read_text(encoding="ascii")),
        tls=secure,
        certificate_sha256=fingerprints,
    )


def certificates(settings: NodeSettings) -> Iterator[Finding]:
    """Our certificate and those we trust: readable, ours alone, and valid for a month yet."""
    from dicom_node.tls import server_context
    from dicom_node.tls.certificates import read_certificates

    tls = settings.tls
    if tls.certificate is None or tls.key is None or tls.ca is None:
        return
    server_context(tls)
    open_to_others = bool(tls.key.stat().st_mode & 0o077)
    words = "may be read by others: chmod 600" if open_to_others else "for its owner alone"
    yield Finding("TLS key", not open_to_others, f"{tls.key}: {words}")
    for path in (tls.certificate, tls.ca):
        for certificate in read_certificates(path):
            days = certificate.days_left
            state = f"expires in {days:.0f} days" if days > 0 else "HAS EXPIRED"
            if 0 < days < _EXPIRY_WARNING_DAYS:
                state += ": renew it now"
            name = "TLS certificate" if path == tls.certificate else "TLS trusted certificate"
            words = f"{certificate.subject}, {state}"
            yield Finding(name, days >= _EXPIRY_WARNING_DAYS, words)


def _model(settings: NodeSettings) -> Iterator[Finding]:
    from inference.bundle import load_bundle

    identity = load_bundle(settings.analysis.bundle_folder).identity
    words = f"{identity.name} {identity.version} ({identity.training}), {identity.sha256[:12]}"
    yield Finding("model", True, words)


def _device(settings: NodeSettings) -> Iterator[Finding]:
    """A GPU is looked for where one is asked for: without it no worker starts."""
    if settings.analysis.device == "cuda":
        from inference.engine import choose_device

        yield Finding("device", True, str(choose_device("cuda")))


def _audit_trail(settings: NodeSettings) -> Iterator[Finding]:
    from dicom_node.audit import Auditor, verify

    if settings.audit.enabled:
        verdict = verify(Auditor(settings, "command").trail, latest_only=True)
        place = f" ({verdict.place})" if verdict.place else ""
        yield Finding("audit trail", verdict.ok, verdict.words + place)


_LOOKS = (
    _packages,
    _state_directory,
    _ledger,
    _broker,
    _listener,
    _stow,
    certificates,
    _audit_trail,
    _model,
    _device,
)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="Administration")(check)
