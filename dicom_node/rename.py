"""Give a file a name that no other file has, in one step."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["rename_to_new"]

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
# Not every C library has the call, nor every file system (NFS), nor every system but Linux.
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_to_new(source: Path, target: Path) -> bool:
    """Rename `source` to `target` unless a file of that name exists.

    Returns
    -------
    bool
        False where one exists, or where the system cannot tell in one step; nothing was done then.

    Raises
    ------
    OSError
    """
    if _renameat2 is None:
        return False
    names = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
    if _renameat2(*names, _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST or number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(target))
