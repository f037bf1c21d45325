"""A control group with little memory: the kernel kills what needs more, as on a full machine."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

__all__ = ["MemoryCgroup"]

_ROOT = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """A control group of version 1 or 2, of this test alone.

    Skips the test where none may be made (containers mostly, and users other than root).
    """

    def __init__(self, name: str) -> None:
        is_v2 = (_ROOT / "cgroup.controllers").exists()
        self._folder = (_ROOT if is_v2 else _ROOT / "memory") / name
        self._limit = "memory.max" if is_v2 else "memory.limit_in_bytes"
        self._usage = "memory.current" if is_v2 else "memory.usage_in_bytes"
        try:
            if is_v2:
                (_ROOT / "cgroup.subtree_control").write_text("+memory")
            self._folder.mkdir()
            self.limit(1 << 40)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            pytest.skip(f"no control group for memory can be made: {error.strerror}")

    def take(self, pid: int) -> None:
        """Put a process into the group; what it starts from now on is in it, too."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def limit(self, size_bytes: int) -> None:
        """Have the kernel kill what takes more than `size_bytes`, counted from its entry."""
        (self._folder / self._limit).write_text(str(size_bytes))

    def usage(self) -> int:
        """Bytes that its processes took since they are in it."""
        return int((self._folder / self._usage).read_text())

    def remove(self) -> None:
        """Remove the group; its processes go back to where all are."""
        parent = self._folder.parent / "cgroup.procs"
        deadline = time.monotonic() + 10
        while self._folder.exists() and time.monotonic() < deadline:
            for pid in (self._folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    parent.write_text(pid)
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            time.sleep(0.1)
