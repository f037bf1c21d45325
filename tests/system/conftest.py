"""What the system tests share: a short synthetic series."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.synthetic_ct import synthetic_series


@pytest.fixture
def chest_series(tmp_path: Path) -> list[Path]:
    """24 slices, 8 mm apart, with a lesion."""
    return list(synthetic_series(tmp_path / "chest", slices=24, lesion=True).paths)
