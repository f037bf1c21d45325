"""One association as requestor, synchronous, on pynetdicom's PDUs (PS3.8).

pynetdicom's own requestor runs an association in two polling threads, hides why a connection
failed in its log, and leaves Nagle's algorithm on. A sender has nothing to do but wait for the
answer, so here one thread writes a request and reads the response, each with a deadline, and
every failure is an exception that says what happened.

``TCP_NODELAY`` and ``TCP_QUICKACK`` matter more than all else: a default peer writes its
response in two pieces with Nagle on, and waits about 45 ms for our delayed acknowledgement.
Linux leaves quick-acknowledge mode by itself, so it is set again around each receive.
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import build_context

from dicom_node.delivery.dimse import Response, c_echo_rq, c_store_rq, read_response
from dicom_node.delivery.pdus import P_DATA, associate_rq, decoded_ac, fragments, gathered, pdvs
from dicom_node.delivery.retry import rejection
from dicom_node.errors import ConfigurationError, PermanentDelivery, TransientDelivery
from dicom_node.tls import tls_failure

__all__ = ["Association", "Context", "Sender", "connect"]

_LARGEST_PDU = 1 << 20  # what a peer's header may announce before we hang up
_UNLIMITED_FRAGMENT = 131072  # to a peer that announces no limit

_ASSOCIATE_AC, _ASSOCIATE_RJ, _RELEASE_RQ, _RELEASE_RP, _ABORT = 2, 3, 5, 6, 7
_RELEASE_RQ_PDU = struct.pack(">BBLL", _RELEASE_RQ, 0, 4, 0)
_RELEASE_RP_PDU = struct.pack(">BBLL", _RELEASE_RP, 0, 4, 0)
_ABORT_PDU = struct.pack(">BBLBBBB", _ABORT, 0, 4, 0, 0, 0, 0)
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert or a handshake (RFC 8446 §5.1)

# PS3.8 Table 9-18, result of a presentation context.
_REFUSALS = {
    1: "refused by the peer",
    2: "refused by the peer without reason",
    3: "SOP class not supported",
    4: "transfer syntax not supported",
}

Context = tuple[str, str]
"""A presentation context as proposed: (abstract syntax UID, one transfer syntax UID)."""


@dataclass(frozen=True, slots=True)
class Sender:
    """How we introduce ourselves, and how long we wait.

    Attributes
    ----------
    ae_title : str
        Calling AE title.
    connect_timeout_s, response_timeout_s : float
        For the TCP connection and TLS's handshake each; for each answer of the peer.
    tls : callable or None
        Returns the context for this peer; None: the connection is plain.
    """

    ae_title: str
    connect_timeout_s: float = 10.0
    response_timeout_s: float = 60.0
    tls: Callable[[], ssl.SSLContext] | None = None


class Association:
    """An established association; a context manager that releases it.

    Attributes
    ----------
    accepted : dict of Context to int
        Presentation context IDs of what the peer accepted.
    refused : dict of Context to str
        Why not, in words.
    """

    def __init__(self, sock: socket.socket, sender: Sender, peer_ae_title: str) -> None:
        self._sock = sock
        self._sender = sender
        self._peer_ae_title = peer_ae_title
        self._max_pdu = 0
        self._message_id = 0
        self._open = True
        self.accepted: dict[Context, int] = {}
        self.refused: dict[Context, str] = {}

    @classmethod
    def request(
        cls, sender: Sender, host: str, port: int, ae_title: str, contexts: Sequence[Context]
    ) -> Self:
        """Connect to `host` and `port`, propose `contexts` to `ae_title`, one syntax each.

        Raises
        ------
        TransientDelivery
            No connection, no answer in time, abort, congestion.
        PermanentDelivery
            Rejected for good, or no context accepted.
        """
        association = cls(connect(sender, host, port), sender, ae_title)
        try:
            association._negotiate(contexts)
        except BaseException:
            association._close()
            raise
        return association

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release; abort if an exception is passing."""
        if kind is None:
            self.release()
        else:
            self.abort()

    def c_store(
        self, context_id: int, sop_class_uid: str, sop_instance_uid: str, dataset: BinaryIO
    ) -> Response:
        """Send one instance and return the peer's response.

        Parameters
        ----------
        dataset : binary file
            Positioned at the encoded data set's first byte; streamed to its end.

        Raises
        ------
        TransientDelivery
            The association is lost; it cannot be used further.
        """
        command = c_store_rq(self._next_id(), sop_class_uid, sop_instance_uid)
        try:
            self._write(gathered(self._message(context_id, command, dataset)))
        except OSError as error:  # of the file: those of the socket are handled below
            self.abort()
            raise TransientDelivery(f"the stored file failed while it was sent: {error}") from error
        return self._response()

    def c_echo(self) -> Response:
        """Verify the association; the Verification context has to be accepted.

        Raises
        ------
        TransientDelivery
            The association is lost.
        """
        context_id = self.accepted["1.2.840.10008.1.1", "1.2.840.10008.1.2"]
        self._write(self._message(context_id, c_echo_rq(self._next_id()), None))
        return self._response()

    def release(self) -> None:
        """Release in good order; a peer that does not answer is disconnected."""
        if not self._open:
            return
        try:
            self._send(_RELEASE_RQ_PDU)
            while self._read_pdu()[0] != _RELEASE_RP:
                pass
        except TransientDelivery:
            pass  # every object was answered before: nothing is lost with the farewell
        self._close()

    def abort(self) -> None:
        """Abort and disconnect."""
        if self._open:
            try:
                self._sock.settimeout(1.0)
                self._sock.sendall(_ABORT_PDU)
            except OSError:
                pass  # the peer is gone already
            self._close()

    def _negotiate(self, contexts: Sequence[Context]) -> None:
        proposed = []
        for number, (abstract, transfer) in enumerate(contexts):
            context = build_context(abstract, transfer)
            context.context_id = 2 * number + 1  # PS3.8 §9.3.2.2: odd, 1 to 255
            proposed.append(context)
        self._write([associate_rq(self._sender.ae_title, self._peer_ae_title, proposed)])
        kind, body = self._read_pdu()
        header = struct.pack(">BBL", kind, 0, len(body))
        if kind == _ASSOCIATE_RJ:
            pdu: Any = A_ASSOCIATE_RJ()
            pdu.decode(header + body)
            raise rejection(
                pdu.result,
                pdu.source,
                pdu.reason_diagnostic,
                us=self._sender.ae_title,
                them=self._peer_ae_title,
            )
        if kind != _ASSOCIATE_AC:
            raise TransientDelivery(f"the peer answered the association request by PDU {kind}")
        self._take_over(decoded_ac(header + body), contexts)

    def _take_over(self, answer: Any, contexts: Sequence[Context]) -> None:
        results = {
            context.context_id: context.result
            for context in answer.presentation_context_definition_results_list
        }
        if not results:
            raise TransientDelivery("the peer's A-ASSOCIATE-AC answers none of our contexts")
        for number, context in enumerate(contexts):
            context_id = 2 * number + 1
            result = results.get(context_id, 2)
            if result == 0:
                self.accepted[context] = context_id
            else:
                self.refused[context] = _REFUSALS.get(result, f"refused with result {result}")
        self._max_pdu = answer.maximum_length_received or 0
        if not self.accepted:
            reasons = ", ".join(sorted(set(self.refused.values())))
            raise PermanentDelivery(
                f"the peer accepted none of our presentation contexts: {reasons}"
            )

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _message(
        self, context_id: int, command: bytes, dataset: BinaryIO | None
    ) -> Iterator[bytes]:
        """Yield a message's P-DATA-TF PDUs, one PDV each (PS3.8 Annex E)."""
        # 6 bytes of each PDU's length belong to the PDV header; fragments have even length.
        size = (self._max_pdu - 6) & ~1 if self._max_pdu > 8 else _UNLIMITED_FRAGMENT
        yield from fragments(context_id, io.BytesIO(command), size, 0x01)
        if dataset is not None:
            yield from fragments(context_id, dataset, size, 0x00)

    def _write(self, pdus: Iterable[bytes]) -> None:
        for pdu in pdus:
            self._send(pdu)

    def _send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(self._sender.response_timeout_s)
            self._sock.sendall(data)
            _quick_ack(self._sock)
        except TimeoutError as error:
            raise self._broken("the peer stopped reading") from error
        except OSError as error:
            raise self._broken(_loss(error, " while sending")) from error

    def _response(self) -> Response:
        response = read_response(self._read_command())
        if response.message_id != self._message_id:
            raise self._broken("the peer answered another message")
        if response.has_dataset:  # C-STORE and C-ECHO responses carry none
            raise self._broken("the peer's response announces a data set")
        return response

    def _read_command(self) -> bytes:
        command = bytearray()
        while True:
            kind, body = self._read_pdu()
            if kind != P_DATA:
                raise self._broken(f"the peer sent PDU {kind} in place of a response")
            for control, fragment in pdvs(body):
                if control & 0x01:
                    command += fragment
                if control & 0x03 == 0x03:
                    return bytes(command)

    def _read_pdu(self) -> tuple[int, bytes]:
        """Read one PDU: its type and what follows its header."""
        deadline = time.monotonic() + self._sender.response_timeout_s
        header = self._read(6, deadline)
        if header[:2] in _TLS_RECORDS:
            raise self._broken("the peer speaks TLS on this port: set tls = true for it")
        kind, length = struct.unpack(">BxL", header)
        if length > _LARGEST_PDU:
            raise self._broken(f"the peer announces a PDU of {length} bytes")
        body = self._read(length, deadline)
        if kind == _ABORT:
            # Orthanc lets a title in that may only echo, and aborts its first C-STORE.
            raise self._broken(
                "the peer aborted the association: its log says why; "
                f"perhaps it does not let {self._sender.ae_title} store"
            )
        if kind == _RELEASE_RQ:
            self._send(_RELEASE_RP_PDU)
            raise self._broken("the peer released the association")
        return kind, body

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._broken("no answer in time")
            self._sock.settimeout(remaining)
            try:
                received = self._sock.recv_into(view)
                _quick_ack(self._sock)
            except TimeoutError:
                raise self._broken("no answer in time") from None
            except OSError as error:
                raise self._broken(_loss(error)) from error
            if not received:
                raise self._broken("the peer closed the connection")
            view = view[received:]
        return bytes(data)

    def _broken(self, words: str) -> TransientDelivery:
        """Disconnect, and return the error to raise."""
        self._close()
        return TransientDelivery(words)

    def _close(self) -> None:
        self._open = False
        self._sock.close()


