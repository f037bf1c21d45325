"""The disposable child in which pixel data are decoded: ``main()`` of a fresh interpreter.

It reads files, writes Hounsfield units into one piece of shared memory, and says over one socket
that it has. It may crash, hang or swell: :mod:`inference.decoder_pool` ends it, starts another,
and knows which image it was. Nothing of the model is imported here.

The conversation, all of it JSON without any code in it::

    pool   {"path", "planes": [...], "memory_bytes", "time_limit_s"}
    child  {"ready": true}                     once, before the first request
    child  {"plane": 0}                        the shared memory holds it; "" from the pool goes on
    child  {"refused": reason, "memory": ...}  instead of a plane; ends the file
    child  {"disk": true}                      the disk does not give the file
    child  {"unforeseen": type}                an error of ours, not of the file
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import mmap
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from inference.errors import DiskFailed, UndecodablePixels
from inference.pixel_file import Plane, read_planes
from inference.pixels import Padding, Rescale, needs_too_much_memory
from inference.system_call_filter import refuse_network_and_programs

__all__ = ["decode_request", "encode_request", "main"]

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux
_MAX_DESCRIPTORS = 64


def encode_request(
    path: Path, planes: Iterable[Plane], memory_bytes: int, time_limit_s: float
) -> bytes:
    """Return the request for `planes` of `path`."""
    rows = [
        (
            plane.index,
            plane.label,
            plane.rows,
            plane.columns,
            plane.rescale.slope,
            plane.rescale.intercept,
            None if plane.padding is None else (plane.padding.low, plane.padding.high),
        )
        for plane in planes
    ]
    request = {
        "path": str(path.absolute()),
        "planes": rows,
        "memory_bytes": memory_bytes,
        "time_limit_s": time_limit_s,
    }
    return json.dumps(request).encode("ascii")


def decode_request(encoded: bytes) -> tuple[Path, list[Plane], int, float]:
    """Return path, planes, memory limit in bytes and time limit in seconds of a request."""
    request = json.loads(encoded)
    planes = [
        Plane(
            index,
            label,
            rows,
            columns,
            Rescale(slope, intercept),
            None if padding is None else Padding(*padding),
        )
        for index, label, rows, columns, slope, intercept, padding in request["planes"]
    ]
    return Path(request["path"]), planes, request["memory_bytes"], request["time_limit_s"]


def main() -> None:
    """Serve requests until the pool closes its end; arguments: socket, memory, process of pool."""
    connection_fd, memory_fd, parent = (int(word) for word in sys.argv[1:4])
    _end_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        # They are meant for the worker, which finishes its analysis first; it ends us by closing.
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    connection = Connection(connection_fd)
    with mmap.mmap(memory_fd, 0) as memory:
        os.close(memory_fd)
        _confine()
        connection.send_bytes(b'{"ready": true}')
        try:
            while True:
                _serve(connection, memory, connection.recv_bytes())
        except (EOFError, OSError):  # the pool closed its end, or is gone
            return


def _end_with_parent(parent: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _confine() -> None:
    """Give up what a decoder has no need of; memory and time are limited with each request."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold pixels
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    refuse_network_and_programs()
    # What codecs print may quote the file.
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    os.close(silence)


def _serve(connection: Connection, memory: mmap.mmap, encoded: bytes) -> None:
    path, planes, memory_bytes, time_limit_s = decode_request(encoded)
    answer: dict[str, Any]
    try:
        _limit_memory(memory_bytes, path)
        _limit_time(time_limit_s)
        for number, hu in enumerate(read_planes(path, planes)):
            np.frombuffer(memory, np.int16, hu.size).reshape(hu.shape)[:] = hu
            connection.send_bytes(json.dumps({"plane": number}).encode("ascii"))
            connection.recv_bytes()
            _limit_time(time_limit_s)
    except UndecodablePixels as error:
        answer = {"refused": error.reason, "memory": needs_too_much_memory(error)}
    except DiskFailed:
        answer = {"disk": True}
    except MemoryError:
        answer = {"refused": "", "memory": True}
    except (EOFError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  the edge of this process: the pool raises it anew
        answer = {"unforeseen": type(error).__name__}
    else:
        return
    gc.collect()  # a refused file leaves cycles with its bytes in them
    connection.send_bytes(json.dumps(answer).encode("ascii"))


def _limit_memory(memory_bytes: int, path: Path) -> None:
    """Allow `memory_bytes` of address space beyond the file itself, which is read whole."""
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # opening it will say what is wrong
    _set_soft_limit(resource.RLIMIT_AS, memory_bytes + size)


def _limit_time(seconds: float) -> None:
    """Have the kernel end this process after `seconds` of computing, should the pool not."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft_limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds) + 1)


def _set_soft_limit(which: int, value: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(which, (value, most))
