"""Studies of one patient through a node: each is compared with what was read before, for good."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.header_reader import read_instance_header
from dicom_node.ledger import Arrival, open_ledger
from dicom_node.ledger.series_record import read_series
from dicom_node.reconciler import Reconciler
from dicom_node.settings import NodeSettings
from dicom_node.worker.analysis import AnalysisWorker
from inference.analyzer import Analyzer
from inference.decoder_pool import DecoderPool
from support.as_received import as_received
from support.synthetic_ct import synthetic_series


class Broker:
    def __init__(self) -> None:
        self.waiting: list[int] = []

    def analysis(self, analysis_id: int) -> None:
        self.waiting.append(analysis_id)

    def delivery(self, shipment_id: int) -> None:
        raise AssertionError("there is no destination")


class Node:
    """Everything behind the listener, in this process but for the decoders."""

    def __init__(self, root: Path, bundle: Path, pixels: DecoderPool) -> None:
        self.now = 1_700_000_000.0
        self.settings = NodeSettings(state_dir=root)
        self.ledger = open_ledger(self.settings.ledger_url, clock=lambda: self.now)
        self.broker = Broker()
        self.reconciler = Reconciler(
            lambda: self.settings,
            self.ledger,
            self.broker,  # type: ignore[arg-type]
            steady=lambda: self.now,
        )
        analyzer = Analyzer.load(bundle, threads=1)
        self.worker = AnalysisWorker(lambda: self.settings, self.ledger, analyzer, pixels)
        self._numbers = itertools.count()

    def read(self, study_date: str, slices: int = 22, *, lesion: bool = True) -> Path:
        """Receive a study and have it read; return the folder of its results."""
        number = next(self._numbers)
        made = synthetic_series(
            self.settings.spool_dir / f"{number}", slices=slices, matrix=128, lesion=lesion,
            study=f"{number}", study_date=study_date,
        )  # fmt: skip
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        self.ledger.intake.record_instances(
            [
                Arrival(
                    association,
                    read_instance_header(path),
                    as_received(path, Path(f"{number}", path.name)),
                )
                for path in made.paths
            ]
        )
        self.ledger.intake.close_association(association, outcome="released", ignored={})
        for _ in range(12):
            self.now += 10.0
            self.reconciler.sweep()
            for analysis_id in self.broker.waiting:
                self.worker.run(analysis_id)
            self.broker.waiting.clear()
        [status] = self.ledger.worklist.find(uid=made.series_instance_uid)
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
