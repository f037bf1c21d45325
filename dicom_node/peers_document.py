"""The ``[[peers]]`` of ``node.toml``, edited in place.

Comments, order and layout of the document stay. A change is validated as a whole before it
replaces the document, which happens by one rename; the version before it is kept.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from pydantic import ValidationError
from tomlkit.items import AoT, Table
from tomlkit.toml_document import TOMLDocument

from dicom_node.errors import ConfigurationError
from dicom_node.settings import NodeSettings, Peer, PeerRole, find_config, load_settings

__all__ = ["PeersDocument", "peer_from"]

_TABLE_HEADER = re.compile(r"\s*\[\[?\s*[\w\"'.-]+\s*\]")
_PEERS_HEADER = re.compile(r"\s*\[\[\s*peers\s*\]\]")
_HISTORY = "config-history"
_FRESH = "# m3lung node: see docs/configuration. Every field that is absent has its default.\n"


class PeersDocument:
    """A configuration document that may be about to change.

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

    def peers(self) -> tuple[Peer, ...]:
        """Return the peers of the document, none if it does not exist.

        Raises
        ------
        ConfigurationError
            The document is wrong.
        """
        return load_settings(self.path).peers if self.path.exists() else ()

    def add(self, peer: Peer) -> Path | None:
        """Add `peer`; return where the former document is kept, None if there was none.

        Raises
        ------
        ConfigurationError
            A peer of that name exists, or the document would be wrong with it.
        """
        document = self._read()
        table = _peers_of(document)
        if any(entry.get("name") == peer.name for entry in table):
            raise ConfigurationError(
                f"name: a peer called {peer.name!r} exists; remove it first or take another name"
            )
        table.append(_entry(peer))
        return self._replace(document)

    def remove(self, name: str) -> Path | None:
        """Remove the peer called `name`; return where the former document is kept.

        Raises
        ------
        ConfigurationError
            There is none of that name; the text lists those there are.
        """
        document = self._read()
        table = _peers_of(document)
        names = [str(entry.get("name")) for entry in table]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigurationError(f"name: no peer is called {name!r}; known: {known}")
        return self._replace(tomlkit.parse(_without(tomlkit.dumps(document), names.index(name))))

    def _read(self) -> TOMLDocument:
        try:
            return tomlkit.parse(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return tomlkit.parse(_FRESH)
        except (OSError, UnicodeDecodeError, tomlkit.exceptions.ParseError) as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    def _replace(self, document: TOMLDocument) -> Path | None:
        """Validate, keep the former version, replace atomically."""
        text = tomlkit.dumps(document)
        try:
            settings = self._validated(text)
            kept = self._keep(settings)
            _write_atomically(self.path, text)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error
        return kept

    def _validated(self, text: str) -> NodeSettings:
        # Read back by the very loader of the node, from a file beside the document: a relative
        # state directory has to resolve as it will.
        trial = _write_beside(self.path, text)
        try:
            return load_settings(trial)
        except ConfigurationError as error:
            words = str(error).replace(str(trial), str(self.path))
            words = words.replace("document: Value error, ", "")  # pydantic's own wording
            raise ConfigurationError(words) from error
        finally:
            trial.unlink(missing_ok=True)

    def _keep(self, settings: NodeSettings) -> Path | None:
        if not self.path.exists():
            return None
        history = settings.root / _HISTORY
        history.mkdir(parents=True, exist_ok=True)
        # Microseconds: two changes within one second are two versions.
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = history / f"{self.path.stem}-{stamp}.toml"
        _write_atomically(kept, self.path.read_text(encoding="utf-8"))
        return kept


def peer_from(fields: Mapping[str, Any]) -> Peer:
    """Return a validated peer of what a user typed.

    Raises
    ------
    ConfigurationError
        The text names the first field that is wrong, and why.
    """
    try:
        return Peer(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if field == "name":
            message = "small letters, digits, - and _, starting with a letter or digit, at most 32"
        raise ConfigurationError(f"{field}: {message}") from error


def _peers_of(document: TOMLDocument) -> AoT:
    found = document.get("peers")
    if found is None:
        found = tomlkit.aot()
        document.append("peers", found)
        found = document["peers"]
    if not isinstance(found, AoT):
        raise ConfigurationError("peers: has to be written as [[peers]] tables to be edited")
    return found


def _without(text: str, index: int) -> str:
    """Return the document `text` without its peer number `index`.

    By lines, since tomlkit counts the comment above a ``[[peers]]`` to the table before it, and
    would remove it together with that one.
    """
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if _TABLE_HEADER.match(line)]
    peers = [number for number in headers if _PEERS_HEADER.match(lines[number])]
    first = peers[index]
    behind = next((number for number in headers if number > first), len(lines))
    while behind < len(lines) and lines[behind - 1].lstrip().startswith("#"):
        behind -= 1  # belongs to what follows
    shortened = "".join(lines[:first] + lines[behind:])
    before = tomlkit.parse(text).unwrap()
    del before["peers"][index]
    if not before["peers"]:
        del before["peers"]
    if not _means(shortened, before):  # a header look-alike inside a string
        raise ConfigurationError("peers: written in a way that cannot be edited; edit it by hand")
    return shortened


def _means(text: str, content: dict[str, Any]) -> bool:
    try:
        return tomlkit.parse(text).unwrap() == content
    except tomlkit.exceptions.ParseError:
        return False


def _entry(peer: Peer) -> Table:
    """Return the table of `peer`: address and roles always, the rest where it is no default."""
    entry = tomlkit.table()
    entry.add("name", peer.name)
    entry.add("ae_title", peer.ae_title)
    entry.add("host", peer.host)
    entry.add("port", peer.port)
    entry.add("roles", [str(role) for role in PeerRole if role in peer.roles])
    shown = {"name", "ae_title", "host", "port", "roles"}
    plain = peer.model_dump(mode="json", exclude=shown, exclude_defaults=True)
    for key, value in plain.items():
        entry.add(key, value)
    return entry


def _write_beside(path: Path, text: str) -> Path:
    """Write `text` durably to a new file in the folder of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _write_atomically(path: Path, text: str) -> None:
    # Through a link to the document itself: an administrator may keep it elsewhere.
    target = path.resolve()
    fresh = _write_beside(target, text)
    try:
        if target.exists():
            fresh.chmod(target.stat().st_mode & 0o777)
        fresh.replace(target)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
