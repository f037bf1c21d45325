"""The console as a process: one port, one loop, streams that end when it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

import uvicorn

from dicom_node.audit import Auditor
from dicom_node.console.app import make_app
from dicom_node.errors import ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import SettingsSource

__all__ = ["run_console"]

_log = get_logger(__name__)
_STOP_S = 5


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: they would hold the process until they are cut off."""
        self.config.app.state.console.live.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def run_console(source: SettingsSource) -> None:
    """Serve the console until a signal ends it.

    Raises
    ------
    ConfigurationError
        The port is taken, or the address is not ours.
    """
    settings = source()
    auditor = Auditor(settings, "console")
    with (
        _listening(settings.console.host, settings.console.port) as port,
        open_node_ledger(settings) as ledger,
        auditor.running(),
        _announced(settings.root / "console.port", port.getsockname()[1]),
    ):
        config = uvicorn.Config(
            make_app(source, ledger, auditor),
            log_config=None,  # the node's own; none of requests, whose addresses may be telling
            access_log=False,
            server_header=False,
            proxy_headers=False,  # see `origin`
            timeout_graceful_shutdown=_STOP_S,
        )
        _log.info("console answers", host=settings.console.host, port=port.getsockname()[1])
        # uvicorn sends itself the signal again when it is done: what was asked for has happened.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        _Server(config).run(sockets=[port])


@contextlib.contextmanager
def _listening(host: str, number: int) -> Any:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        port = socket.create_server((host, number), family=family, backlog=128)
    except OSError as error:
        raise ConfigurationError(f"console: {host}:{number}: {error.strerror}") from error
    with port:
        yield port


@contextlib.contextmanager
def _announced(path: Path, number: int) -> Any:
    """Write which port it is, for whoever asked for any."""
    path.write_text(str(number), encoding="ascii")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
