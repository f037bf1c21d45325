"""Which real peer programs this machine has, and how to get the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["PEERS", "program", "require_peer"]

# sbin: Debian puts Orthanc there, which is not on every user's path.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
_VIEWERS = Path(__file__).resolve().parents[2] / ".viewer"
_PIXELMED = Path("/usr/share/java/pixelmed.jar")


def program(*names: str) -> str | None:
    """Return the full path of the first of `names` that is installed."""
    return next((path for name in names if (path := shutil.which(name, path=_SEARCH_PATH))), None)


def postgresql_bin() -> Path | None:
    """Return the newest installed PostgreSQL's folder of server programs."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
    )
    if versions:
        return versions[-1].parent
    found = program("initdb")
    return Path(found).parent if found else None


def _has_pixelmed() -> bool:
    return _PIXELMED.exists() and program("java") is not None


@dataclass(frozen=True)
class Peer:
    """A program that tests talk to; `packages` are Debian's."""

    is_installed: Callable[[], bool]
    packages: str


PEERS: Mapping[str, Peer] = {
    "orthanc": Peer(lambda: program("Orthanc") is not None, "orthanc orthanc-dicomweb"),
    "dcmtk": Peer(lambda: None not in (program("storescu"), program("storescp")), "dcmtk"),
    "dciodvfy": Peer(lambda: program("dciodvfy") is not None, "dicom3tools"),
    "redis": Peer(lambda: program("redis-server") is not None, "redis-server"),
    "postgresql": Peer(lambda: postgresql_bin() is not None, "postgresql"),
    "pixelmed": Peer(_has_pixelmed, "libpixelmed-java default-jre-headless"),
    "promtool": Peer(lambda: program("promtool") is not None, "prometheus"),
    "systemd": Peer(lambda: program("systemd-analyze") is not None, "systemd"),
    "chromium": Peer(lambda: program("chromium", "chromium-browser") is not None, "chromium"),
    "ohif": Peer(
        lambda: any(_VIEWERS.glob("ohif-*/index.html")), "npm, then scripts/install-viewer"
    ),
}


def require_peer(name: str) -> None:
    """Skip the running test where peer `name` is absent; fail it with ``CI=true``."""
    peer = PEERS[name]
    if peer.is_installed():
        return
    reason = f"{name} is not installed: make peers, or apt install {peer.packages}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
