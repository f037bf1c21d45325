"""PDUs from and to a socket that may belong to anybody (PS3.8 §9.3).

Every PDU has to arrive within an absolute time from its first byte, whatever the pace; its
length is checked before anything is allocated.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import struct
import time

__all__ = ["ConnectionClosed", "IllegalPDU", "PDUStream", "PDUType", "PeerTooSlow"]

_HEADER = struct.Struct(">BxL")
_HEADER_BYTES = 6
_MAX_ASSOCIATE_BYTES = 256 << 10  # 128 contexts with 30 transfer syntaxes each: 130 kB
_MAX_CONTROL_BYTES = 64  # release and abort have 4
# Some senders count the PDV headers of their fragments on top of the maximum length.
_P_DATA_SLACK = 1024
_SEND_TIMEOUT_S = 20.0
_TLS_HELLO = b"\x16\x03"  # content type handshake, major version (RFC 8446 §5.1)
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class PDUType(enum.IntEnum):
    """PS3.8 §9.3.1."""

    A_ASSOCIATE_RQ = 1
    A_ASSOCIATE_AC = 2
    A_ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    A_RELEASE_RQ = 5
    A_RELEASE_RP = 6
    A_ABORT = 7


class ConnectionClosed(Exception):
    """The peer closed or reset the connection."""


class PeerTooSlow(Exception):
    """A PDU, or the wait for one, took longer than allowed."""


class IllegalPDU(Exception):
    """Unknown type or a length beyond the limit."""


class PDUStream:
    """A connected socket as a sequence of PDUs.

    Parameters
    ----------
    connection : socket.socket
        Connected; owned by the stream from now on.
    pdu_timeout_s : float
        From the first byte of a PDU to its last.
    max_pdu_bytes : int
        The maximum length that we announce for P-DATA.
    """

    def __init__(
        self, connection: socket.socket, *, pdu_timeout_s: float, max_pdu_bytes: int
    ) -> None:
        self._socket = connection
        self._pdu_timeout_s = pdu_timeout_s
        self._max_p_data = max_pdu_bytes + _P_DATA_SLACK
        self._header = bytearray(_HEADER_BYTES)
        self._body = bytearray()
        # A sender with Nagle's algorithm waits for our acknowledgement of its last small packet:
        # without these two an image costs about 45 ms more.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._acknowledge_at_once()

    def _acknowledge_at_once(self) -> None:
        # The kernel forgets the option as it likes: set again after each receive (tcp(7)).
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def read(self, wait_s: float) -> tuple[PDUType, memoryview]:
        """Return type and variable field of the next PDU; the view is valid until the next read.

        Parameters
        ----------
        wait_s : float
            For the first byte.

        Raises
        ------
        ConnectionClosed, PeerTooSlow, IllegalPDU
        """
        header = memoryview(self._header)
        received = self._receive(header, time.monotonic() + wait_s)
        deadline = time.monotonic() + self._pdu_timeout_s
        self._fill(header[received:], deadline)
        number, length = _HEADER.unpack(self._header)
        if self._header[:2] == _TLS_HELLO:
            raise IllegalPDU("a TLS handshake on the plain port")
        try:
            kind = PDUType(number)
        except ValueError:
            raise IllegalPDU(f"PDU type {number}") from None
        if length > self._limit(kind):
            raise IllegalPDU(f"{kind.name} of {length} bytes")
        return kind, self._read_body(length, deadline)

    def _limit(self, kind: PDUType) -> int:
        if kind is PDUType.P_DATA_TF:
            return self._max_p_data
        return _MAX_ASSOCIATE_BYTES if kind is PDUType.A_ASSOCIATE_RQ else _MAX_CONTROL_BYTES

    def _read_body(self, length: int, deadline: float) -> memoryview:
        filled = 0
        while filled < length:
            if filled == len(self._body):
                # Grows with what has come, not with what was announced.
                self._body = bytearray(self._body) + bytearray(max(65536, len(self._body)))
            end = min(length, len(self._body))
            filled += self._receive(memoryview(self._body)[filled:end], deadline)
        return memoryview(self._body)[:length]

    def _fill(self, target: memoryview, deadline: float) -> None:
        while target:
            target = target[self._receive(target, deadline) :]

    def _receive(self, target: memoryview, deadline: float) -> int:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise PeerTooSlow
        try:
            self._socket.settimeout(remaining)
            count = self._socket.recv_into(target)
        except TimeoutError:
            raise PeerTooSlow from None
        except OSError as error:
            raise ConnectionClosed(type(error).__name__) from error
        if count == 0:
            raise ConnectionClosed("closed by the peer")
        self._acknowledge_at_once()
        return count

    def send(self, pdu: bytes) -> None:
        """Send an encoded PDU.

        Raises
        ------
        ConnectionClosed, PeerTooSlow
        """
        try:
            self._socket.settimeout(_SEND_TIMEOUT_S)
            self._socket.sendall(pdu)
        except TimeoutError:
            raise PeerTooSlow from None
        except OSError as error:
            raise ConnectionClosed(type(error).__name__) from error

    def wait_for_close(self, limit_s: float, *, end_ours: bool = False) -> None:
        """Let the peer close first (PS3.8, Sta13), so that our last PDU is not lost in a reset.

        Parameters
        ----------
        limit_s : float
        end_ours : bool
            End our direction at once: good after an abort. Not after a rejection: pynetdicom, as
            a requestor, takes an end of the stream right behind it for a lost connection, and its
            user never learns the reason.
        """
        deadline = time.monotonic() + limit_s
        scratch = memoryview(bytearray(4096))
        with contextlib.suppress(ConnectionClosed, PeerTooSlow, OSError, ValueError):
            if end_ours:
                if isinstance(self._socket, ssl.SSLSocket):
                    # Says close_notify and waits for the peer's; then the connection is plain.
                    self._socket.settimeout(limit_s)
                    self._socket.unwrap()
                self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._receive(scratch, deadline)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()
