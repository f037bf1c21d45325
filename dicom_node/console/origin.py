"""Where a request really comes from: a reverse proxy's word counts only when we know the proxy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from fastapi import Request

from dicom_node.settings import ConsoleSettings

__all__ = ["Origin", "origin_of"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who is at the other end.

    Attributes
    ----------
    address : str
        Of the browser, as far as it is known.
    secure : bool
        Whether the browser speaks HTTPS.
    header_user : str
        Whom a trusted proxy says to be logged in; empty without.
    """

    address: str
    secure: bool
    header_user: str


def origin_of(request: Request, settings: ConsoleSettings) -> Origin:
    """Judge the peer of the connection and, if it is a trusted proxy, what it says."""
    peer = request.client.host if request.client else "unknown"
    if not _is_trusted(peer, settings):
        return Origin(peer, request.url.scheme == "https", "")
    address = peer
    # The last address that no proxy of ours wrote: what stands before it, anybody can make up.
    for hop in reversed(request.headers.get("x-forwarded-for", "").split(",")):
        if hop.strip():
            address = hop.strip()
            if not _is_trusted(address, settings):
                break
    proto = request.headers.get("x-forwarded-proto", request.url.scheme)
    # Two of them: the proxy added its own to one that somebody made up. Neither is believed.
    named = request.headers.getlist(settings.login_header) if settings.login_header else []
    return Origin(address[:64], proto == "https", named[0].strip() if len(named) == 1 else "")


def _is_trusted(address: str, settings: ConsoleSettings) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(network) for network in settings.trusted_proxies)
