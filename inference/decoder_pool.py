"""Pixel data decoded in children that may crash, hang or swell without harm to anybody else.

A pool is a :class:`~inference.pixel_file.PixelReader`: given to
:func:`inference.volume.load_volume`, it reads with as many children as there are threads. They
are started once and kept, each with a piece of shared memory for one plane, which is copied out
before the next is asked for: a child can spoil no plane but its own.

A file is condemned by a fresh child only. Where one dies or is silent for too long, the file is
given to another that has read nothing yet: the first may have been spoiled by an earlier file,
stopped or ended from outside.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.cpus import usable_cpus
from inference.decoder_child import encode_request
from inference.errors import DecoderLost, DiskFailed, UndecodablePixels
from inference.frames import MAX_MATRIX
from inference.pixel_file import Plane

__all__ = ["DecoderLimits", "DecoderPool"]

_PLANE_BYTES = 2 * MAX_MATRIX * MAX_MATRIX  # int16; pages are taken when first touched
_START_TIMEOUT_S = 120.0
_MAX_ANSWER_BYTES = 65536
_MAX_REASON = 500
# Settings of the interpreter and the loader; what else stands in ours (passwords) is no concern
# of a decoder.
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What one file may cost.

    Attributes
    ----------
    memory_bytes : int
        Address space of a child beyond the size of the file it reads; 200 MB of it is the
        interpreter and its libraries.
    time_limit_s : float
        For one plane; the first one includes opening the file.
    """

    memory_bytes: int = 2 << 30
    time_limit_s: float = 30.0


class _ChildFailed(Exception):
    """The child died or was silent for too long; the text completes "The image …"."""

    def __init__(self, what: str, *, from_outside: bool = False) -> None:
        super().__init__(what)
        self.from_outside = from_outside


