"""Make faults, one after the other, and look whether anything was lost, altered or doubled.

    make chaos N=200            or    python tests/chaos/drive.py --faults 200 --seed 1

A real node (listener, reconciler, worker, delivery), DCMTK and pynetdicom as senders, Orthanc as
the PACS. Each round sends a series of its own, makes one seeded fault, starts what died, and lets
the sender repeat until everything is acknowledged, as a modality would. Afterwards the oracle
compares what the senders saw, the spool, the ledger and the PACS. Prints a table; exit code 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pydicom import dcmread

from chaos.faults import FAULTS, Fault
from chaos.oracle import Verdict, judge, unfinished
from chaos.senders import SENDERS
from support.node import Node
from support.orthanc import Orthanc
from support.small_bundle import make_small_bundle
from support.synthetic_ct import synthetic_series

__all__ = ["Chaos", "Sending", "drive"]

SLICES = 22
SETTLE_S = 240.0


class Sending:
    """One series on its way: sent again and again until every image is acknowledged."""

    def __init__(
        self,
        files: Sequence[Path],
        send: Callable[[Sequence[Path], int], list[Path]],
        port: int,
        acknowledged: dict[str, Path],
    ) -> None:
        self.files = list(files)
        self._send, self._port, self._acknowledged = send, port, acknowledged
        self._thread: threading.Thread | None = None
        self._open = set(self.files)

    def send(self, files: Sequence[Path]) -> None:
        """Send `files` once; remember what was acknowledged."""
        for path in self._send(files, self._port):
            self._acknowledged[str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
            self._open.discard(path)

    def begin(self) -> None:
        """Send in the background until everything is acknowledged."""
        self._thread = threading.Thread(target=self._until_acknowledged)
        self._thread.start()

    def finish(self, timeout_s: float = 120.0) -> None:
        """Wait until everything is acknowledged."""
        assert self._thread is not None
        self._thread.join(timeout_s)
        if self._thread.is_alive() or self._open:
            raise TimeoutError(f"{len(self._open)} images were not acknowledged")

    def send_all(self) -> None:
        """Send until everything is acknowledged, and return."""
        self.begin()
        self.finish()

    def _until_acknowledged(self) -> None:
        deadline = time.monotonic() + 100.0
        while self._open and time.monotonic() < deadline:
            self.send(self.files)  # from the start, as most senders do
            time.sleep(0.3)


class Chaos:
    """A node, a PACS, and what the senders were told."""

    lease_s = 6.0

    def __init__(self, directory: Path, bundle: Path, seed: int) -> None:
        self.directory = directory
        self.pacs = Orthanc(directory / "orthanc")
        self.pacs.start()
        self.node = Node(
            directory / "node", bundle, pacs=[self.pacs], lease_s=self.lease_s,
            peer_options='compress = "none"',
        )  # fmt: skip
        self.acknowledged: dict[str, Path] = {}
        self.made: collections.Counter[str] = collections.Counter()
        self.missed: collections.Counter[str] = collections.Counter()
        self._seed, self._series = seed, 0

    def __enter__(self) -> Chaos:
        self.node.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.stop()
        self.pacs.stop()

    def next_sending(self, dice: random.Random) -> Sending:
        """The next series, of a patient of its own."""
        self._series += 1
        name = f"CHAOS-{self._seed}-{self._series}"
        series = synthetic_series(
            self.directory / "series" / name, SLICES, matrix=128, seed=self._series,
            patient_id=name, study=name, lesion=dice.random() < 0.7,
        )  # fmt: skip
        return Sending(series.paths, dice.choice(SENDERS), self.node.port, self.acknowledged)

    def make(self, fault: Fault, dice: random.Random) -> bool:
        """One round."""
        happened = fault.make(self, self.next_sending(dice), dice)
        (self.made if happened else self.missed)[fault.name] += 1
        return happened

    def settle(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until every series has ended, or the time is up: the oracle names the others."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not unfinished(self.node):
                return
            time.sleep(0.5)


def drive(
    directory: Path,
    bundle: Path,
    faults: int,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Chaos, Verdict]:
    """Make `faults` faults; every kind comes once before any comes twice."""
    dice = random.Random(seed)
    with Chaos(directory, bundle, seed) as chaos:
        deck: list[Fault] = []
        for number in range(1, faults + 1):
            if not deck:
                deck = list(FAULTS)
                dice.shuffle(deck)
            fault = deck.pop()
            began = time.monotonic()
            happened = chaos.make(fault, dice)
            say(
                f"{number:4d}/{faults}  {fault.name:<40} {time.monotonic() - began:5.1f} s"
                + ("" if happened else "  not reached")
            )
            if number % 10 == 0:
                chaos.settle()
        chaos.settle()
        return chaos, judge(chaos.node, chaos.pacs, chaos.acknowledged)


def table(chaos: Chaos, verdict: Verdict, seed: int) -> str:
    rows = [f"| {name} | {count} |" for name, count in sorted(chaos.made.items())]
    return "\n".join(
        [
            "| fault | made |",
            "|---|---|",
            *rows,
            f"| **all** (seed {seed}; {sum(chaos.missed.values())} not reached) "
            f"| **{sum(chaos.made.values())}** |",
            "",
            "| images acknowledged | objects in the PACS | lost | altered | doubled | stuck |",
            "|---|---|---|---|---|---|",
            f"| {verdict.acknowledged} | {verdict.objects} | {len(verdict.lost)} | "
            f"{len(verdict.altered)} | {len(verdict.doubled)} | {len(verdict.stuck)} |",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="m3lung-chaos-") as scratch:
        bundle = make_small_bundle(Path(scratch) / "bundle")
        chaos, verdict = drive(
            Path(scratch),
            bundle,
            options.faults,
            options.seed,
            lambda text: print(text, flush=True),
        )
    print(table(chaos, verdict, options.seed))
    for kind in ("lost", "altered", "doubled", "stuck"):
        for item in getattr(verdict, kind):
            print(f"{kind}: {item}")
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
