"""DICOMweb (PS3.18): our own STOW-RS port, and what peers and we show each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from dicom_node.settings.peer import Peer
from dicom_node.settings.sections import Section, TLSSettings

__all__ = ["PeerCredentials", "StowSettings", "credentials_key", "objection_to_dicomweb"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 §2.1
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LEAST_TOKEN = 24  # characters: it is all that a stranger has to guess


class StowSettings(Section):
    """The listener's port for STOW-RS (PS3.18 §10.5); limits and times are the listener's."""

    enabled: bool = False  # True: the listener takes images by HTTP POST, too
    host: str = "127.0.0.1"  # address to listen on; "0.0.0.0" opens it to the network
    port: Annotated[int, Field(ge=0, le=65535)] = 8104  # 0: any free one (tests)
    base_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = (
        "/dicom-web"  # /studies comes behind it
    )
    tls: bool = False  # True: HTTPS with the certificate of [tls]; a peer may show its own
    max_request_bytes: Annotated[int, Field(ge=1 << 20)] = 16 << 30  # larger: refuse, 413


class PeerCredentials(Section):
    """What a peer and this node show each other in DICOMweb; its place is the environment."""

    token: SecretStr = SecretStr("")  # bearer token that we show: M3LUNG_CREDENTIALS__NAME__TOKEN
    user: str = ""  # or user and password that we show (RFC 7617)
    password: SecretStr = SecretStr("")  # M3LUNG_CREDENTIALS__NAME__PASSWORD
    accepted_token: SecretStr = SecretStr(
        ""  # bearer token that a source shows us; two, with a comma, while it is changed
    )

    @property
    def accepted_tokens(self) -> tuple[str, ...]:
        """The bearer tokens that this peer may show."""
        text = self.accepted_token.get_secret_value()
        return tuple(part.strip() for part in text.split(",")) if text else ()

    @property
    def are_shown(self) -> bool:
        """Whether we show anything."""
        return bool(self.token.get_secret_value() or self.user)

    @model_validator(mode="after")
    def _is_one_way(self) -> PeerCredentials:
        token = self.token.get_secret_value()
        if token and self.user:
            raise ValueError("token, or user and password, not both")
        if bool(self.user) != bool(self.password.get_secret_value()):
            raise ValueError("user and password belong together")
        if ":" in self.user or not self.user.isprintable():
            raise ValueError("user: no colon, no control characters (RFC 7617 §2)")
        if token and not _TOKEN.fullmatch(token):
            raise ValueError("token: letters, digits and -._~+/ only (RFC 6750 §2.1)")
        for accepted in self.accepted_tokens:
            if not _TOKEN.fullmatch(accepted) or len(accepted) < _LEAST_TOKEN:
                raise ValueError(
                    f"accepted_token: {_LEAST_TOKEN} or more letters, digits and -._~+/ "
                    "(openssl rand -hex 24)"
                )
        return self


def credentials_key(name: str) -> str:
    """Return what the credentials of the peer called `name` stand under.

    A variable's name holds no hyphen, so there is an underscore in its place.
    """
    return name.replace("-", "_")


def objection_to_dicomweb(
    peers: Iterable[Peer],
    credentials: Mapping[str, PeerCredentials],
    stow: StowSettings,
    tls: TLSSettings,
) -> str:
    """Return why these do not go together, empty if they do."""
    keys: dict[str, Peer] = {}
    tokens: set[str] = set()
    if stow.enabled and stow.tls and not tls.enabled:
        return "stow.tls: needs our own certificate, key and ca under [tls]"
    if stow.enabled and tls.required and not stow.tls:
        return "stow.tls: tls.required leaves no port without TLS"
    for peer in peers:
        key = credentials_key(peer.name)
        if key in credentials and key in keys:
            return f"credentials.{key}: both {keys[key].name} and {peer.name} would have them"
        keys[key] = peer
        found = credentials.get(key, PeerCredentials())
        if found.are_shown and not peer.stow_url:
            return f"credentials.{key}: peer {peer.name} has no stow_url to show them to"
        if found.are_shown and _is_overheard(peer):
            return f"credentials.{key}: would travel in the clear to {peer.stow_url}: use https"
        if tokens.intersection(found.accepted_tokens):
            return f"credentials.{key}.accepted_token: another peer has the same"
        tokens.update(found.accepted_tokens)
        if stow.enabled and peer.is_destination and _is_ours(peer, stow):
            return f"peers.{peer.name}.stow_url: this is the node itself; results would loop"
    return ""


def _is_overheard(peer: Peer) -> bool:
    return urlsplit(peer.stow_url).scheme == "http" and peer.stow_host not in _LOOPBACK


def _is_ours(peer: Peer, stow: StowSettings) -> bool:
    hosts = {stow.host, *_LOOPBACK} if stow.host in ("0.0.0.0", "::", *_LOOPBACK) else {stow.host}  # noqa: S104
    return bool(peer.stow_url) and peer.stow_port == stow.port and peer.stow_host in hosts
