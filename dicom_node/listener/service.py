"""The listener as a service: settings in, an exit code out."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_node.audit import Auditor
from dicom_node.errors import NodeError
from dicom_node.listener.server import AssociationServer, bind
from dicom_node.listener.storage import Storage
from dicom_node.listener.supervisor import Supervisor
from dicom_node.logs import get_logger
from dicom_node.node_ledger import open_node_ledger
from dicom_node.pulse import Pulse
from dicom_node.reception.admission import Admission, Visitor
from dicom_node.reception.caller import Caller
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.reception.water_marks import WaterMarks
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool
from dicom_node.stow import RequestHandler
from dicom_node.tls import ServerContexts

__all__ = ["PORT_FILE", "STOW_PORT_FILE", "TLS_PORT_FILE", "run_listener"]

_log = get_logger(__name__)
PORT_FILE = "listener.port"
"""Under the state directory: the port that was bound, for whoever asked for any (port 0)."""
TLS_PORT_FILE = "listener-tls.port"
"""The same of the TLS port."""
STOW_PORT_FILE = "stow.port"
"""The same of the port for STOW-RS."""
_GRACE_S = 10.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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
        open_node_ledger(settings).close()
        _spool(settings).prepare()
        if settings.tls.enabled:
            ServerContexts(settings.tls)  # raises what is wrong with the files
        doors = _doors(settings)
    except NodeError as error:
        _log.error("listener_not_started", error=str(error))
        return 1
    _warn_if_open(settings)
    for door in doors:
        host, port = door.socket.getsockname()[:2]
        titles = list(settings.called_ae_titles)
        spoken = "HTTP" if door.speaks_http else "DICOM"
        _log.info(
            "listening", host=host, port=port, speaks=spoken, tls=door.secure, ae_titles=titles
        )
    count = processes or settings.listener.processes
    auditor = Auditor(settings, "listen")
    with auditor.running():
        if count == 1:
            return _serve(doors, settings_source, stop.is_set, auditor)

        def serve_child(is_over: Callable[[], bool]) -> int:
            try:
                again = [door.again() for door in doors]
                return _serve(again, settings_source, is_over, auditor)
            finally:
                auditor.tell_held_back()

        # The parent keeps the ports bound, never listens, and holds no ledger connection.
        with contextlib.ExitStack() as stack:
            for door in doors:
                stack.enter_context(door.socket)
            return Supervisor(serve_child, count, _GRACE_S + 5.0).run(stop)


@dataclass(frozen=True, slots=True)
class _Door:
    """A bound port, and what is spoken behind it."""

    socket: socket.socket
    secure: bool
    speaks_http: bool = False

    @property
    def port_file(self) -> str:
        """Where its number is told."""
        if self.speaks_http:
            return STOW_PORT_FILE
        return TLS_PORT_FILE if self.secure else PORT_FILE

    def contexts(self, settings: NodeSettings) -> ServerContexts | None:
        """Return its side of TLS; who speaks HTTP may show a token in place of a certificate."""
        if not self.secure:
            return None
        return ServerContexts(settings.tls, needs_certificate=not self.speaks_http)

    def again(self) -> _Door:
        """Return the same port bound once more, for a sister process."""
        host, port = self.socket.getsockname()[:2]
        return _Door(bind(host, port), self.secure, self.speaks_http)


def _doors(settings: NodeSettings) -> list[_Door]:
    doors = []
    if not settings.tls.required:
        doors.append(_Door(bind(settings.listener.host, settings.listener.port), secure=False))
    if settings.tls.enabled:
        doors.append(_Door(bind(settings.listener.host, settings.tls.port), secure=True))
    stow = settings.stow
    if stow.enabled:
        doors.append(_Door(bind(stow.host, stow.port), secure=stow.tls, speaks_http=True))
    return doors


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def _serve(
    doors: list[_Door],
    settings_source: Callable[[], NodeSettings],
    is_over: Callable[[], bool],
    auditor: Auditor,
) -> int:
    settings = settings_source()
    spool = _spool(settings)
    with open_node_ledger(settings) as ledger:
        pulse = Pulse(ledger, "listen")
        storage = Storage(
            spool,
            ledger.intake,
            GroupCommit(spool, ledger.intake),
            marks=WaterMarks(spool),
            tally=pulse.tally,
            reports=ledger.commitment_reports,
        )
        admission = Admission()

        def speak_http(visitor: Visitor, caller: Caller, is_stopping: Callable[[], bool]) -> None:
            RequestHandler(
                visitor,
                caller,
                admission=admission,
                reception=storage,
                settings=settings_source,
                is_stopping=is_stopping,
                auditor=auditor,
            ).serve()

        servers = [
            AssociationServer(
                door.socket,
                storage,
                settings_source,
                ssl_context=door.contexts(settings),
                admission=admission,
                auditor=auditor,
                speak=speak_http if door.speaks_http else None,
                turned=pulse.turn,
            )
            for door in doors
        ]
        for door in doors:
            _announce(settings.root / door.port_file, door.socket.getsockname()[1])
        threads = [
            threading.Thread(target=server.serve, args=(is_over, _GRACE_S))
            for server in servers[1:]
        ]
        with pulse.beating():
            for thread in threads:
                thread.start()
            servers[0].serve(is_over, _GRACE_S)
            for thread in threads:
                thread.join()
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
    if settings.listener.host not in _LOOPBACK and not settings.tls.required:
        _log.warning(
            "THE LISTENER IS REACHABLE FROM THE NETWORK without encryption; "
            "keep it on a network that you trust, or set tls.required",
            host=settings.listener.host,
        )
    if settings.stow.enabled:
        _warn_of_stow(settings)
    if not any(peer.is_source for peer in settings.peers) and (
        not settings.listener.accept_unknown_callers
    ):
        _log.warning("no peer may send yet: every association will be rejected")


def _warn_of_stow(settings: NodeSettings) -> None:
    stow = settings.stow
    if stow.host not in _LOOPBACK and not stow.tls:
        _log.warning(
            "THE STOW-RS PORT IS REACHABLE FROM THE NETWORK without encryption: tokens and images "
            "can be read on the way; set stow.tls, or put a proxy with TLS before it",
            host=stow.host,
        )
    sources = [peer for peer in settings.peers if peer.is_source]
    if not any(settings.credentials_of(peer).accepted_tokens or peer.tls for peer in sources):
        _log.warning("no source has a token or a certificate: every request will be refused")
