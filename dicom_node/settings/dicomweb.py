"""DICOMweb (PS3.18): what we show the peers that results go to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr, model_validator

from dicom_node.settings.peer import Peer
from dicom_node.settings.sections import Section

__all__ = ["PeerCredentials", "credentials_key", "objection_to_dicomweb"]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 §2.1
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class PeerCredentials(Section):
    """What we show a peer in DICOMweb; its place is the environment."""

    token: SecretStr = SecretStr("")  # bearer token that we show: M3LUNG_CREDENTIALS__NAME__TOKEN
    user: str = ""  # or user and password that we show (RFC 7617)
    password: SecretStr = SecretStr("")  # M3LUNG_CREDENTIALS__NAME__PASSWORD

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
        return self


def credentials_key(name: str) -> str:
    """Return what the credentials of the peer called `name` stand under.

    A variable's name holds no hyphen, so there is an underscore in its place.
    """
    return name.replace("-", "_")


def objection_to_dicomweb(peers: Iterable[Peer], credentials: Mapping[str, PeerCredentials]) -> str:
    """Return why these do not go together, empty if they do."""
    keys: dict[str, Peer] = {}
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
    return ""


def _is_overheard(peer: Peer) -> bool:
    return urlsplit(peer.stow_url).scheme == "http" and peer.stow_host not in _LOOPBACK
