"""The listening socket and its connections: a thread each, no waiting for others' handshakes."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable

from dicom_node.audit import Auditor
from dicom_node.errors import ConfigurationError
from dicom_node.listener.association import AssociationHandler
from dicom_node.listener.contexts import acceptable_contexts
from dicom_node.listener.pdu_stream import PDUStream
from dicom_node.listener.storage import Storage
from dicom_node.logs import get_logger
from dicom_node.reception.admission import Admission, Visitor
from dicom_node.reception.caller import Caller
from dicom_node.settings import NodeSettings
from dicom_node.tls import PeerCertificate, tls_failure

__all__ = ["AssociationServer", "Speak", "bind"]

Speak = Callable[[Visitor, Caller, Callable[[], bool]], None]
"""Serves a connection to its end: who is there, what is known of it, whether the node stops."""

_log = get_logger(__name__)
_BACKLOG = 512
_ACCEPT_POLL_S = 0.25
_THREAD_STACK_BYTES = 512 << 10
_LAST_WORDS_S = 3.0
_ALERT_S = 1.0  # for the peer to read why its handshake failed


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to `host` and `port`, shared with sister processes, not yet listening.

    Raises
    ------
    ConfigurationError
        The address cannot be bound; the text says why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(f"listener: {host}:{port}: {error.strerror or error}") from error
    return bound


class AssociationServer:
    """Accepts connections and serves each in its own thread.

    Parameters
    ----------
    listening : socket.socket
        Bound; owned by the server from now on.
    storage : Storage
    settings : callable
        Returns the settings that hold now: peers and limits may change while it runs.
    ssl_context : callable, optional
        Returns the context that holds now. With it every connection has to shake hands first, in
        its own thread and within the handshake timeout: a silent client stops nobody.
    admission : Admission, optional
        Shared with another server of this process, so that limits hold for both together.
    auditor : Auditor, optional
        Shared likewise.
    speak : callable, optional
        What is spoken on the connections in place of DICOM's upper layer.
    turned : callable
        Called whenever the accepting loop comes round.
    """

    def __init__(
        self,
        listening: socket.socket,
        storage: Storage,
        settings: Callable[[], NodeSettings],
        *,
        ssl_context: Callable[[], ssl.SSLContext] | None = None,
        admission: Admission | None = None,
        auditor: Auditor | None = None,
        speak: Speak | None = None,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._turned = turned
        self._listening = listening
        self._storage = storage
        self._settings = settings
        self._ssl_context = ssl_context
        self._admission = admission or Admission()
        self._auditor = auditor or Auditor(settings(), "listen")
        self._speak = speak or self._associate
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()
        # Takes a moment the first time: not in the first caller's association.
        acceptable_contexts(settings().listener.other_storage)
        # From here on the kernel takes connections in.
        listening.listen(_BACKLOG)
        listening.settimeout(_ACCEPT_POLL_S)

    def serve(self, is_over: Callable[[], bool], grace_s: float) -> None:
        """Accept until `is_over`, then let associations finish for `grace_s` seconds."""
        threading.stack_size(_THREAD_STACK_BYTES)
        while not is_over():
            self._accept_one()
            self._turned()
        self._stopping.set()
        self._listening.close()
        self._drain(grace_s)

    def _accept_one(self) -> None:
        try:
            connection, peer = self._listening.accept()
        except TimeoutError:
            return
        except OSError as error:
            # Out of descriptors or memory: those who are connected go on, and will leave.
            _log.error("accept_failed", error=errno.errorcode.get(error.errno or 0, "?"))
            time.sleep(0.1)
            return
        limits = self._settings().listener
        visitor = self._admission.admit(
            connection,
            str(peer[0]),
            total=limits.max_connections,
            per_address=limits.max_connections_per_address,
        )
        if visitor is None:
            _log.warning("connection_refused", address=str(peer[0]), reason="too many connections")
            self._storage.tally.count("associations_refused", "too_many_connections")
            connection.close()
            # The accepting thread waits for no disk: somebody else's record tells of a flood.
            return
        thread = threading.Thread(target=self._serve_visitor, args=(visitor,), daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            _log.error("connection_refused", address=visitor.address, reason="no more threads")
            self._threads.discard(thread)
            self._admission.leave(visitor)
            connection.close()

    def _serve_visitor(self, visitor: Visitor) -> None:
        try:
            caller = self._shake_hands(visitor)
            if caller is not None:
                self._speak(visitor, caller, self._stopping.is_set)
        except OSError as error:
            _log.info("connection_failed", address=visitor.address, error=type(error).__name__)
        except Exception:  # noqa: BLE001  the DIMSE edge: one connection's fault stays its own
            _log.exception("connection_served_wrongly", address=visitor.address)
        finally:
            self._admission.leave(visitor)
            visitor.connection.close()
            self._threads.discard(threading.current_thread())

    def _associate(self, visitor: Visitor, caller: Caller, is_stopping: Callable[[], bool]) -> None:
        limits = self._settings().listener
        stream = PDUStream(
            visitor.connection,
            pdu_timeout_s=limits.pdu_timeout_s,
            max_pdu_bytes=limits.max_pdu_bytes,
        )
        AssociationHandler(
            stream,
            visitor,
            admission=self._admission,
            storage=self._storage,
            settings=self._settings,
            is_stopping=is_stopping,
            caller=caller,
            auditor=self._auditor,
        ).serve()

    def _shake_hands(self, visitor: Visitor) -> Caller | None:
        """Return who is there, after TLS where this server speaks it; None: nobody to serve."""
        if self._ssl_context is None:
            return Caller(visitor.address)
        wrapped = self._ssl_context().wrap_socket(
            visitor.connection, server_side=True, do_handshake_on_connect=False
        )
        visitor.connection = wrapped
        # A socket's timeout is an absolute limit of its handshake, whatever the pace (_ssl.c).
        wrapped.settimeout(self._settings().listener.handshake_timeout_s)
        try:
            wrapped.do_handshake()
        except OSError as error:
            words = tls_failure(error)
            _log.warning("tls_handshake_failed", address=visitor.address, reason=words)
            self._storage.tally.count("associations_refused", "tls_handshake")
            self._auditor.refused(f"TLS: {words}", address=visitor.address)
            _let_read_alert(wrapped)
            return None
        return Caller(visitor.address, secure=True, certificate=PeerCertificate.of(wrapped))

    def _drain(self, grace_s: float) -> None:
        self._join(grace_s, waiting_for=lambda: any(v.associated for v in self._visitors()))
        for visitor in self._visitors():
            # The reading thread wakes, says A-ABORT and leaves.
            visitor.interrupt(socket.SHUT_RD)
        self._join(_LAST_WORDS_S, waiting_for=lambda: bool(self._threads))

    def _visitors(self) -> list[Visitor]:
        return list(self._admission.visitors())

    def _join(self, limit_s: float, *, waiting_for: Callable[[], bool]) -> None:
        deadline = time.monotonic() + limit_s
        while waiting_for() and time.monotonic() < deadline:
            time.sleep(0.02)


def _let_read_alert(connection: ssl.SSLSocket) -> None:
    """Close in a way that leaves the peer our alert: a reset would take it away."""
    deadline = time.monotonic() + _ALERT_S
    raw = socket.socket  # the methods below TLS
    with contextlib.suppress(OSError):
        raw.shutdown(connection, socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not raw.recv(connection, 4096):
                return
