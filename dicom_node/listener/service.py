"""The listener as a service: settings in, an exit code out."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from dicom_node.errors import NodeError
from dicom_node.ledger import open_ledger
from dicom_node.listener.group_commit import GroupCommit
from dicom_node.listener.server import AssociationServer, bind
from dicom_node.listener.storage import Storage
from dicom_node.listener.supervisor import Supervisor
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool

__all__ = ["PORT_FILE", "run_listener"]

_log = get_logger(__name__)
PORT_FILE = "listener.port"
"""Under the state directory: the port that was bound, for whoever asked for any (port 0)."""
_GRACE_S = 10.0


def run_listener(
    settings_source: Callable[[], NodeSettings],
    stop: threading.Event | None = None,
    *,
    processes: int | None = None,
) -> int:
    """Receive until told to stop.

    Parameters
    ----------
    settings_source : callable
        Returns the settings that hold now; host, port, processes, spool and ledger are taken
        once, peers and limits at every use.
    stop : threading.Event, optional
        Without it SIGTERM and SIGINT stop the listener (main thread only).
    processes : int, optional
        In place of ``listener.processes``.

    Returns
    -------
    int
        0 after an orderly stop, 1 if it cannot start.

    Notes
    -----
    Above one the processes are forked and share the port; the limits on connections and
    associations hold for each of them. The caller should have no busy thread at that time.
    """
    stop = stop or _stop_on_signals()
    settings = settings_source()
    try:
        # Schema and directories once, before anybody forks; errors come out where they are seen.
        open_ledger(settings.ledger_url).close()
        _spool(settings).prepare()
        listening = bind(settings.listener.host, settings.listener.port)
    except NodeError as error:
        _log.error("listener_not_started", error=str(error))
        return 1
    host, port = listening.getsockname()[:2]
    _warn_if_open(settings)
    _log.info("listening", host=host, port=port, ae_titles=list(settings.called_ae_titles))
    count = processes or settings.listener.processes
    if count == 1:
        return _serve(listening, settings_source, stop.is_set)

    def serve_child(is_over: Callable[[], bool]) -> int:
        return _serve(bind(host, port), settings_source, is_over)

    # The parent keeps the port bound, never listens, and holds no ledger connection.
    with listening:
        return Supervisor(serve_child, count, _GRACE_S + 5.0).run(stop)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _serve(
    listening: socket.socket,
    settings_source: Callable[[], NodeSettings],
    is_over: Callable[[], bool],
) -> int:
    settings = settings_source()
    spool = _spool(settings)
    with open_ledger(settings.ledger_url, supersede=settings.completion.supersede) as ledger:
        storage = Storage(spool, ledger.intake, GroupCommit(spool, ledger.intake))
        server = AssociationServer(listening, storage, settings_source)
        _announce(settings.root / PORT_FILE, listening.getsockname()[1])
        server.serve(is_over, _GRACE_S)
    _log.info("listener_stopped", pid=os.getpid())
    return 0


def _spool(settings: NodeSettings) -> Spool:
    return Spool(
        settings.spool_dir,
        min_free_bytes=settings.listener.min_free_bytes,
        max_instance_bytes=settings.listener.max_instance_bytes,
    )


def _announce(path: Path, port: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(f"{port}\n", encoding="ascii")
    temporary.replace(path)


def _warn_if_open(settings: NodeSettings) -> None:
    if settings.listener.accept_unknown_callers:
        _log.warning(
            "EVERY CALLING AE TITLE IS ACCEPTED: anybody who reaches this port can store images; "
            "set listener.accept_unknown_callers = false and name the peers"
        )
    if settings.listener.host not in ("127.0.0.1", "::1", "localhost"):
        _log.warning(
            "THE LISTENER IS REACHABLE FROM THE NETWORK without encryption; "
            "keep it on a network that you trust",
            host=settings.listener.host,
        )
    if not any(peer.is_source for peer in settings.peers) and (
        not settings.listener.accept_unknown_callers
    ):
        _log.warning("no peer may send yet: every association will be rejected")
