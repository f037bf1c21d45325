"""A short seeded part of `make chaos`: every run of the suite makes some faults for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.drive import drive, table

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]


@pytest.mark.timeout(280)
def test_a_few_faults_lose_and_double_nothing(tmp_path: Path, small_bundle: Path) -> None:
    chaos, verdict = drive(tmp_path, small_bundle, faults=8, seed=7)
    assert verdict.is_clean, f"{table(chaos, verdict, 7)}\n{verdict}\n{chaos.node.logs()}"
    assert sum(chaos.made.values()) >= 7
    assert verdict.acknowledged >= 8 * 22
