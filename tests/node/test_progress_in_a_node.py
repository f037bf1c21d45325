"""Studies of one patient through a node: each is compared with what was read before, for good."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ledger.series_record import read_series
from dicom_node.settings import NodeSettings
from inference.analyzer import Analyzer
from inference.decoder_pool import DecoderPool
from support.node_in_process import NodeInProcess
from support.synthetic_ct import synthetic_series


class Node(NodeInProcess):
    """Reads one study after another."""

    def __init__(self, root: Path, bundle: Path, pixels: DecoderPool) -> None:
        super().__init__(NodeSettings(state_dir=root), Analyzer.load(bundle, threads=1), pixels)
        self._numbers = itertools.count()

    def read(self, study_date: str, slices: int = 22, *, lesion: bool = True) -> Path:
        """Receive a study and have it read; return the folder of its results."""
        number = next(self._numbers)
        made = synthetic_series(
            self.settings.spool_dir / f"{number}", slices=slices, matrix=128, lesion=lesion,
            study=f"{number}", study_date=study_date,
        )  # fmt: skip
        self.record(made.paths)
        for _ in range(12):
            self.sweep(10.0)
            while self.worker.run():
                pass
        status = self.status(made.series_instance_uid)
        assert status.analysis_state == "done", status.reason
        record = read_series(self.ledger.database, status.series_id)
        assert record is not None
        return (self.settings.results_dir / record.objects[0].path).parent


@pytest.fixture
def node(tmp_path: Path, small_bundle: Path) -> Iterator[Node]:
    with DecoderPool(1) as pixels:
        made = Node(tmp_path / "state", small_bundle, pixels)
        with made.ledger:
            yield made


def document(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(900)
def test_each_study_is_compared_with_the_last_one_before(node: Node) -> None:
    first = node.read("20260105", lesion=False)
    alone = document(first)["progress"]
    assert not alone["comparable"]
    assert alone["reason"] == "this node has read no earlier study of the patient"

    second = node.read("20260301")
    before, now = document(first), document(second)
    progress = now["progress"]
    assert progress["comparable"], progress["reason"]
    assert progress["study_date"] == "2026-01-05"
    assert progress["series_instance_uid"] == before["series"]["series_instance_uid"]
    [main] = progress["changes"]
    assert main["before"] == pytest.approx(before["lesion"]["percent_of_lung"])
    assert main["now"] == pytest.approx(now["lesion"]["percent_of_lung"])
    assert b"Compared with the study of 2026-01-05" in (second / "report-0.dcm").read_bytes()
    kept = contents(second)

    # An older one comes late: it changes nothing that is finished, and is compared itself.
    late = node.read("20260201", slices=40)
    assert contents(second) == kept
    assert document(late)["progress"]["study_date"] == "2026-01-05"
    third = node.read("20260401")
    assert document(third)["progress"]["study_date"] == "2026-03-01"

    # Slices more than twice as far apart are not compared: an older study stands in.
    thin = node.read("20260501", slices=70)
    found = document(thin)["progress"]
    assert (found["comparable"], found["study_date"]) == (True, "2026-02-01")
    assert "The study of 2026-04-01 is not compared: its slices are" in found["remarks"][0]
