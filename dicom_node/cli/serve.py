"""``m3lung serve``: everything on one machine, each part a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from dicom_node.cli.orphan import PARENT_VARIABLE
from dicom_node.cli.terminal import ConfigOption, err, settings_source
from dicom_node.errors import ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import NodeSettings

__all__ = ["Supervisor", "register"]

_log = get_logger(__name__)

PARTS = ("listen", "reconcile", "work", "deliver")
_RESTART_CAP_S = 30.0
_STABLE_S = 60.0  # a part that ran this long starts again at once
_STOP_S = 30.0


@dataclass
class _Part:
    verb: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = field(default=0)


class Supervisor:
    """Keeps the parts of a node running until told to stop.

    Parameters
    ----------
    config : Path or None
        Passed on to each part.
    parts : sequence of str
        Their verbs.
    """

    def __init__(self, config: Path | None, parts: Sequence[str] = PARTS) -> None:
        self._options = [] if config is None else ["--config", str(config)]
        self._parts = [_Part(verb) for verb in parts]

    def run(self, stop: threading.Event) -> None:
        """Start all parts, start again what ends, and end all when `stop` is set."""
        try:
            while not stop.wait(0.2):
                for part in self._parts:
                    self._look_after(part)
        finally:
            self._stop()

    def _look_after(self, part: _Part) -> None:
        now = time.monotonic()
        if part.process is not None:
            code = part.process.poll()
            if code is None:
                return
            part.process = None
            part.failures = 0 if now - part.started_at > _STABLE_S else part.failures + 1
            delay = 0.0 if part.failures <= 1 else min(_RESTART_CAP_S, 2.0 ** (part.failures - 2))
            part.restart_at = now + delay
            _log.error("part ended, is started again", part=part.verb, code=code, in_s=delay)
        if now >= part.restart_at:
            part.started_at = now
            part.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node", part.verb, *self._options],
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches only `serve`, which then ends its parts in order.
                start_new_session=True,
            )

    def _stop(self) -> None:
        running = [part.process for part in self._parts if part.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # an analysis in progress is taken up again at the next start
                process.wait()


def serve(config: ConfigOption = None) -> None:
    """Run the whole node on this machine: listener, reconciler, worker, delivery, console.

    With the defaults it needs nothing else: SQLite and an embedded broker under the state
    directory. Stop it with Ctrl-C or SIGTERM; kill it and nothing is lost.
    """
    source = settings_source(config)
    settings = source()
    _prepare(settings)
    _greet(settings, source.path)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parts = (*PARTS, "console") if settings.console.enabled else PARTS
    parts = (*parts, "metrics") if settings.metrics.enabled else parts
    Supervisor(source.path, parts).run(stop)


def _prepare(settings: NodeSettings) -> None:
    """Make the state directory and the schema before four processes ask for them at once."""
    try:
        settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"state_dir: {settings.root}: {error.strerror}") from error
    open_node_ledger(settings).close()


def _greet(settings: NodeSettings, config: Path | None) -> None:
    listener = settings.listener
    err.print(
        f"m3lung node [bold]{settings.ae_title}[/] on {listener.host}:{listener.port}, "
        f"configuration {config or 'built in'}, state in {settings.root}",
        highlight=False,
    )
    if settings.stow.enabled:
        stow = settings.stow
        scheme = "https" if stow.tls else "http"
        err.print(
            f"STOW-RS at {scheme}://{stow.host}:{stow.port}{stow.base_path}/studies",
            highlight=False,
        )
    sources = [peer.ae_title for peer in settings.peers if peer.is_source]
    destinations = [peer.ae_title for peer in settings.peers if peer.is_destination]
    err.print(
        f"receives from {', '.join(sources) or 'nobody'}; sends to "
        f"{', '.join(destinations) or 'nobody'}",
        highlight=False,
    )
    if settings.console.enabled:
        console = settings.console
        err.print(
            f"console at http://{console.host}:{console.port}{console.base_path}/", highlight=False
        )
    if listener.accept_unknown_callers:
        err.print("[yellow]Every caller is accepted: use this on a closed test network only.[/]")
    elif not sources:
        err.print(
            "[yellow]No source is known, so every caller is refused. Add one:[/] "
            "m3lung peers add pacs --ae-title ORTHANC --host 127.0.0.1 --port 4242"
        )
    if settings.analysis.bundle is None:
        err.print(
            "[yellow]No model bundle is configured: the node reads with the DEMONSTRATION model, "
            "trained on synthetic patients, and every result says so.[/]"
        )


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="Use")(serve)
