"""A connected socket as requests and answers (RFC 9112), spoken by h11.

h11 knows the protocol and no socket; what stands here is the socket, and the time that each piece
may take, whatever the pace.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate

import h11

__all__ = ["BLOCK_BYTES", "HTTPStream", "IllegalRequest", "SenderGone", "SenderTooSlow"]

BLOCK_BYTES = 256 << 10
"""So much of a body has to come within ``listener.pdu_timeout_s``."""

_RECEIVE_BYTES = 64 << 10
_MAX_HEADER_BYTES = 64 << 10
_SEND_TIMEOUT_S = 20.0
_LINGER_S = 2.0  # for a sender that still sends to read why it should not

IllegalRequest = h11.RemoteProtocolError
"""It is no HTTP; `error_status_hint` says what to answer."""


class SenderGone(Exception):
    """The other side closed or reset the connection."""


class SenderTooSlow(Exception):
    """A header or a block of a body did not come in time."""


class HTTPStream:
    """The server's side of one connection.

    Parameters
    ----------
    connection : socket.socket
        Connected, after TLS if there is any.
    header_timeout_s : float
        From the first byte of a request to the end of its header.
    block_timeout_s : float
        For each :data:`BLOCK_BYTES` of a body.
    """

    def __init__(
        self, connection: socket.socket, *, header_timeout_s: float, block_timeout_s: float
    ) -> None:
        self._socket = connection
        self._header_timeout_s = header_timeout_s
        self._block_timeout_s = block_timeout_s
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)
        self._is_head = False

    def next_request(self, wait_s: float) -> h11.Request | None:
        """Return the next request, None when the other side has ended the connection.

        Parameters
        ----------
        wait_s : float
            For the first byte.

        Raises
        ------
        SenderGone, SenderTooSlow, IllegalRequest
        """
        deadline, has_begun = time.monotonic() + wait_s, False
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._is_head = event.method == b"HEAD"
                return event
            if isinstance(event, h11.ConnectionClosed):
                return None
            self._receive(deadline)
            if not has_begun:
                deadline, has_begun = time.monotonic() + self._header_timeout_s, True

    def body(self) -> Iterator[bytes]:
        """Yield the body of the request, in pieces as they come, to its end.

        Raises
        ------
        SenderGone, SenderTooSlow, IllegalRequest
        """
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        missing, deadline = BLOCK_BYTES, time.monotonic() + self._block_timeout_s
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)
                missing -= len(event.data)
                if missing <= 0:
                    missing, deadline = BLOCK_BYTES, time.monotonic() + self._block_timeout_s
            else:
                self._receive(deadline)

    def answer(self, status: int, content: bytes = b"", headers: Mapping[str, str] = {}) -> bool:
        """Answer the request; return whether another may follow on this connection.

        Where the body was not read to its end, none may.

        Raises
        ------
        SenderGone
        """
        is_read = self._http.their_state is h11.DONE
        said = {"Date": formatdate(usegmt=True), "Content-Length": str(len(content)), **headers}
        if not is_read:
            said["Connection"] = "close"
        self._send(h11.Response(status_code=status, headers=list(said.items())))
        if content and not self._is_head:
            self._send(h11.Data(data=content))
        self._send(h11.EndOfMessage())
        if not is_read:
            self._let_read()
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def _let_read(self) -> None:
        """Take for a moment what still comes: a reset would take our answer away."""
        deadline = time.monotonic() + _LINGER_S
        with contextlib.suppress(SenderGone, SenderTooSlow):
            while self._received(deadline):
                pass

    def _receive(self, deadline: float) -> None:
        self._http.receive_data(self._received(deadline))

    def _received(self, deadline: float) -> bytes:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise SenderTooSlow
        try:
            self._socket.settimeout(remaining)
            return self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise SenderTooSlow from None
        except OSError as error:
            raise SenderGone from error

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        try:
            self._socket.settimeout(_SEND_TIMEOUT_S)
            self._socket.sendall(data or b"")
        except OSError as error:
            raise SenderGone from error
