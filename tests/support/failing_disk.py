"""A disk that fails on order: EIO on one file, a failing fsync, for real in the real process."""

from __future__ import annotations

import errno
from pathlib import Path

from support.preloaded import compiled

__all__ = ["FailingDisk"]

_SOURCE = Path(__file__).with_suffix(".c")
_CALLS = {"open", "read", "write", "fsync", "fsyncdir", "rename"}


class FailingDisk:
    """Orders that hold while processes run.

    Attributes
    ----------
    environment : dict of str to str
        For the processes whose calls may fail.
    """

    def __init__(self, directory: Path) -> None:
        library = compiled(_SOURCE, directory)
        self._orders = directory / "orders"
        self._orders.touch()
        self.environment = {"LD_PRELOAD": str(library), "M3LUNG_TEST_DISK": str(self._orders)}

    def fail(self, call: str, error: int, part: str) -> None:
        """Have `call` fail with `error` for files whose path contains `part`.

        Parameters
        ----------
        call : {"open", "read", "write", "fsync", "fsyncdir", "rename"}
        error : int
            Such as :data:`errno.EIO`.
        """
        assert call in _CALLS
        assert error in errno.errorcode
        self._write(f"{call} {error} {part}\n")

    def heal(self) -> None:
        """Fail no more."""
        self._write("")

    def _write(self, orders: str) -> None:
        draft = self._orders.with_suffix(".new")
        draft.write_text(orders, encoding="ascii")
        draft.rename(self._orders)