class DecoderPool:
    """Children that decode.

    Parameters
    ----------
    children : int
        0 takes the number of CPUs that this process may use.
    limits : DecoderLimits
    module : str
        Whose ``main`` the children run.
    """

    def __init__(
        self,
        children: int = 0,
        limits: DecoderLimits | None = None,
        *,
        module: str = "inference.decoder_child",
    ) -> None:
        self._limits = limits or DecoderLimits()
        self._module = module
        # The kernel ends a child with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG):
        # one thread that lives as long as the pool starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")
        self._idle: queue.LifoQueue[Future[_Child]] = queue.LifoQueue()
        self._count = children or usable_cpus()
        for _ in range(self._count):
            self._idle.put(self._start())

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all children; no plane may be asked for any more, nor be under way."""
        for _ in range(self._count):
            with contextlib.suppress(OSError):
                self._idle.get().result().end()
        self._starter.shutdown()

    def __call__(self, path: Path, planes: Sequence[Plane]) -> Iterator[NDArray[np.int16]]:
        """HU of `planes` in their order; an array is valid until the next one is asked for.

        Raises
        ------
        UndecodablePixels
            The file was refused, needs more memory than allowed, or two decoders crashed on it or
            took too long.
        DecoderLost
            Two children were killed from outside; the file may be good.
        DiskFailed
            The disk does not give the file.
        """
        lease = self._idle.get()
        clean = False
        try:
            child = lease.result()
            done, failed_at = 0, -1
            while done < len(planes):
                try:
                    for hu in child.read(path, planes[done:], self._limits):
                        yield hu
                        done += 1
                except _ChildFailed as error:
                    child.end()
                    if failed_at == done:
                        label = planes[done].label
                        if error.from_outside:
                            raise DecoderLost(f"decoding {label} was killed twice") from error
                        raise UndecodablePixels(f"The image {label} {error}.") from error
                    failed_at = done
                    lease = self._start()
                    child = lease.result()
            clean = True
        except UndecodablePixels:
            clean = child.is_sound
            raise
        finally:
            if not clean:
                with contextlib.suppress(OSError):
                    lease.result().end()
                lease = self._start()
            self._idle.put(lease)

    def _start(self) -> Future[_Child]:
        return self._starter.submit(_Child, self._module)


class _Child:
    """One child process, its socket and its memory. Used by one thread at a time."""

    def __init__(self, module: str) -> None:
        memory_fd = os.memfd_create("plane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory_fd, _PLANE_BYTES)
        # A child that cut it off would end us when we look.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, seals)
        self._memory = mmap.mmap(memory_fd, _PLANE_BYTES, prot=mmap.PROT_READ)
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                _command_line(module, theirs, memory_fd),
                pass_fds=(theirs.fileno(), memory_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        finally:
            theirs.close()
            os.close(memory_fd)
        self._is_ready = False
        self._files = 0
        self._is_busy = False
        self._is_spoiled = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def was_fresh(self) -> bool:
        """Whether the file it read last was its first."""
        return self._files <= 1

    @property
    def is_sound(self) -> bool:
        """Whether it may be given another file."""
        return not (self._is_busy or self._is_spoiled)

    def read(
        self, path: Path, planes: Sequence[Plane], limits: DecoderLimits
    ) -> Iterator[NDArray[np.int16]]:
        """HU of `planes`, each valid until the next.

        Raises
        ------
        UndecodablePixels, _ChildFailed
        """
        self._await_start()
        self._files += 1
        self._is_busy = True
        self._send(encode_request(path, planes, limits.memory_bytes, limits.time_limit_s))
        for number, plane in enumerate(planes):
            answer = self._answer(limits.time_limit_s, "to decode")
            if answer.get("plane") != number:
                self._raise_refusal(answer, plane)
            count = plane.rows * plane.columns
            hu = np.frombuffer(self._memory, np.int16, count).reshape(plane.rows, plane.columns)
            yield hu
            self._send(b"")
        self._is_busy = False

    def _await_start(self) -> None:
        if not self._is_ready:
            try:
                self._answer(_START_TIMEOUT_S, "to start")
            except _ChildFailed as error:
                if error.from_outside:
                    raise  # as one that is killed while it reads: another may fare better
                raise DecoderLost(f"no decoder could be started: it {error}") from error
            self._is_ready = True

    def _raise_refusal(self, answer: dict[str, Any], plane: Plane) -> None:
        self._is_busy = False
        if answer.get("disk"):
            raise DiskFailed(f"the disk does not give the image {plane.label}")
        if answer.get("memory"):
            # What else it holds we do not know: let a fresh one judge, and end this one.
            self._is_spoiled = True
            if not self.was_fresh:
                raise _ChildFailed("needs more memory than is allowed to be decoded")
        reason = str(answer.get("refused") or "")[:_MAX_REASON]
        if "unforeseen" in answer:
            raise RuntimeError(f"unforeseen in a decoder: {str(answer['unforeseen'])[:64]}")
        raise UndecodablePixels(
            reason or f"The image {plane.label} needs more memory than is allowed to be decoded."
        )

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError as error:
            raise self._death() from error

    def _answer(self, limit_s: float, doing: str) -> dict[str, Any]:
        try:
            if not self._connection.poll(limit_s):
                raise _ChildFailed(f"took longer than {limit_s:g} s {doing}")
            answer = json.loads(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError) as error:
            raise self._death() from error
        if not isinstance(answer, dict):
            raise _ChildFailed("made the decoder talk nonsense")
        return answer

    def _death(self) -> _ChildFailed:
        """Wait for the end of a child that has closed its socket, and say why it was."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return _ChildFailed("made the decoder fall silent")
        if code == -signal.SIGXCPU:
            return _ChildFailed("took too long to decode")
        if code >= 0:
            return _ChildFailed(f"ended the decoder (exit code {code})")
        name = signal.strsignal(-code) or f"signal {-code}"
        return _ChildFailed(f"crashed the decoder ({name})", from_outside=code == -signal.SIGKILL)

    def end(self) -> None:
        """Kill it and wait for its end."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        # An array of the caller may still look into the memory: then it goes with that.
        with contextlib.suppress(BufferError):
            self._memory.close()


def _command_line(module: str, theirs: Connection, memory_fd: int) -> list[str]:
    # -P: the working folder may be anybody's, nothing is imported from it.
    return [
        sys.executable,
        "-P",
        "-c",
        f"from {module} import main; main()",
        str(theirs.fileno()),
        str(memory_fd),
        str(os.getpid()),
    ]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100  zip files, too
    # One thread: the children are as many as the processors already.
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**kept, **one, "PYTHONPATH": os.pathsep.join(paths)}
