"""The ``[[peers]]`` of ``node.toml``, edited in place.

Comments, order and layout of the document stay. A change is validated as a whole before it
replaces the document, which happens by one rename; the versions before it are kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from pydantic import ValidationError
from tomlkit.items import AoT, Table

from dicom_node.configuration import Change, ConfigurationDocument, Version
from dicom_node.errors import ConfigurationError, PeerRefused
from dicom_node.settings import NodeSettings, Peer, PeerRole, find_config, load_settings

__all__ = ["PeersDocument", "objections", "peer_from"]

_TABLE_HEADER = re.compile(r"\s*\[\[?\s*[\w\"'.-]+\s*\]")
_PEERS_HEADER = re.compile(r"\s*\[\[\s*peers\s*\]\]")
_BY_HAND = "peers: written in a way that cannot be edited; edit it by hand"
_NOBODY = Change("", "", "")
# Said better than the validator says it.
_WORDS = {
    "name": "small letters, digits, - and _, starting with a letter or digit, at most 32",
    "port": "a port is a whole number from 1 to 65535",
    "roles": "source, destination, or both",
}


class PeersDocument:
    """The peers of a configuration document that may be about to change.

    Parameters
    ----------
    path : Path or None
        None: where :func:`dicom_node.settings.find_config` finds it, else ``./node.toml``. A
        document that does not exist is made by the first change.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None and not path.exists():
            self.path = path  # named and absent: it is to be made
        else:
            self.path = find_config(path) or Path("node.toml")
        self._document = ConfigurationDocument(self.path)

    def peers(self) -> tuple[Peer, ...]:
        """Return the peers of the document, none if it does not exist.

        Raises
        ------
        ConfigurationError
            The document is wrong.
        """
        return load_settings(self.path).peers if self.path.exists() else ()

    def digest(self) -> str:
        """Return what stands for the document as it is now: see :meth:`change`."""
        return self._document.digest()

    def add(self, peer: Peer, change: Change = _NOBODY) -> Version | None:
        """Add `peer`; return the version before, None if there was no document.

        Raises
        ------
        PeerRefused
            It does not go together with the node or another peer.
        ConfigurationError
            The document would be wrong with it.
        """

        def make(text: str) -> str:
            document = _parsed(text, self.path)
            table = document.get("peers")
            if table is None:
                document.append("peers", tomlkit.aot())
                table = document["peers"]
            if not isinstance(table, AoT):
                raise ConfigurationError(
                    "peers: has to be written as [[peers]] tables to be edited"
                )
            if any(entry.get("name") == peer.name for entry in table):
                raise PeerRefused(
                    {
                        "name": f"a peer called {peer.name!r} exists; "
                        "remove it first or take another name"
                    }
                )
            table.append(_entry(peer))
            return tomlkit.dumps(document)

        return self._edit(change, make, peer)

    def change(
        self, name: str, peer: Peer, change: Change = _NOBODY, *, seen: str = ""
    ) -> Version | None:
        """Make the peer called `name` into `peer`, which is called the same.

        Fields that stay as they are keep their lines, and the comments on them.

        Parameters
        ----------
        seen : str
            The digest of the document that the change was thought of for; empty: any.

        Raises
        ------
        PeerRefused
            It does not go together with the node or another peer.
        ConfigurationError
            There is none of that name, the document would be wrong, or it changed since it was
            `seen`.
        """

        def make(text: str) -> str:
            if seen and seen != self.digest():
                raise ConfigurationError(
                    "the configuration was changed meanwhile; look at it and try again"
                )
            return _with(text, self._index(text, name), peer)

        return self._edit(change, make, peer)

    def remove(self, name: str, change: Change = _NOBODY) -> Version | None:
        """Remove the peer called `name`; return the version before.

        Raises
        ------
        ConfigurationError
            There is none of that name; the text lists those there are.
        """
        return self._document.edit(change, lambda text: _without(text, self._index(text, name)))

    def _index(self, text: str, name: str) -> int:
        table = _parsed(text, self.path).get("peers", [])
        if not isinstance(table, AoT) and table:
            raise ConfigurationError("peers: has to be written as [[peers]] tables to be edited")
        names = [str(entry.get("name")) for entry in table]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigurationError(f"name: no peer is called {name!r}; known: {known}")
        return names.index(name)

    def _edit(self, change: Change, make: Callable[[str], str], peer: Peer) -> Version | None:
        def checked(text: str) -> str:
            made = make(text)
            # Against what stands there now, under the lock: not against what a page showed. A
            # document that does not load is refused by the edit itself, in the loader's words.
            if self.path.exists():
                found = objections(load_settings(self.path), peer)
                if found:
                    raise PeerRefused(found)
            return made

        return self._document.edit(change, checked)


def peer_from(fields: Mapping[str, Any]) -> Peer:
    """Return a validated peer of what a user typed.

    Raises
    ------
    PeerRefused
        With every field that is wrong, and why.
    """
    try:
        return Peer(**fields)
    except ValidationError as error:
        faults: dict[str, str] = {}
        for fault in error.errors():
            words = fault["msg"].removeprefix("Value error, ")
            field = str(fault["loc"][0]) if fault["loc"] else _first_field(words)
            words = _WORDS.get(field, words)
            faults[field] = f"{faults[field]}; {words}" if field in faults else words
        raise PeerRefused(faults) from error


def _first_field(words: str) -> str:
    """Return which field a fault of several fields together is told at: the first it names."""
    named = re.findall(r"[a-z0-9_]+", words)
    return next((name for name in named if name in Peer.model_fields), "name")


