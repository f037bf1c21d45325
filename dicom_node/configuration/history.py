"""Which versions of the document there were: each a file of its own, in the order of its number.

::

    config-history/version-000001.toml
    config-history/version-000002.toml

The first line of such a file is a comment that says who made this version, when and by which verb;
what follows is the document, byte for byte. So one rename keeps both, and the file is still TOML.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.configuration.replacement import write_atomically

__all__ = ["BY_HAND", "MOST_VERSIONS", "Change", "History", "Version"]

MOST_VERSIONS = 200
BY_HAND = "by hand"
_FOLDER = "config-history"
_NAME = re.compile(r"version-([0-9]{6,})\.toml")
_HEADER = "#: "
_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes the document, how, and what.

    Attributes
    ----------
    author : str
        A user of the console, or of the machine; empty when nobody knows.
    verb : str
        "console", "m3lung peers add", …, or :data:`BY_HAND`.
    words : str
        What was changed, in words; no secrets.
    """

    author: str
    verb: str
    words: str


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the document.

    Attributes
    ----------
    number : int
        From 1 on; never used twice.
    at : float or None
        When it was made, seconds of the epoch; None if its file does not say.
    change : Change
        What led to it.
    """

    number: int
    at: float | None
    change: Change
    path: Path

    def text(self) -> str:
        """Return the document of that version."""
        text = self.path.read_text(encoding="utf-8")
        return text.partition("\n")[2] if text.startswith(_HEADER) else text


class History:
    """The versions kept under a state directory.

    Parameters
    ----------
    root : Path
        The state directory.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / _FOLDER

    def versions(self) -> tuple[Version, ...]:
        """Return all that are kept, the newest first."""
        return tuple(_read(number, path) for number, path in self._files())

    def version(self, number: int) -> Version | None:
        """Return the version of this number, None if it is not kept (any more)."""
        path = self._path(number)
        return _read(number, path) if path.is_file() else None

    def newest(self) -> Version | None:
        """Return the newest version, None if there is none."""
        files = self._files()
        return _read(*files[0]) if files else None

    def keep(self, text: str, change: Change, at: float) -> Version:
        """Keep `text` as the newest version, durably.

        Raises
        ------
        OSError
        """
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, mode=0o700)
            _hand_over(self.folder)
        files = self._files()
        number = files[0][0] + 1 if files else 1
        about = {
            "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
            "author": change.author,
            "verb": change.verb,
            "words": change.words,
        }
        # ASCII only: one line, whatever is in the words.
        header = f"{_HEADER}{json.dumps(about)}\n"
        path = self._path(number)
        write_atomically(path, header + text)
        _hand_over(path)
        return Version(number, at, change, path)

    def forget_the_oldest(self) -> None:
        """Remove what is beyond :data:`MOST_VERSIONS`."""
        for _, path in self._files()[MOST_VERSIONS:]:
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"version-{number:06d}.toml"

    def _files(self) -> list[tuple[int, Path]]:
        # What lies there besides is none of ours.
        found = [
            (int(match[1]), path)
            for path in self.folder.glob("version-*.toml")
            if (match := _NAME.fullmatch(path.name))
        ]
        return sorted(found, reverse=True)


def _read(number: int, path: Path) -> Version:
    about: dict[str, Any] = {}
    at = None
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(_LONGEST_HEADER)
        if line.startswith(_HEADER):
            read = json.loads(line.removeprefix(_HEADER))
            about = read if isinstance(read, dict) else {}
        at = datetime.fromisoformat(str(about.get("at", ""))).timestamp()
    except (OSError, ValueError):
        pass  # its text may be whole all the same
    author, verb, words = (str(about.get(name, "")) for name in ("author", "verb", "words"))
    return Version(number, at, Change(author, verb, words), path)


def _hand_over(path: Path) -> None:
    """Give what root makes to the owner of the folder above: the node runs as that user."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
