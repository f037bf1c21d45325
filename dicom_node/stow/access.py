"""Who sends: a bearer token, or a client certificate, or both, and from where.

Nothing is open by default. A request is a peer's when everything fits that the peer's entry and
its credentials name: the token, the certificate, the address. There is no user to log in.
"""

from __future__ import annotations

import hashlib
import hmac

from dicom_node.reception.caller import Caller
from dicom_node.settings import NodeSettings, Peer
from dicom_node.tls import mismatch

__all__ = ["Denied", "identify"]


class Denied(Exception):
    """The request is nobody's that may send; `words` are for log and audit, never for the wire.

    Attributes
    ----------
    status : int
        401: show something, or something else. 403: known, and not from here or not so.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


def identify(settings: NodeSettings, caller: Caller, authorization: str | None) -> Peer:
    """Return the source that sends a request.

    Parameters
    ----------
    authorization : str or None
        Value of the header of this name (RFC 6750 §2.1).

    Raises
    ------
    Denied
    """
    sources = [peer for peer in settings.peers if peer.is_source]
    if authorization is not None:
        peer = _of_token(settings, sources, authorization)
    elif caller.certificate is not None:
        peer = _of_certificate(settings, sources, caller)
    else:
        raise Denied(401, "neither a token nor a certificate was shown")
    if not caller.is_within(peer.addresses):
        raise Denied(403, f"{peer.name} does not call from this address")
    if peer.tls:
        if not caller.secure:
            raise Denied(403, f"{peer.name} has to call over TLS")
        words = mismatch(caller.certificate, peer)
        if words is not None:
            raise Denied(403, words)
    return peer


def _of_token(settings: NodeSettings, sources: list[Peer], authorization: str) -> Peer:
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Denied(401, "another scheme than Bearer")
    shown = _digest(token.strip())
    found = None
    for peer in sources:  # all of them, so that the time taken tells nothing
        for accepted in settings.credentials_of(peer).accepted_tokens:
            if hmac.compare_digest(shown, _digest(accepted)):
                found = peer
    if found is None:
        raise Denied(401, "a token that is no enabled source's")
    return found


def _of_certificate(settings: NodeSettings, sources: list[Peer], caller: Caller) -> Peer:
    fitting = [
        peer
        for peer in sources
        if peer.tls
        and mismatch(caller.certificate, peer) is None
        and not settings.credentials_of(peer).accepted_tokens  # else it has to show one, too
    ]
    if len(fitting) > 1:
        names = ", ".join(peer.name for peer in fitting)
        raise Denied(403, f"the certificate fits several sources: {names}")
    if not fitting:
        raise Denied(401, "a certificate alone that is no enabled source's")
    return fitting[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