def connect(sender: Sender, host: str, port: int) -> socket.socket:
    """Return a connection to `host` and `port`, its TLS handshake done where there is one.

    Raises
    ------
    TransientDelivery
        The text says which step failed. Failures of TLS too may pass: certificates get renewed.
    """
    try:
        sock = socket.create_connection((host, port), timeout=sender.connect_timeout_s)
    except socket.gaierror as error:
        raise TransientDelivery(f"the host name {host} cannot be resolved") from error
    except TimeoutError as error:
        raise TransientDelivery(f"no TCP connection to {host}:{port} in time") from error
    except OSError as error:
        raise TransientDelivery(f"no TCP connection to {host}:{port}: {error.strerror}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _quick_ack(sock)
    return sock if sender.tls is None else _secured(sock, sender.tls, host)


def _secured(
    sock: socket.socket, context: Callable[[], ssl.SSLContext], host: str
) -> socket.socket:
    try:
        # Shakes hands within the timeout of the connection; the name is for proxies in between.
        return context().wrap_socket(sock, server_hostname=host)
    except (OSError, ConfigurationError) as error:
        sock.close()
        words = tls_failure(error) if isinstance(error, OSError) else str(error)
        raise TransientDelivery(f"no TLS connection: {words}") from error


def _loss(error: OSError, when: str = "") -> str:
    # TLS 1.3 tells a client at its first read that the server did not take its certificate.
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return f"no TLS connection: {tls_failure(error)}"
    return f"connection lost{when}: {error.strerror}"


def _quick_ack(sock: socket.socket) -> None:
    if hasattr(socket, "TCP_QUICKACK"):  # Linux only
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
