"""What the system tests share: a small bundle and a short synthetic series."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.synthetic_ct import synthetic_series


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bundle that reads a slice in milliseconds: the paper's wiring, fewer layers."""
    from inference.bundle import make_untrained_bundle
    from inference.lung_crop import CropParameters
    from inference.slice_net import SliceNetParameters

    folder = tmp_path_factory.mktemp("bundle") / "small"
    make_untrained_bundle(
        folder,
        seed=0,
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=128),
    )
    return folder


@pytest.fixture
def chest_series(tmp_path: Path) -> list[Path]:
    """24 slices, 8 mm apart, with a lesion."""
    return list(synthetic_series(tmp_path / "chest", slices=24, lesion=True).paths)
