"""Whose certificate it is: fingerprint or name, compared with a peer's entry."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import Any, Self

from dicom_node.settings import Peer

__all__ = ["PeerCertificate", "WrongCertificate", "mismatch"]


class WrongCertificate(ssl.SSLError):
    """A valid certificate, and not the peer's; `words` say so."""

    def __init__(self, words: str) -> None:
        super().__init__(1, words)
        self.words = words


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that the other side of a connection has shown and proved to own.

    Attributes
    ----------
    sha256 : str
        Over its DER form, 64 lower-case hexadecimal digits.
    names : tuple of str
        Subject alternative names (DNS, IP) and the subject's common name.
    """

    sha256: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, connection: ssl.SSLSocket | ssl.SSLObject) -> Self | None:
        """Return the other side's certificate after the handshake, None if it showed none."""
        encoded = connection.getpeercert(binary_form=True)
        if not encoded:
            return None
        return cls(hashlib.sha256(encoded).hexdigest(), _names(connection.getpeercert() or {}))


def _names(certificate: Any) -> tuple[str, ...]:
    alternative = [
        value
        for kind, value in certificate.get("subjectAltName", ())
        if kind in ("DNS", "IP Address")
    ]
    common = [
        value
        for name in certificate.get("subject", ())
        for kind, value in name
        if kind == "commonName"
    ]
    return tuple(dict.fromkeys([*alternative, *common]))


def mismatch(certificate: PeerCertificate | None, peer: Peer) -> str | None:
    """Return in words why `certificate` is not the one of `peer`, None if it is."""
    if certificate is None:
        return "no certificate was shown"
    if peer.certificate_sha256:
        if certificate.sha256 in peer.certificate_sha256:
            return None
        return (
            f"the certificate is not the one of {peer.name}: its SHA-256 is {certificate.sha256}; "
            "put it into certificate_sha256 only if the peer has really renewed it"
        )
    expected = peer.certificate_name or peer.host
    if expected.lower() in (name.lower() for name in certificate.names):
        return None
    shown = ", ".join(certificate.names) or "nobody"
    return f"the certificate is for {shown}, not for {expected} (certificate_name of {peer.name})"
