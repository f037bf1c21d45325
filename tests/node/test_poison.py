"""Files that crash their decoder, in ledger, reconciler and worker: they end, others go on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.header_reader import read_instance_header
from dicom_node.ledger import Arrival, Ledger, open_ledger
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.reconciler import Reconciler
from dicom_node.settings import NodeSettings
from dicom_node.worker.analysis import AnalysisWorker
from dicom_node.worker.reader import SeriesReader
from inference.analyzer import Analyzer
from inference.decoder_pool import DecoderLimits, DecoderPool
from support.as_received import as_received
from support.synthetic_ct import synthetic_series

ENDED = {"done", "rejected", "quarantined", "skipped"}


class Broker:
    """Takes nudges for the worker to do in their order."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.nudges: Counter[int] = Counter()

    def analysis(self, analysis_id: int) -> None:
        self.nudges[analysis_id] += 1
        self.waiting.append(analysis_id)

    def delivery(self, shipment_id: int) -> None:
        raise AssertionError("there is no destination")

    def speculation(self, revision_id: int) -> None:
        """Nobody is idle."""


class Node:
    """Everything behind the listener, in this process but for the decoders."""

    def __init__(self, root: Path, bundle: Path, pixels: DecoderPool) -> None:
        self.now = 1_700_000_000.0
        self.settings = NodeSettings(state_dir=root)
        self.ledger: Ledger = open_ledger(self.settings.ledger_url, clock=lambda: self.now)
        self.broker = Broker()
        self.reconciler = Reconciler(
            lambda: self.settings,
            self.ledger,
            self.broker,  # type: ignore[arg-type]
            steady=lambda: self.now,
        )
        analyzer = Analyzer.load(bundle, threads=1)
        reader = SeriesReader(analyzer, pixels)
        self.worker = AnalysisWorker(lambda: self.settings, self.ledger, reader)
        self._numbers = itertools.count()

    def received(self, fault: str = "") -> str:
        """Record a series of which one file does to its decoder what `fault` says."""
        number = next(self._numbers)
        folder = self.settings.spool_dir / f"{number}"
        made = synthetic_series(
            folder, slices=22, matrix=128, seed=number, patient_id=f"P{number}", study=f"{number}"
        )
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        arrivals = []
        paths = list(made.paths)
        if fault:
            paths[7] = paths[7].rename(folder / f"{fault}.dcm")
        for path in paths:
            stored = as_received(path, Path(f"{number}", path.name))
            arrivals.append(Arrival(association, read_instance_header(path), stored))
        self.ledger.intake.record_instances(arrivals)
        self.ledger.intake.close_association(association, outcome="released", ignored={})
        return made.series_instance_uid

    def status(self, uid: str) -> SeriesStatus:
        [found] = self.ledger.worklist.find(uid=uid)
        return found

    def work(self, minutes: float) -> None:
        """Let time go by in steps of ten seconds; the worker does what it is nudged for."""
        for _ in range(int(minutes * 6)):
            self.now += 10.0
            self.reconciler.sweep()
            for _ in self.broker.waiting:
                self.worker.run()
            self.broker.waiting.clear()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Node]:
    limits = DecoderLimits(memory_bytes=512 << 20, time_limit_s=5)
    with DecoderPool(1, limits, module="support.faulty_decoder") as pixels:
        made = Node(tmp_path_factory.mktemp("node"), small_bundle, pixels)
        yield made
        made.ledger.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("segv", "crashed"),
        ("abort", "crashed"),
        ("hang", "took longer than"),
        ("swell", "memory"),
    ],
)
def test_a_file_that_crashes_its_decoder_is_rejected_at_once(
    node: Node, fault: str, words: str
) -> None:
    bad, good = node.received(fault), node.received()
    node.work(minutes=2)
    found = node.status(bad)
    assert (found.analysis_state, found.attempts) == ("rejected", 1)
    assert words in found.reason
    assert f"{fault}.dcm" in found.reason
    assert node.status(good).analysis_state == "done"
    # Nothing is tried again, however long the node runs.
    nudges = node.broker.nudges.total()
    node.work(minutes=5)
    assert node.broker.nudges.total() == nudges
    assert node.status(bad).attempts == 1


def test_decoders_that_are_killed_from_outside_are_tried_three_times(node: Node) -> None:
    """The file may be good: it is the machine's memory, or an administrator."""
    bad, good = node.received("killed"), node.received()
    node.work(minutes=3)
    found = node.status(bad)
    assert (found.analysis_state, found.attempts) == ("quarantined", 3)
    assert found.reason
    assert node.status(good).analysis_state == "done"
    nudges = node.broker.nudges.total()
    node.work(minutes=5)
    assert node.broker.nudges.total() == nudges
    assert found.analysis_state in ENDED


def test_an_error_of_ours_is_tried_three_times_and_tells_no_patient(node: Node) -> None:
    bad, good = node.received("bug"), node.received()
    node.work(minutes=3)
    found = node.status(bad)
    assert (found.analysis_state, found.attempts) == ("quarantined", 3)
    assert "RuntimeError" in found.reason
    assert node.status(good).analysis_state == "done"
