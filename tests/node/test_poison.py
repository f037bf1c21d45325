"""Files that crash their decoder, in ledger, reconciler and worker: they end, others go on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.settings import NodeSettings
from inference.analyzer import Analyzer
from inference.decoder_pool import DecoderLimits, DecoderPool
from support.node_in_process import NodeInProcess
from support.synthetic_ct import synthetic_series

ENDED = {"done", "rejected", "quarantined", "skipped"}


class Node(NodeInProcess):
    """Counts how often an analysis was nudged."""

    def __init__(self, root: Path, bundle: Path, pixels: DecoderPool) -> None:
        super().__init__(NodeSettings(state_dir=root), Analyzer.load(bundle, threads=1), pixels)
        self.nudges: Counter[int] = Counter()
        self._numbers = itertools.count()

    def received(self, fault: str = "") -> str:
        """Record a series of which one file does to its decoder what `fault` says."""
        number = next(self._numbers)
        folder = self.settings.spool_dir / f"{number}"
        made = synthetic_series(
            folder, slices=22, matrix=128, seed=number, patient_id=f"P{number}", study=f"{number}"
        )
        paths = list(made.paths)
        if fault:
            paths[7] = paths[7].rename(folder / f"{fault}.dcm")
        self.record(paths)
        return made.series_instance_uid

    def work(self, minutes: float) -> None:
        """Let time go by in steps of ten seconds; the worker does what it is nudged for."""
        for _ in range(int(minutes * 6)):
            self.sweep(10.0)
            waiting, self.broker.analyses = self.broker.analyses, []
            self.nudges.update(waiting)
            for _ in waiting:
                self.worker.run()


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
    nudges = node.nudges.total()
    node.work(minutes=5)
    assert node.nudges.total() == nudges
    assert node.status(bad).attempts == 1


def test_decoders_that_are_killed_from_outside_are_tried_three_times(node: Node) -> None:
    """The file may be good: it is the machine's memory, or an administrator."""
    bad, good = node.received("killed"), node.received()
    node.work(minutes=3)
    found = node.status(bad)
    assert (found.analysis_state, found.attempts) == ("quarantined", 3)
    assert found.reason
    assert node.status(good).analysis_state == "done"
    nudges = node.nudges.total()
    node.work(minutes=5)
    assert node.nudges.total() == nudges
    assert found.analysis_state in ENDED


def test_an_error_of_ours_is_tried_three_times_and_tells_no_patient(node: Node) -> None:
    bad, good = node.received("bug"), node.received()
    node.work(minutes=3)
    found = node.status(bad)
    assert (found.analysis_state, found.attempts) == ("quarantined", 3)
    assert "RuntimeError" in found.reason
    assert node.status(good).analysis_state == "done"
