"""The document itself: read, changed under a lock, validated before it is replaced."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dicom_node.configuration.history import BY_HAND, Change, History, Version
from dicom_node.configuration.replacement import write_atomically, write_beside
from dicom_node.errors import ConfigurationError
from dicom_node.settings import NodeSettings, load_settings

__all__ = ["ConfigurationDocument"]

_FRESH = "# m3lung node: see docs/configuration. Every field that is absent has its default.\n"
_UNKNOWN = Change("", BY_HAND, "found in the document")


class ConfigurationDocument:
    """``node.toml`` as something that may change.

    Parameters
    ----------
    path : Path
        A document that does not exist is made by the first change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        """Return the document as it stands now, right or wrong; empty if there is none.

        What is no UTF-8 is replaced by U+FFFD: whoever loads it is told.

        Raises
        ------
        ConfigurationError
            It cannot be read.
        """
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    def digest(self) -> str:
        """Return 16 digits that stand for the text as it stands now.

        Raises
        ------
        ConfigurationError
            It cannot be read.
        """
        return _digest(self.text())

    @property
    def is_writable(self) -> bool:
        """Whether this process may replace it."""
        target = self.path.resolve()
        return os.access(target.parent, os.W_OK) and (
            not target.exists() or os.access(target, os.W_OK)
        )

    def edit(self, change: Change, make: Callable[[str], str]) -> Version | None:
        """Replace the document by what `make` returns for its present text.

        Only one change of whatever process is under way at a time. The new text is validated as
        a whole before; the version before and the new one are kept in the history.

        Returns
        -------
        Version or None
            The version before, None if there was no document.

        Raises
        ------
        ConfigurationError
            The document would be wrong, or cannot be written; it is as it was.
        """
        try:
            with self._locked():
                existed = self.path.exists()
                former = self.text() if existed else _FRESH
                text = make(former)
                settings = self._validated(text)
                history = History(settings.root)
                kept = self._keep_former(history, former) if existed else None
                if existed and text == former:
                    return kept
                made = history.keep(text, change, time.time())
                try:
                    write_atomically(self.path, text)
                except OSError:
                    made.path.unlink(missing_ok=True)
                    raise
                history.forget_the_oldest()
                return kept
        except OSError as error:
            raise ConfigurationError(f"{error.filename or self.path}: {error.strerror}") from error

    def restore(self, version: Version, change: Change, *, seen: str = "") -> None:
        """Make the text of `version` the newest version.

        Parameters
        ----------
        seen : str
            The digest of the document that it was decided on; empty: any.

        Raises
        ------
        ConfigurationError
            It cannot be read, it is wrong for this software, or the document changed since it was
            `seen`; nothing is changed.
        """
        try:
            text = version.text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"version {version.number} cannot be read") from error

        def make(former: str) -> str:
            if seen and seen != _digest(former):
                raise ConfigurationError(
                    "the configuration was changed meanwhile; look at it and try again"
                )
            return text

        self.edit(change, make)

    def _validated(self, text: str) -> NodeSettings:
        # Read back by the very loader of the node, from a file beside the document: a relative
        # state directory has to resolve as it will.
        trial = write_beside(self.path, text)
        try:
            return load_settings(trial)
        except ConfigurationError as error:
            words = str(error).replace(str(trial), str(self.path))
            words = words.replace("document: Value error, ", "")  # pydantic's own wording
            raise ConfigurationError(words) from error
        finally:
            trial.unlink(missing_ok=True)

    def _keep_former(self, history: History, text: str) -> Version:
        """Return the version of the present `text`; kept now if somebody edited it by hand."""
        newest = history.newest()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if newest is not None and newest.text() == text:
                return newest
        return history.keep(text, _UNKNOWN, self.path.stat().st_mtime)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The folder itself is locked: nothing is left lying beside the document.
        folder = self.path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # and with it the lock


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
