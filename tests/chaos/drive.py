"""Make faults, one after the other, and look whether anything was lost, altered or doubled.

    make chaos N=200 TOPOLOGY=cluster MARKDOWN=table.md
    python tests/chaos/drive.py --faults 200 --seed 1 --topology cluster --markdown table.md

A real node, DCMTK and pynetdicom as senders, Orthanc as the PACS, which has to commit to what it
gets. Each round sends a series of its own, makes one seeded fault, starts what died, and lets the
sender repeat until everything is acknowledged, as a modality would. Afterwards the oracle compares
what the senders saw, the spool, the ledger and the PACS. Prints a table; exit code 1 if anything
is wrong.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from chaos.faults import Fault, faults_of
from chaos.hospital import Hospital
from chaos.oracle import Verdict
from chaos.table import markdown
from chaos.topology import SINGLE, TOPOLOGIES, Topology
from support.small_bundle import make_small_bundle

__all__ = ["drive"]

SETTLE_EVERY = 10  # faults


def drive(
    directory: Path,
    bundle: Path,
    faults: int,
    seed: int,
    *,
    topology: Topology = SINGLE,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Hospital, Verdict]:
    """Make `faults` faults; every kind comes once before any comes twice.

    Parameters
    ----------
    only : sequence of str
        Only faults with one of these words in their names.
    """
    dice = random.Random(seed)
    kinds = [
        fault
        for fault in faults_of(topology)
        if not only or any(word in fault.name for word in only)
    ]
    if not kinds:
        raise ValueError(f"no fault is called so; there are: {_names(topology)}")
    with Hospital(directory, bundle, seed, topology) as hospital:
        deck: list[Fault] = []
        for number in range(1, faults + 1):
            if not deck:
                deck = list(kinds)
                dice.shuffle(deck)
            fault = deck.pop()
            began = time.monotonic()
            happened = fault.make(hospital, hospital.next_sending(dice), dice)
            hospital.start_the_fallen()
            (hospital.made if happened else hospital.missed)[fault.name] += 1
            say(
                f"{number:4d}/{faults}  {fault.name:<40} {time.monotonic() - began:5.1f} s"
                + ("" if happened else "  not reached")
            )
            if number % SETTLE_EVERY == 0:
                hospital.settle()
        hospital.settle()
        return hospital, hospital.judge()


def _names(topology: Topology) -> str:
    return ", ".join(fault.name for fault in faults_of(topology))


def main() -> int:
    """Run the command line."""
    options = _options()
    # Told to end, it ends what it started, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    topology = TOPOLOGIES[options.topology]
    command = f"make chaos N={options.faults} SEED={options.seed} TOPOLOGY={options.topology}"
    if options.only:
        command = f"python {shlex.join(sys.argv)}"
    with tempfile.TemporaryDirectory(prefix="m3lung-chaos-") as scratch:
        directory = options.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        hospital, verdict = drive(
            directory,
            make_small_bundle(directory / "bundle"),
            options.faults,
            options.seed,
            topology=topology,
            only=options.only,
            say=lambda text: print(text, flush=True),
        )
        print(f"{time.monotonic() - began:.0f} s\n")
    text = markdown(hospital, verdict, command)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(f"{text}\n", encoding="utf-8")
    return 0 if verdict.is_clean else 1


def _options() -> argparse.Namespace:
    words = "\n".join(f"  {one.name}: {one.words}" for one in TOPOLOGIES.values())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"topologies:\n{words}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=50, metavar="N", help="how many (50)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the dice (1)")
    parser.add_argument("--topology", choices=list(TOPOLOGIES), default=SINGLE.name)
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORD",
        help="only faults with WORD in their names; may be repeated",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR and leave everything there"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
