"""Print the dependencies of pyproject.toml, one a line, for an image's own layer.

python deploy/containers/requirements.py [--without-model] [--without NAME ...]
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

MODEL = frozenset({"torch", "torchvision", "safetensors", "openvino", "tensorboard", "matplotlib"})
"""What reads and trains: only the worker and the training verbs reach it."""


def requirements(project: Path, without: set[str]) -> list[str]:
    """Return the dependencies of `project` (a pyproject.toml) but for those named."""
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]: line for line in declared}
    unknown = without - names.keys()
    if unknown:
        raise SystemExit(f"not among the dependencies: {', '.join(sorted(unknown))}")
    return [line for name, line in names.items() if name not in without]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="append", default=[], metavar="NAME")
    parser.add_argument("--without-model", action="store_true", help="leave out what reads")
    arguments = parser.parse_args()
    without = set(arguments.without) | (MODEL if arguments.without_model else set())
    lines = requirements(Path("pyproject.toml"), without)
    sys.stdout.write("\n".join(lines) + "\n")
