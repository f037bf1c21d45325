"""Where the document is, and how it is read, once or whenever it changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from pydantic import ValidationError
from pydantic_settings import SettingsError

from dicom_node.errors import ConfigurationError
from dicom_node.settings.node import NodeSettings

__all__ = ["SettingsSource", "find_config", "load_settings"]


def find_config(path: Path | None = None) -> Path | None:
    """Return the configuration document to use, None if there is none.

    Raises
    ------
    ConfigurationError
        `path` or ``M3LUNG_CONFIG`` names a file that does not exist.
    """
    named = path or (Path(os.environ["M3LUNG_CONFIG"]) if "M3LUNG_CONFIG" in os.environ else None)
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"no configuration at {named}")
        return named
    for candidate in (Path("node.toml"), Path("~/.config/m3lung/node.toml").expanduser()):
        if candidate.is_file():
            return candidate
    return None


def load_settings(path: Path | None = None) -> NodeSettings:
    """Read `path` (or the document :func:`find_config` finds) and the environment.

    Raises
    ------
    ConfigurationError
        The document does not parse or holds an unknown or illegal field; the text names it.
    """
    found = find_config(path)
    document: dict[str, Any] = {}
    if found is not None:
        try:
            document = tomlkit.parse(found.read_text(encoding="utf-8")).unwrap()
        except (OSError, UnicodeDecodeError, tomlkit.exceptions.ParseError) as error:
            raise ConfigurationError(f"{found}: {error}") from error
        for name in document:
            if name.startswith("_"):  # pydantic-settings would take these as its own options
                raise ConfigurationError(f"{found}: {name}: Extra inputs are not permitted")
        state_dir = document.get("state_dir")
        if isinstance(state_dir, str) and not Path(state_dir).expanduser().is_absolute():
            # A relative state directory is relative to its document, not to who starts the node.
            document["state_dir"] = str(found.absolute().parent / state_dir)
        for name in ("tls", "mail", "webhook"):
            _resolve_beside(found.absolute().parent, document.get(name))
    try:
        return NodeSettings(**document)
    except SettingsError as error:  # an environment variable that should hold JSON
        raise ConfigurationError(f"environment: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise ConfigurationError(f"{found or 'settings'}: {field}: {first['msg']}") from error


def _resolve_beside(folder: Path, table: Any) -> None:
    """Make relative paths to certificates and keys in `table` relative to the document."""
    for name in ("certificate", "key", "ca"):
        if isinstance(table, dict) and isinstance(table.get(name), str):
            table[name] = str(folder / Path(table[name]).expanduser())


class SettingsSource:
    """The settings as the document says now; a running process asks again whenever it matters.

    A document that was edited into nonsense changes nothing: the last good settings stay in
    force, and :attr:`error` says why. What is read once at start (ports, ledger, broker) needs a
    restart; peers, results and completion rules do not.

    Parameters
    ----------
    path : Path or None
        As for :func:`load_settings`.

    Raises
    ------
    ConfigurationError
        The document is wrong at the start already.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = find_config(path)
        self._stamp = self._read_stamp()
        self._settings = load_settings(self.path)
        self.error = ""

    def __call__(self) -> NodeSettings:
        """Return the settings in force."""
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._settings = load_settings(self.path)
                self.error = ""
            except ConfigurationError as error:
                self.error = str(error)
        return self._settings

    def _read_stamp(self) -> tuple[int, int, int] | None:
        if self.path is None:
            return None
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
