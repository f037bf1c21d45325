"""What a figure depends on beside the code: processor, versions, commit, load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

__all__ = ["commit", "describe"]

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = ("torch", "openvino", "numpy", "opencv-python-headless", "pydicom", "pynetdicom")


def describe() -> dict[str, str]:
    """Return the machine in words; nothing that names it or its owner."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} CPUs ({instructions()})",
        "memory": f"{memory:.0f} GiB",
        "accelerator": accelerator(),
        "commit": commit(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS]
        ),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def instructions() -> str:
    """Return the widest matrix arithmetic that the processor says it has."""
    flags = next(
        (line.split() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("flags")), [],
    )  # fmt: skip
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    return next((name for name in known if name in flags), "no AVX2")


def accelerator() -> str:
    """Asked of a child: to import torch here would cost every benchmark its memory."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def commit() -> str:
    """Return the commit, marked where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
