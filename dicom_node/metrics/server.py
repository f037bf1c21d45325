"""The exporter as a process: a small threaded HTTP server of the standard library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from dicom_node.errors import ConfigurationError
from dicom_node.ledger import Ledger
from dicom_node.logs import get_logger
from dicom_node.metrics.app import MetricsApp
from dicom_node.settings import NodeSettings

__all__ = ["PORT_FILE", "serve_metrics"]

_log = get_logger(__name__)
PORT_FILE = "metrics.port"
"""Under the state directory: the port that was bound, for whoever asked for any (port 0)."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 32

    def server_bind(self) -> None:
        """Bind without asking DNS for the machine's full name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "m3lung", self.server_address[1]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # a client that says nothing

    def log_message(self, format: str, *words: object) -> None:
        """Say nothing: scrapes come every few seconds."""

    def address_string(self) -> str:
        """Return the address as it is: no name is looked up."""
        return str(self.client_address[0])


def serve_metrics(
    settings: Callable[[], NodeSettings],
    ledger: Ledger,
    stop: threading.Event,
    *,
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Answer scrapes until `stop` is set.

    Raises
    ------
    ConfigurationError
        The address cannot be bound.
    """
    own = settings().metrics
    host, port = host or own.host, own.port if port is None else port
    try:
        server = _Server((host, port), _Handler)
    except OSError as error:
        raise ConfigurationError(f"metrics: {host}:{port}: {error.strerror or error}") from error
    server.set_app(MetricsApp(settings, ledger).wsgi)
    root = settings().root
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    (root / PORT_FILE).write_text(f"{server.server_port}\n", encoding="ascii")
    _log.info("metrics", host=host, port=server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2})
    thread.start()
    try:
        stop.wait()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
