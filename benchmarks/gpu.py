"""Everything that is to be known of a GPU, in one command.

    python benchmarks/gpu.py [--device cuda] [--json FILE]

The share of the measured matrix rate in the slice network, one series from spool to written results
by stage with its GPU memory, and several series at once. ``--device cpu`` tries the same code paths
on a machine without one, with small inputs; its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from figures import Figures, print_ratios
from machine import describe
from phantom_series import BUILD

HERE = Path(__file__).resolve().parent
ON_GPU = (
    ("predict", "predict.py", "--device cuda --slices 32 --rounds 5"),
    ("series", "series.py", "--device cuda --slices 300 --batch 32 --naive-slices 20 --several 4"),
    ("series, demonstration model", "series.py",
     "--device cuda --slices 300 --batch 64 --naive-slices 20 --model shipped --several 4"),
)  # fmt: skip
TRIED = (
    ("predict", "predict.py", "--device cpu --size 64 --slices 1 --rounds 1"),
    ("series", "series.py",
     "--device cpu --slices 24 --naive-slices 2 --model shipped --several 2"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path, default=BUILD / "gpu.json")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    circumstances = describe()
    found: dict[str, Figures] = {}
    for name, script, arguments in ON_GPU if options.device == "cuda" else TRIED:
        target = BUILD / "gpu-part.json"
        command = [sys.executable, str(HERE / script), *arguments.split(), "--json", str(target)]
        subprocess.run(command, check=True)
        found[name] = Figures.read(target)
    print_ratios([ratio for figures in found.values() for ratio in figures.ratios])
    for name, words in circumstances.items():
        print(f"{name}: {words}")
    parts = {name: asdict(figures) for name, figures in found.items()}
    options.json.write_text(json.dumps({**circumstances, "parts": parts}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
