"""A text file replaced at once: by a rename, durably, with the mode and the owner it had."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_atomically", "write_beside"]


def write_beside(path: Path, text: str) -> Path:
    """Write `text` durably to a new file in the folder of `path`; return its path.

    Raises
    ------
    OSError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def write_atomically(path: Path, text: str) -> None:
    """Replace the content of `path`; a link stays a link.

    Raises
    ------
    OSError
        The file is as it was.
    """
    # Through a link to the document itself: an administrator may keep it elsewhere.
    target = path.resolve()
    fresh = write_beside(target, text)
    try:
        if target.exists():
            former = target.stat()
            fresh.chmod(former.st_mode & 0o777)
            if os.geteuid() == 0:
                os.chown(fresh, former.st_uid, former.st_gid)
        fresh.replace(target)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
