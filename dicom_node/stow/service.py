"""The STOW-RS service as a process: settings in, an exit code out."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from dicom_node.audit import Auditor
from dicom_node.errors import ConfigurationError
from dicom_node.ledger import open_ledger
from dicom_node.logs import get_logger
from dicom_node.pulse import Pulse
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.reception.session import Reception
from dicom_node.reception.water_marks import WaterMarks
from dicom_node.settings import NodeSettings, SettingsSource
from dicom_node.spool import Spool
from dicom_node.stow.app import make_app
from dicom_node.stow.server import StowServer
from dicom_node.tls import ServerContexts

__all__ = ["PORT_FILE", "run_stow"]

_log = get_logger(__name__)
PORT_FILE = "stow.port"
"""Under the state directory: the port that was bound, for whoever asked for any (port 0)."""
_STOP_S = 10
_SPARE_THREADS = 2  # for what is asked of the disk before a request is let in


def run_stow(source: SettingsSource) -> None:
    """Receive by HTTP until a signal ends it.

    Raises
    ------
    ConfigurationError
        The port is taken, the address is not ours, or the TLS files are wrong.
    LedgerError, OutOfResources
        Ledger or spool cannot be opened.
    """
    settings = source()
    stow = settings.stow
    contexts = ServerContexts(settings.tls) if stow.tls else None
    spool = Spool(
        settings.spool_dir,
        min_free_bytes=settings.listener.min_free_bytes,
        max_instance_bytes=settings.listener.max_instance_bytes,
    )
    spool.prepare()
    # Its warnings quote single characters of what was sent.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    auditor = Auditor(settings, "stow")
    with (
        _listening(stow.host, stow.port) as listening,
        open_ledger(settings.ledger_url, supersede=settings.completion.supersede) as ledger,
        auditor.running(),
        ThreadPoolExecutor(stow.max_requests + _SPARE_THREADS, "stow") as executor,
        _announced(settings.root / PORT_FILE, listening.getsockname()[1]),
    ):
        pulse = Pulse(ledger, "stow")
        reception = Reception(
            spool,
            ledger.intake,
            GroupCommit(spool, ledger.intake),
            marks=WaterMarks(spool),
            tally=pulse.tally,
        )
        config = uvicorn.Config(
            make_app(source, reception, auditor, executor),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # the node's own; none of requests, whose addresses may be telling
            access_log=False,
            server_header=False,
            proxy_headers=False,  # addresses are those of connections
            timeout_keep_alive=max(1, int(stow.request_timeout_s)),
            timeout_graceful_shutdown=_STOP_S,
        )
        server = StowServer(
            config,
            listening,
            limits=lambda: source().stow,
            contexts=contexts,
            auditor=auditor,
            tally=pulse.tally,
            turned=pulse.turn,
        )
        _warn_if_open(settings)
        port = listening.getsockname()[1]
        _log.info("stow answers", host=stow.host, port=port, tls=stow.tls)
        # uvicorn sends itself the signal again when it is done: what was asked for has happened.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        with pulse.beating():
            server.run()


@contextlib.contextmanager
def _listening(host: str, number: int) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        port = socket.create_server((host, number), family=family, backlog=512)
    except OSError as error:
        raise ConfigurationError(f"stow: {host}:{number}: {error.strerror}") from error
    with port:
        yield port


@contextlib.contextmanager
def _announced(path: Path, number: int) -> Iterator[None]:
    path.write_text(f"{number}\n", encoding="ascii")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _warn_if_open(settings: NodeSettings) -> None:
    local = settings.stow.host in ("127.0.0.1", "::1", "localhost")
    if not local and not settings.stow.tls:
        _log.warning(
            "THE STOW SERVICE IS REACHABLE FROM THE NETWORK without encryption: tokens and images "
            "can be read on the way; set stow.tls, or put a proxy with TLS before it",
            host=settings.stow.host,
        )
    sources = [peer for peer in settings.peers if peer.is_source]
    if not any(settings.credentials_of(peer).accepted_tokens or peer.tls for peer in sources):
        _log.warning("no source has a token or a certificate: every request will be refused")
