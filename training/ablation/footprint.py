"""What a training costs: seconds and peak memory, kept over interruptions."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from training.durable import write_durably

__all__ = ["Cost", "Footprint"]

_SAVE_S = 2.0
_SAMPLE_S = 0.01
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and memory.

    Attributes
    ----------
    seconds : float
        Wall clock, interrupted tries included.
    peak_mib : float or None
        On CUDA what torch allocated there at most; else the largest resident memory of the
        process meanwhile, sampled a hundred times a second, interpreter and libraries included.
        None where it cannot be told. The kernel's own high-water mark is no use: it cannot be
        set back everywhere.
    """

    seconds: float = 0.0
    peak_mib: float | None = None


class Footprint:
    """Adds up the cost of a piece of work in a file beside it.

    Parameters
    ----------
    path : Path
        What earlier, interrupted tries cost is read from here.
    device : torch.device
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path = path
        self._device = device
        self._before = _read(path)
        self._memory = _ResidentMemory()
        self._began = self._saved = time.monotonic()

    @contextmanager
    def measured(self) -> Iterator[Footprint]:
        """Measure what happens inside."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self.watched():
            try:
                yield self
            finally:
                self._save()

    @contextmanager
    def watched(self) -> Iterator[Footprint]:
        """Measure what happens inside, without a file."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._memory = _ResidentMemory()
        self._memory.start()
        self._began = self._saved = time.monotonic()
        try:
            yield self
        finally:
            self._memory.stop()

    def tick(self) -> None:
        """Save now and then, so that a kill loses seconds only."""
        if time.monotonic() - self._saved > _SAVE_S:
            self._save()

    @property
    def cost(self) -> Cost:
        """All so far."""
        peak = self._memory.peak_mib
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / _MIB
        peaks = [p for p in (self._before.peak_mib, peak) if p is not None]
        seconds = self._before.seconds + time.monotonic() - self._began
        return Cost(seconds, max(peaks) if peaks else None)

    @property
    def cost_before(self) -> Cost:
        """What was in the file."""
        return self._before

    def _save(self) -> None:
        self._saved = time.monotonic()
        write_durably(self._path, json.dumps(asdict(self.cost)).encode())


def _read(path: Path) -> Cost:
    try:
        document = json.loads(path.read_bytes())
        return Cost(float(document["seconds"]), document["peak_mib"])
    except (OSError, ValueError, KeyError, TypeError):
        return Cost()


class _ResidentMemory:
    """Samples the process's resident memory in a thread of its own."""

    def __init__(self) -> None:
        self.peak_mib = _resident_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="footprint", daemon=True)

    def start(self) -> None:
        if self.peak_mib is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        now = _resident_mib()
        if now is not None:
            self.peak_mib = max(now, self.peak_mib or 0.0)


def _resident_mib() -> float | None:
    """Resident memory of this process; None where there is no Linux to ask (proc_pid_statm(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
