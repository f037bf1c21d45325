"""A decoder child to whom the disk does not give files whose names begin with "eio".

Run by a pool as ``DecoderPool(module="support.failing_reader")``. The pool hands on no variables
of its own to children, so that a library cannot be preloaded into them: the error is raised where
the file is opened.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from inference import decoder_child, pixel_file

__all__ = ["main"]

_dcmread = pixel_file.dcmread


def _failing(path: Path, *arguments: Any, **options: Any) -> Any:
    if path.name.startswith("eio"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return _dcmread(path, *arguments, **options)


def main() -> None:
    """Run the real child over the failing disk."""
    pixel_file.dcmread = _failing  # type: ignore[assignment]
    decoder_child.main()
