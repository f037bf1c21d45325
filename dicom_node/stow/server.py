"""The port: TLS, limits on connections, deadlines before a request is there.

uvicorn speaks HTTP. It accepts connections without limit for each address, waits for a request's
header for ever, and keeps one TLS context for its whole life: these three are done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_node.audit import Auditor
from dicom_node.ledger import Tally
from dicom_node.logs import get_logger
from dicom_node.settings import StowSettings
from dicom_node.tls import PeerCertificate, ServerContexts, tls_failure

__all__ = ["StowServer"]

_log = get_logger(__name__)


class _Connection(H11Protocol):
    """A connection that has to say what it wants within a time, and says goodbye to its counter."""

    request_timeout_s = 10.0
    left: Callable[[], None] = staticmethod(lambda: None)
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        certificate = None if secured is None else PeerCertificate.of(secured)
        self.app_state = {**self.app_state, "certificate": certificate}
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self._deadline is None:
            self._arm()
        elif not is_waiting:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        self.left()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.request_timeout_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        _log.info("connection_without_request", address=self.client[0] if self.client else "")
        self.transport.abort()


class StowServer(uvicorn.Server):
    """uvicorn behind an accepting loop of our own.

    Parameters
    ----------
    config : uvicorn.Config
    listening : socket.socket
        Bound and listening; closed when the server stops.
    limits : callable
        Returns the settings that hold now.
    contexts : ServerContexts or None
        None: no TLS.
    turned : callable
        Called whenever the main loop comes round.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        *,
        limits: Callable[[], StowSettings],
        contexts: ServerContexts | None,
        auditor: Auditor,
        tally: Tally,
        turned: Callable[[], None],
    ) -> None:
        super().__init__(config)
        listening.setblocking(False)
        self._listening = listening
        self._limits = limits
        self._contexts = contexts
        self._auditor = auditor
        self._tally = tally
        self._turned = turned
        self._open: Counter[str] = Counter()  # connections by address
        self._tasks: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept by ourselves."""
        await super().startup(sockets=[])
        self._keep(self._accept())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody more; let requests under way finish."""
        for task in list(self._tasks):
            task.cancel()
        self._listening.close()
        await super().shutdown(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        """Tell that the loop comes round."""
        self._turned()
        return await super().on_tick(counter)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._listening)
            except OSError as error:
                # Out of descriptors or memory: those who are connected go on, and will leave.
                _log.error("accept_failed", error=errno.errorcode.get(error.errno or 0, "?"))
                await asyncio.sleep(0.1)
                continue
            address = str(peer[0])
            limits = self._limits()
            is_full = self._open.total() >= limits.max_connections
            if is_full or self._open[address] >= limits.max_connections_per_address:
                _log.warning("connection_refused", address=address, reason="too many connections")
                self._tally.count("stow_refused", "too_many_connections")
                connection.close()
                continue
            self._open[address] += 1
            self._keep(self._welcome(connection, address, limits))

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _welcome(self, connection: socket.socket, address: str, limits: StowSettings) -> None:
        """Shake hands, then leave the connection to its protocol."""
        left = _once(lambda: self._leave(address))

        def protocol() -> _Connection:
            made = _Connection(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            made.request_timeout_s = limits.request_timeout_s
            made.left = left
            return made

        loop = asyncio.get_running_loop()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._contexts is None:
                await loop.connect_accepted_socket(protocol, connection)
            else:
                await loop.connect_accepted_socket(
                    protocol,
                    connection,
                    ssl=_optional(self._contexts()),
                    ssl_handshake_timeout=limits.request_timeout_s,
                )
        except (OSError, ssl.SSLError) as error:
            left()
            with contextlib.suppress(OSError):
                connection.close()
            words = tls_failure(error)
            _log.warning("tls_handshake_failed", address=address, reason=words)
            self._tally.count("stow_refused", "tls_handshake")
            refused = functools.partial(self._auditor.refused, f"TLS: {words}", address=address)
            await loop.run_in_executor(None, refused)
        except asyncio.CancelledError:
            left()
            connection.close()
            raise

    def _leave(self, address: str) -> None:
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


def _optional(context: ssl.SSLContext) -> ssl.SSLContext:
    """Take callers without a certificate, too: they have a token to show."""
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _once(function: Callable[[], None]) -> Callable[[], None]:
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            function()

    return call