def objections(settings: NodeSettings, peer: Peer) -> dict[str, str]:
    """Return why `peer` does not go together with the node and its other peers, field by field.

    Two peers may have one AE title if their address lists tell callers apart
    (docs/adr/0012), or if only one of them calls.
    """
    found: dict[str, str] = {}
    listener, tls = settings.listener, settings.tls
    own_titles = {settings.ae_title, *listener.called_ae_titles}
    own_ports = {listener.port, tls.port} if tls.enabled else {listener.port}
    if peer.is_destination and peer.ae_title in own_titles and peer.port in own_ports:
        found["ae_title"] = f"peers.{peer.name}: this is the node itself; results would loop"
    if peer.tls and not tls.enabled:
        found["tls"] = "needs our own certificate, key and ca under [tls] in the document first"
    for other in settings.peers:
        if other.name == peer.name or other.ae_title != peer.ae_title:
            continue
        if _calls(peer) and _calls(other) and not _are_apart(peer, other):
            found.setdefault(
                "ae_title",
                f"{other.name} has this AE title, too, and a caller could be either: take "
                "another title, or give both address lists that do not overlap",
            )
        elif (
            PeerRole.DESTINATION in peer.roles
            and PeerRole.DESTINATION in other.roles
            and (peer.host.lower(), peer.port) == (other.host.lower(), other.port)
        ):
            found.setdefault(
                "ae_title", f"{other.name} is the same destination: it would get everything twice"
            )
    return found


def _calls(peer: Peer) -> bool:
    # Enabled or not: enabling it is not the moment to find out.
    reports = PeerRole.DESTINATION in peer.roles and peer.commitment == "request"
    return PeerRole.SOURCE in peer.roles or reports


def _are_apart(one: Peer, other: Peer) -> bool:
    if not one.addresses or not other.addresses:
        return False
    mine = [ipaddress.ip_network(network) for network in one.addresses]
    theirs = [ipaddress.ip_network(network) for network in other.addresses]
    return not any(a.version == b.version and a.overlaps(b) for a in mine for b in theirs)


# -- the text --------------------------------------------------------------------------------------


def _parsed(text: str, path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except tomlkit.exceptions.ParseError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _span(lines: list[str], index: int) -> tuple[int, int]:
    """Return the first line of peer number `index`, and the one behind its last.

    By lines, since tomlkit counts the comment above a ``[[peers]]`` to the table before it.
    """
    headers = [number for number, line in enumerate(lines) if _TABLE_HEADER.match(line)]
    peers = [number for number in headers if _PEERS_HEADER.match(lines[number])]
    if index >= len(peers):
        raise ConfigurationError(_BY_HAND)
    first = peers[index]
    behind = next((number for number in headers if number > first), len(lines))
    if behind < len(lines):
        while lines[behind - 1].lstrip().startswith("#"):
            behind -= 1  # belongs to what follows
    return first, behind


def _without(text: str, index: int) -> str:
    """Return the document `text` without its peer number `index`."""
    lines = text.splitlines(keepends=True)
    first, behind = _span(lines, index)
    wanted = tomlkit.parse(text).unwrap()
    del wanted["peers"][index]
    if not wanted["peers"]:
        del wanted["peers"]
    return _meaning("".join(lines[:first] + lines[behind:]), wanted)


def _with(text: str, index: int, peer: Peer) -> str:
    """Return the document `text` with its peer number `index` made into `peer`."""
    lines = text.splitlines(keepends=True)
    first, behind = _span(lines, index)
    last = behind
    while last > first + 1 and not lines[last - 1].strip():
        last -= 1  # what is added stands before the empty lines
    wanted = tomlkit.parse(text).unwrap()
    entry = wanted["peers"][index]
    now, then = peer.model_dump(mode="json"), _as_read(entry)
    changed = {key: value for key, value in now.items() if value != then.get(key)}
    entry.update(changed)
    try:
        chunk = tomlkit.parse("".join(lines[first:last]))
        for key, value in changed.items():
            chunk["peers"][0][key] = value
    except tomlkit.exceptions.TOMLKitError as error:  # a header look-alike inside a string
        raise ConfigurationError(_BY_HAND) from error
    made = tomlkit.dumps(chunk)
    ending = "" if made.endswith("\n") or last == len(lines) else "\n"
    return _meaning("".join([*lines[:first], made, ending, *lines[last:]]), wanted)


def _as_read(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the present entry means, defaults and all; nothing if it is wrong."""
    try:
        return Peer(**entry).model_dump(mode="json")
    except ValidationError:
        return {}


def _meaning(text: str, content: dict[str, Any]) -> str:
    """Return `text` if it means `content`.

    Raises
    ------
    ConfigurationError
        It does not: a header look-alike inside a string.
    """
    try:
        if tomlkit.parse(text).unwrap() == content:
            return text
    except tomlkit.exceptions.ParseError:
        pass
    raise ConfigurationError(_BY_HAND)


def _entry(peer: Peer) -> Table:
    """Return the table of `peer`: address and roles always, the rest where it is no default."""
    entry = tomlkit.table()
    entry.add("name", peer.name)
    entry.add("ae_title", peer.ae_title)
    if not peer.stow_url:  # else they are told only where they are no defaults
        entry.add("host", peer.host)
        entry.add("port", peer.port)
    entry.add("roles", [str(role) for role in PeerRole if role in peer.roles])
    shown = {"name", "ae_title", "roles"} | (set() if peer.stow_url else {"host", "port"})
    plain = peer.model_dump(mode="json", exclude=shown, exclude_defaults=True)
    for key, value in plain.items():
        entry.add(key, value)
    return entry
