"""Which model this node runs: the configured bundle, else the demonstration model."""

from __future__ import annotations

from pathlib import Path

from dicom_node.settings import NodeSettings
from inference.analyzer import Analyzer

__all__ = ["load_analyzer"]


def load_analyzer(settings: NodeSettings, bundle: Path | None = None) -> Analyzer:
    """Load the model as the settings say.

    Until a hospital installs a model of its own the node reads with one that was trained on
    synthetic patients. Whatever that one writes is marked as a demonstration.

    Raises
    ------
    inference.errors.BundleError, inference.errors.DeviceError
    """
    analysis = settings.analysis
    return Analyzer.load(
        bundle or analysis.bundle_folder,
        engine=analysis.engine,
        device=analysis.device,
        precision=analysis.precision,
        batch_slices=analysis.batch_slices,
        threads=analysis.threads,
        m2unet=analysis.other_bundle("m2unet"),
        jcs=analysis.other_bundle("jcs"),
    )
