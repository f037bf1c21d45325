"""Small C libraries that are preloaded into a process of the node, to make faults in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.peers import program

__all__ = ["compiled"]


def compiled(source: Path, directory: Path) -> Path:
    """Compile `source` into `directory`; return the library.

    Skips the test where there is no C compiler, or no loader that preloads (Linux has one).
    """
    compiler = program("cc", "gcc", "clang")
    if compiler is None:
        pytest.skip("no C compiler: apt install gcc libc6-dev")
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / f"{source.stem}.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the C compiler cannot make the library: {done.stderr[:200]}")
    return library
