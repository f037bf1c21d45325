"""Whether the node makes progress, and whether it takes images: never whether a process answers.

``/healthz`` is for people and alarms: sweeps happen, ready work is taken, there is disk.
``/readyz`` is for those who route images: would one that is sent now be taken. Neither is a reason
to restart anything: a worker that cannot load its model is not cured by a new listener.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.ledger import RunningProcess
from dicom_node.metrics.disk import disk_use
from dicom_node.metrics.reading import Reading
from dicom_node.settings import NodeSettings

__all__ = ["HealthFinding", "health", "readiness"]

_CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """One thing that was looked at."""

    name: str
    ok: bool
    words: str


def health(
    reading: Reading | None, settings: NodeSettings, ledger_error: str = ""
) -> list[HealthFinding]:
    """Return what there is to say about the node's progress."""
    findings = readiness(reading, settings, ledger_error)
    if reading is not None:
        findings.append(_loop(reading, settings, "reconcile", "sweeps"))
        findings += _work(reading, settings)
    return findings


def readiness(
    reading: Reading | None, settings: NodeSettings, ledger_error: str = ""
) -> list[HealthFinding]:
    """Return what has to hold for an image to be taken now."""
    if reading is None:
        return [
            HealthFinding("ledger", False, f"does not answer ({ledger_error})"),
            _disk(settings),
        ]
    listening = _loop(reading, settings, "listen", "accepts")
    if listening.ok:
        listening = _connects(reading, settings) or listening
    return [HealthFinding("ledger", True, "answers"), listening, _disk(settings)]


def _loop(reading: Reading, settings: NodeSettings, part: str, verb: str) -> HealthFinding:
    running = [process for process in reading.processes if process.part == part]
    if not running:
        return HealthFinding(part, False, f"no {part} process was heard of lately")
    # One that comes round is enough: the others are its sisters.
    age = min(_turn_age(reading, process) for process in running)
    ok = age <= settings.metrics.stale_loop_s
    return HealthFinding(part, ok, f"{verb}; its loop came round {age:.0f} s ago")


def _turn_age(reading: Reading, process: RunningProcess) -> float:
    return max(0.0, reading.at - (process.turned_at or process.started_at))


def _connects(reading: Reading, settings: NodeSettings) -> HealthFinding | None:
    """Try the listener's port where it listens on this machine; None: it does, or is elsewhere."""
    here = socket.gethostname()[:64]
    if all(process.host != here for process in reading.processes if process.part == "listen"):
        return None
    name = "listener-tls.port" if settings.tls.required else "listener.port"
    try:
        port = int((settings.root / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    host = settings.listener.host
    if host in ("0.0.0.0", "", "::"):  # noqa: S104  everywhere: here, too
        host = "127.0.0.1"
    try:
        # Costs the listener nothing and needs no AE title.
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        return HealthFinding("listen", False, f"port {port} refuses: {type(error).__name__}")
    return None


def _disk(settings: NodeSettings) -> HealthFinding:
    use = disk_use(settings.spool_dir)
    if use is None:
        return HealthFinding("disk", False, "the spool's disk cannot be looked at")
    words = f"{use.free_bytes / 1e9:.1f} GB free, {use.used_percent:.0f} % used"
    if use.free_bytes <= settings.listener.min_free_bytes:
        return HealthFinding("disk", False, f"{words}: images are refused")
    if use.used_percent >= settings.retention.high_water_percent:
        return HealthFinding("disk", False, f"{words}: above the high-water mark")
    return HealthFinding("disk", True, words)


def _work(reading: Reading, settings: NodeSettings) -> Iterator[HealthFinding]:
    for kind, waiting in reading.ready.items():
        ok = waiting.oldest_s <= settings.metrics.stale_work_s
        words = "nothing waits"
        if waiting.count:
            words = f"{waiting.count} wait, the oldest for {waiting.oldest_s:.0f} s"
        yield HealthFinding(kind, ok, words)
    limit = settings.completion.maximum_wait_s + settings.metrics.stale_work_s
    for state, waiting in reading.open_revisions.items():
        if waiting.count:
            words = f"{waiting.count} series, the oldest for {waiting.oldest_s:.0f} s"
            yield HealthFinding(state, waiting.oldest_s <= limit, words)
