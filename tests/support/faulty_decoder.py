"""A decoder child that misbehaves on files named for it: what a broken codec would do.

Run by a pool as ``DecoderPool(module="support.faulty_decoder")``. The fault is the real one, in
the real child, at the place where the codec is called.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from inference import decoder_child, pixel_file

__all__ = ["main"]

_decode = pixel_file.decode_hu


def faulty(instance: Any, frame_index: int, label: str, *meaning: Any) -> Any:
    """Do to `label` what its name says, then decode it if that is still possible."""
    for name, fault in FAULTS.items():
        if label.startswith(name):
            fault(label)
    return _decode(instance, frame_index, label, *meaning)


def hold_memory(_: str) -> None:
    kept = []
    while True:
        kept.append(b"\1" * (64 << 20))


def count_visits_and_crash(label: str) -> None:
    """Crash on the first visit only: the file is good, the child was not."""
    mark = Path(os.environ["TMPDIR"]) / label.split(",")[0]
    if not mark.exists():
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY))
        os.kill(os.getpid(), signal.SIGSEGV)


def reach_out(_: str) -> None:
    for attempt in (socket.socket, lambda: subprocess.run(["true"], check=False)):
        try:
            attempt()
        except PermissionError:
            continue
        os.kill(os.getpid(), signal.SIGSEGV)  # it was allowed


def abort(_: str) -> None:
    os.abort()


FAULTS = {
    "segv": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": abort,
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "hang": lambda _: time.sleep(3600),
    "swell": hold_memory,
    "once": count_visits_and_crash,
    "reach": reach_out,
    "bug": lambda label: {}[label],
    "noise": lambda label: os.write(1, b"SECRET" * 20000) or os.write(2, b"SECRET" * 20000),
}


def main() -> None:
    """Run the real child with the faults in it."""
    pixel_file.decode_hu = faulty  # type: ignore[assignment]
    decoder_child.main()
