"""Which model this node runs: the configured bundle, or an untrained one that says so."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from dicom_node.settings import NodeSettings
from inference.analyzer import Analyzer
from inference.bundle import make_untrained_bundle

__all__ = ["bundle_dir", "load_analyzer"]


def bundle_dir(settings: NodeSettings) -> Path:
    """Return the folder of the model bundle; make the untrained one on first use.

    Until a hospital installs a trained bundle the node runs a seeded, untrained network, so that
    every other part can be tried. Whatever it writes is marked as untrained.
    """
    if settings.analysis.bundle is not None:
        return settings.analysis.bundle.expanduser()
    folder = settings.root / "bundles" / "untrained"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder.parent / ".making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may start at once
        if not folder.is_dir():
            half = folder.with_name(".untrained")
            shutil.rmtree(half, ignore_errors=True)
            make_untrained_bundle(half, seed=0)
            half.rename(folder)
    return folder


def load_analyzer(settings: NodeSettings, bundle: Path | None = None) -> Analyzer:
    """Load the model as the settings say.

    Raises
    ------
    inference.errors.BundleError, inference.errors.DeviceError
    """
    analysis = settings.analysis
    return Analyzer.load(
        bundle or bundle_dir(settings),
        engine=analysis.engine,
        device=analysis.device,
        precision=analysis.precision,
        batch_slices=analysis.batch_slices,
        threads=analysis.threads,
    )
