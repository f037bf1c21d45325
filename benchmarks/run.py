"""The suite: every benchmark in a process of its own, one table of ratios, JSON beside it.

    make bench                         short: under eight minutes on two quiet cores
    make bench-full                    whole series, more rounds, 100,000 series in the ledger
    python benchmarks/run.py --only predict series
    python benchmarks/run.py --markdown docs/benchmarks.md     also writes that page

A ratio is taken within one run on one machine; absolute figures move with it. A benchmark whose
peer program is not installed, or that fails, is named as such and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import Figures, print_ratios
from machine import describe
from page import write_page
from phantom_series import BUILD

HERE = Path(__file__).resolve().parent
LIMIT_S = {"short": 240.0, "full": 3600.0}


@dataclass(frozen=True)
class Part:
    """One benchmark: its script, and its arguments in both lengths."""

    name: str
    script: str
    short: str
    full: str


PARTS = (
    Part("receive", "receive.py",
         "--slices 60 --repeat 1 --receiver m3lung m3lung-tuned storescp orthanc orthanc-tuned",
         "--slices 300 --repeat 3"),
    Part("send", "send.py", "--objects 40 --repeat 1", "--objects 150 --repeat 3"),
    Part("volume", "volume.py", "--slices 300 --naive-slices 15 --rounds 1", "--rounds 5"),
    Part("predict", "predict.py", "--slices 2 --rounds 2", "--slices 8 --rounds 4"),
    Part("series, full model", "series.py", "--slices 60 --naive-slices 4",
         "--slices 300 --naive-slices 20"),
    Part("series, shipped model", "series.py", "--slices 300 --model shipped --naive-slices 8",
         "--slices 300 --model shipped --naive-slices 40"),
    Part("turnaround", "turnaround.py", "--slices 60 --patients 1", "--slices 300 --patients 3"),
    Part("ledger", "ledger.py", "--series 1000 10000 --rounds 10",
         "--series 1000 10000 100000 --rounds 30 --budget-s 1800"),
    Part("scale", "scale.py", "--series 4 --slices 24 --seconds 2",
         "--series 8 --slices 60 --seconds 10"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="starts of names")
    parser.add_argument("--json", type=Path, default=BUILD / "figures.json")
    parser.add_argument("--markdown", type=Path, help="page to write")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    length = "full" if options.full else "short"
    circumstances = {**describe(), "length": length}
    found: dict[str, Figures] = {}
    missing: dict[str, str] = {}
    for part in PARTS:
        if part.name.startswith(tuple(options.only or [""])):
            try:
                found[part.name] = measured(part, length)
            except RuntimeError as error:
                missing[part.name] = str(error)
    circumstances["load after"] = f"{os.getloadavg()[0]:.1f}"
    summary(found, missing, circumstances)
    parts = {name: asdict(figures) for name, figures in found.items()}
    document = {**circumstances, "parts": parts, "missing": missing}
    options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {options.json.name}")
    if options.markdown:
        write_page(options.markdown, found, missing, circumstances)
    return 1 if missing else 0


def measured(part: Part, length: str) -> Figures:
    """Run one benchmark; its own table goes to the terminal.

    Raises
    ------
    RuntimeError
        It failed, or took too long.
    """
    print(f"\n── {part.name}", flush=True)
    began = time.monotonic()
    target = BUILD / f"{part.script.removesuffix('.py')}-figures.json"
    target.unlink(missing_ok=True)
    arguments = (part.short if length == "short" else part.full).split()
    command = [sys.executable, str(HERE / part.script), *arguments, "--json", str(target)]
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(LIMIT_S[length])
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.wait()
        raise RuntimeError(f"not done after {LIMIT_S[length]:g} s") from None
    if code != 0 or not target.exists():
        raise RuntimeError(f"ended with {code}")
    print(f"({part.name}: {time.monotonic() - began:.0f} s)", flush=True)
    return Figures.read(target)


def summary(
    found: dict[str, Figures], missing: dict[str, str], circumstances: dict[str, str]
) -> None:
    print("\n── all ratios")
    print_ratios([ratio for figures in found.values() for ratio in figures.ratios])
    for name, reason in missing.items():
        print(f"missing: {name} ({reason})")
    for name, words in circumstances.items():
        print(f"{name}: {words}")


if __name__ == "__main__":
    sys.exit(main())
