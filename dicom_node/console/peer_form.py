"""A peer as a form: what was entered, and the fields of a peer that it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData

from dicom_node.domain import ObjectKind
from dicom_node.settings import Peer, PeerRole

__all__ = ["PeerForm"]

_TEXTS = ("name", "ae_title", "host", "port", "stow_url", "associations", "certificate_name")
_LISTS = ("addresses", "certificate_sha256", "quiet_hours")
_CHOICES = ("compress", "commitment", "verify")
_SWITCHES = ("enabled", "query", "tls", "quiet_hours_let_urgent")
_MANY = ("roles", "outputs")
_LONGEST = 4096
_BETWEEN = re.compile(r"[,;\n]+")


@dataclass(frozen=True)
class PeerForm:
    """What stands in the form.

    Attributes
    ----------
    texts : mapping of str to str
        Field → what was entered; lists with one item a line.
    chosen : frozenset of (str, str)
        (field, value) of every box that is ticked; a switch has the value "on".
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    chosen: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, peer: Peer) -> PeerForm:
        """Return the form of a peer."""
        plain = peer.model_dump(mode="json")
        texts = {name: str(plain[name]) for name in (*_TEXTS, *_CHOICES)}
        texts |= {name: "\n".join(plain[name]) for name in _LISTS}
        chosen = {(name, value) for name in _MANY for value in plain[name]}
        chosen |= {(name, "on") for name in _SWITCHES if plain[name]}
        return cls(texts, frozenset(chosen))

    @classmethod
    def new(cls) -> PeerForm:
        """Return the form of a peer that is to be added: the defaults, without an address."""
        form = cls.of(Peer(name="new", ae_title="NEW"))
        return cls({**form.texts, "name": "", "ae_title": "", "host": "", "port": ""}, form.chosen)

    @classmethod
    def sent(cls, data: FormData) -> PeerForm:
        """Return the form as a browser sent it."""
        texts = {name: str(data.get(name, ""))[:_LONGEST] for name in (*_TEXTS, *_LISTS, *_CHOICES)}
        chosen = {(name, str(value)) for name in _MANY for value in data.getlist(name)}
        chosen |= {(name, "on") for name in _SWITCHES if data.get(name)}
        return cls(texts, frozenset(chosen))

    def __getitem__(self, name: str) -> str:
        return self.texts.get(name, "")

    def has(self, name: str, value: str = "on") -> bool:
        """Whether a box is ticked."""
        return (name, value) in self.chosen

    def fields(self) -> dict[str, Any]:
        """Return the fields of a peer, not validated."""
        found: dict[str, Any] = {name: self[name].strip() for name in _TEXTS}
        found |= {name: self[name] for name in _CHOICES if self[name]}
        if not found["associations"]:
            del found["associations"]  # as many as by default
        for name in _LISTS:
            parts = (part.strip() for part in _BETWEEN.split(self[name]))
            found[name] = tuple(part for part in parts if part)
        found |= {name: self.has(name) for name in _SWITCHES}
        # In the order of the domain, whatever the browser's was.
        found["roles"] = tuple(role for role in PeerRole if self.has("roles", role))
        found["outputs"] = tuple(kind for kind in ObjectKind if self.has("outputs", kind))
        return found

    def faults(self) -> dict[str, str]:
        """Return what a peer could be configured as and nobody can mean."""
        found = {}
        for name in ("ae_title", "host", "port", "name"):
            if not self[name].strip():
                found[name] = "has to be filled in"
        port = self["port"].strip()
        if port and not port.isdecimal():
            found["port"] = "a port is a whole number from 1 to 65535"
        associations = self["associations"].strip()
        if associations and associations not in map(str, range(1, 9)):
            found["associations"] = "a whole number from 1 to 8"
        if not any(self.has("roles", role) for role in PeerRole):
            found["roles"] = "choose at least one: a peer that may do nothing is better removed"
        elif self.has("roles", PeerRole.DESTINATION) and not any(
            self.has("outputs", kind) for kind in ObjectKind
        ):
            found["outputs"] = "choose at least one: a destination that gets nothing is none"
        return found
