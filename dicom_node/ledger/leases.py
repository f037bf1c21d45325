"""Who holds a lease, and whether that process is still there.

A lease names its owner so that the reconciler of the same machine can return the work of a killed
process at once; on other machines it waits for the lease to expire. Being wrong is harmless:
every write of a lease holder is fenced by its token.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["owner_is_gone", "this_owner"]


def this_owner() -> str:
    """Return a name for this process: host, boot, process namespace, pid, start time."""
    return "|".join((*_place(), str(os.getpid()), _start_time(os.getpid()) or "0"))


def owner_is_gone(owner: str) -> bool:
    """Whether `owner` ran on this very machine and boot, and is certainly dead."""
    *place, pid, started = owner.split("|")
    if tuple(place) != _place() or not pid.isdigit():
        return False
    return _start_time(int(pid)) != started


def _place() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, namespace = "", ""
    return socket.gethostname(), boot, namespace


def _start_time(pid: int) -> str | None:
    """Clock ticks after boot at which `pid` started (proc(5), field 22); None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    # A zombie holds its pid but will never work again.
    return None if fields[0] == "Z" else fields[19]
