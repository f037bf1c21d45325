"""Who is on the other end of a connection, as far as the connection tells."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from dicom_node.tls import PeerCertificate

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end of the connection, before it says a title.

    Attributes
    ----------
    address : str
        Its IP address.
    secure : bool
        Whether the connection is TLS.
    certificate : PeerCertificate or None
        What it proved to own.
    """

    address: str
    secure: bool = False
    certificate: PeerCertificate | None = None

    def is_within(self, networks: tuple[str, ...]) -> bool:
        """Whether it calls from one of `networks`; without any, from anywhere."""
        if not networks:
            return True
        found = ipaddress.ip_address(self.address.partition("%")[0])
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        return any((mapped or found) in ipaddress.ip_network(network) for network in networks)
