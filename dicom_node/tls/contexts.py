"""The two sides of TLS: contexts made from the settings (PS3.15 Annex B; RFC 9325 §4)."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

from dicom_node.errors import ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings, Peer, TLSSettings
from dicom_node.tls.binding import PeerCertificate, WrongCertificate, mismatch

__all__ = ["ServerContexts", "client_context", "server_context", "web_client_context"]

_log = get_logger(__name__)

# RFC 9325 §4.2: ephemeral elliptic-curve key agreement and authenticated encryption, nothing else.
# TLS 1.3 has only such suites.
_CIPHERS_TLS12 = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL"


def server_context(tls: TLSSettings, *, needs_certificate: bool = True) -> ssl.SSLContext:
    """Return the listener's side: who connects has to show a certificate that `tls.ca` vouches for.

    Parameters
    ----------
    needs_certificate : bool
        False: who shows none may connect, too, and has to be known by something else. A wrong one
        is refused all the same.

    Raises
    ------
    ConfigurationError
        A file is missing or unreadable, or certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, tls)
    if not needs_certificate:
        context.verify_mode = ssl.CERT_OPTIONAL
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # A resumed session would skip the look at the certificate; associations are long enough.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


class _BoundSocket(ssl.SSLSocket):
    """A client's connection that goes on with the peer only that its context is made for."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        context = self.context
        if isinstance(context, BoundContext) and context.peer is not None:
            words = mismatch(PeerCertificate.of(self), context.peer)
            if words is not None:
                raise WrongCertificate(words)


class BoundContext(ssl.SSLContext):
    """A context whose connections check in the handshake that they reached `peer`.

    Whoever makes the connection, ours or a library's code, cannot forget the check.
    """

    peer: Peer | None = None
    sslsocket_class = _BoundSocket


def client_context(settings: NodeSettings, peer: Peer) -> ssl.SSLContext:
    """Return the sender's side for associations with `peer`.

    Raises
    ------
    ConfigurationError
        As for :func:`server_context`, or TLS is not configured here.
    """
    context = BoundContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the peer's entry says which name or fingerprint it has
    _harden(context, settings.tls)
    context.peer = peer
    return context


def web_client_context(settings: NodeSettings, peer: Peer) -> ssl.SSLContext:
    """Return the client's side of HTTPS to the ``stow_url`` of `peer`.

    A web server is known by its host's name, as browsers know it, unless the peer's entry says
    which certificate or which name it has to show. With ``[tls]``, the server's certificate has
    to come from ``tls.ca``, and ours is shown where it is asked for; without, the system's
    authorities hold.

    Raises
    ------
    ConfigurationError
        As for :func:`server_context`.
    """
    context = BoundContext(ssl.PROTOCOL_TLS_CLIENT)
    is_named = bool(peer.certificate_sha256 or peer.certificate_name)
    context.check_hostname = not is_named
    if is_named:
        context.peer = peer
    if settings.tls.enabled:
        _harden(context, settings.tls)
    else:
        _restrict(context)
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _harden(context: ssl.SSLContext, tls: TLSSettings) -> None:
    _restrict(context)
    # Without a CA of their own, hospitals exchange the certificates themselves: each that stands
    # in tls.ca is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load(context, tls)


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_TLS12)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED


def _load(context: ssl.SSLContext, tls: TLSSettings) -> None:
    if tls.certificate is None or tls.key is None or tls.ca is None:
        raise ConfigurationError("tls: certificate, key and ca are needed to speak TLS")
    for path in (tls.certificate, tls.key, tls.ca):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(f"tls: {path}: {error.strerror}") from error
    try:
        context.load_cert_chain(tls.certificate, tls.key, _no_password)
    except ssl.SSLError as error:
        reason = error.reason or "no PEM"
        words = (
            "key and certificate do not belong together"
            if reason == "KEY_VALUES_MISMATCH"
            else f"cannot be used ({reason})"
        )
        raise ConfigurationError(f"tls: {tls.certificate}, {tls.key}: {words}") from error
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"tls.ca: {tls.ca}: {error.reason or 'no PEM'}") from error


def _no_password() -> str:
    raise ConfigurationError("tls.key: has a password; the node starts without anybody to type it")


class ServerContexts:
    """The listener's context, made anew when one of its files changes: a renewed certificate.

    Parameters
    ----------
    tls : TLSSettings
    needs_certificate : bool
        As for :func:`server_context`.

    Raises
    ------
    ConfigurationError
        The files are wrong at the start already; later ones leave the last good context.
    """

    def __init__(self, tls: TLSSettings, *, needs_certificate: bool = True) -> None:
        self._tls = tls
        self._needs_certificate = needs_certificate
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._context = self._make()

    def __call__(self) -> ssl.SSLContext:
        """Return the context in force."""
        with self._lock:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._make()
                except ConfigurationError as error:
                    _log.error("tls_files_not_taken", error=str(error))
                else:
                    _log.info("tls_files_taken")
            return self._context

    def _make(self) -> ssl.SSLContext:
        return server_context(self._tls, needs_certificate=self._needs_certificate)

    def _read_stamp(self) -> list[Any]:
        return [_stamp(path) for path in (self._tls.certificate, self._tls.key, self._tls.ca)]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None
