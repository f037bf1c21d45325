"""An untrained bundle that reads a slice in milliseconds: the paper's wiring, fewer layers."""

from __future__ import annotations

from pathlib import Path

__all__ = ["make_small_bundle"]


def make_small_bundle(folder: Path) -> Path:
    """Write the bundle into `folder`; return it."""
    from inference.bundle import make_untrained_bundle  # loads torch
    from inference.lung_crop import CropParameters
    from inference.slice_net import SliceNetParameters

    make_untrained_bundle(
        folder,
        seed=0,
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=128),
    )
    return folder
