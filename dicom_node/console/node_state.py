"""How the node is, for the system page and for programs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import Any

from dicom_node import __version__
from dicom_node.ledger import Ledger
from dicom_node.ledger.presence import RunningProcess
from dicom_node.ledger.signs_of_life import SignsOfLife, signs_of_life
from dicom_node.ledger.worklist import NodeCounts
from dicom_node.settings import NodeSettings

__all__ = ["Disk", "Model", "NodeState", "model_card", "node_state"]

_MOST_CARD_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the state directory."""

    path: str
    total_bytes: int
    free_bytes: int
    used_percent: float  # bytes or inodes, what is scarcer
    high_water_percent: float
    min_free_bytes: int

    @property
    def is_full(self) -> bool:
        """Whether nothing more is received."""
        return self.used_percent >= self.high_water_percent or self.free_bytes < self.min_free_bytes


@dataclass(frozen=True, slots=True)
class Model:
    """The configured bundle, by its manifest; fields are empty where that does not say."""

    folder: str
    name: str
    version: str
    training: str
    error: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node at a glance."""

    version: str
    ae_title: str
    counts: NodeCounts
    processes: list[RunningProcess]
    signs: SignsOfLife
    disk: Disk
    model: Model

    def of_part(self, part: str) -> list[RunningProcess]:
        """Return the running processes of one part, such as ``work``."""
        return [process for process in self.processes if process.part == part]


def node_state(settings: NodeSettings, ledger: Ledger) -> NodeState:
    """Look at ledger, disk and bundle."""
    return NodeState(
        version=__version__,
        ae_title=settings.ae_title,
        counts=ledger.worklist.counts(unfinished_only=True),
        processes=ledger.presence.running(),
        signs=signs_of_life(ledger.database),
        disk=_disk(settings),
        model=_model(settings),
    )


def _disk(settings: NodeSettings) -> Disk:
    usage, system = shutil.disk_usage(settings.root), os.statvfs(settings.root)
    inodes = 100.0 * (1 - system.f_favail / system.f_files) if system.f_files else 0.0
    return Disk(
        path=str(settings.root),
        total_bytes=usage.total,
        free_bytes=usage.free,
        used_percent=max(100.0 * usage.used / max(1, usage.used + usage.free), inodes),
        high_water_percent=settings.retention.high_water_percent,
        min_free_bytes=settings.listener.min_free_bytes,
    )


def _model(settings: NodeSettings) -> Model:
    folder = settings.analysis.bundle_folder
    manifest: dict[str, Any] = {}
    error = ""
    try:
        read = json.loads((folder / "manifest.json").read_bytes())
        manifest = read if isinstance(read, dict) else {}
    except FileNotFoundError:
        error = "there is no manifest.json"
    except (OSError, ValueError) as problem:
        error = f"manifest.json cannot be read ({type(problem).__name__})"
    return Model(
        folder=str(folder),
        name=str(manifest.get("name", "")),
        version=str(manifest.get("version", "")),
        training=str(manifest.get("training", "")),
        error=error,
    )


def model_card(settings: NodeSettings) -> str:
    """Return the card that lies in the bundle, in Markdown; empty without one."""
    folder = settings.analysis.bundle_folder
    for name in ("model_card.md", "MODEL_CARD.md", "model-card.md"):
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as file:
                return file.read(_MOST_CARD_BYTES)
        except OSError:
            continue
    return ""
