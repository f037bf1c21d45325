"""Rules from the first image to the PACS, all parts but the listener in this process.

What is urgent overtakes, a shadow goes nowhere, a quiet destination waits until its hours end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicom_node.delivery.worker import DeliveryWorker
from dicom_node.settings import NodeSettings
from dicom_node.simulated_pacs import SimulatedPacs
from dicom_node.status_words import in_words, right_now
from inference.analyzer import Analyzer
from inference.decoder_pool import DecoderPool
from support.node_in_process import NodeInProcess
from support.synthetic_ct import synthetic_series

EIGHT = time.mktime((2026, 3, 3, 8, 0, 0, 0, 0, -1))
RULES = [
    {"name": "emergency", "calling_ae": ["ER*"], "priority": "urgent"},
    {"name": "trial", "accession": ["study-*"], "shadow": True},
]


class Node(NodeInProcess):
    """Begins at eight, with rules, and sends, too."""

    def __init__(
        self, root: Path, bundle: Path, pixels: DecoderPool, **pacs: SimulatedPacs
    ) -> None:
        settings = NodeSettings(
            state_dir=root,
            audit={"enabled": False},
            rules=RULES,
            peers=[
                {
                    "name": name,
                    "ae_title": peer.ae_title,
                    "port": peer.port,
                    "quiet_hours": ["07:00-09:30"] if name == "archive" else [],
                }
                for name, peer in pacs.items()
            ],
        )
        super().__init__(settings, Analyzer.load(bundle, threads=1), pixels, now=EIGHT)
        self.deliverer = DeliveryWorker(lambda: self.settings, self.ledger)

    def received(self, number: int, *, calling: str, accession: str) -> str:
        """Record a series; return its UID."""
        made = synthetic_series(
            self.settings.spool_dir / f"{number}", slices=22, matrix=128, lesion=True, seed=number,
            patient_id=f"P{number}", study=f"{number}", accession_number=accession,
        )  # fmt: skip
        self.record(made.paths, calling=calling)
        return made.series_instance_uid

    def deliver(self) -> None:
        """Send what was nudged, each of it once."""
        for shipment_id in dict.fromkeys(self.broker.deliveries):
            self.deliverer.run(shipment_id)
        self.broker.deliveries.clear()

    def words(self, uid: str) -> str:
        return in_words(self.status(uid), right_now(self.settings, self.now))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[dict[str, SimulatedPacs]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(SimulatedPacs(tmp_path / name, ae_title=name.upper()))
            for name in ("viewer", "archive")
        }


@pytest.mark.timeout(900)
def test_urgent_overtakes_a_shadow_stays_and_a_quiet_destination_waits(
    tmp_path: Path, small_bundle: Path, pacs: dict[str, SimulatedPacs]
) -> None:
    with DecoderPool(1) as pixels:
        node = Node(tmp_path / "state", small_bundle, pixels, **pacs)
        with node.ledger:
            _goes_its_way(node, pacs)


def _goes_its_way(node: Node, pacs: dict[str, SimulatedPacs]) -> None:
    uids = {
        "routine": node.received(1, calling="CT1", accession="4711"),
        "trial": node.received(2, calling="CT1", accession="STUDY-9"),
    }
    node.sweep(0, 30, 5)
    uids["emergency"] = node.received(3, calling="ER2", accession="4712")
    node.sweep(1, 30, 5)
    assert {name: node.status(uid).rule for name, uid in uids.items()} == {
        "routine": "default", "trial": "trial", "emergency": "emergency",
    }  # fmt: skip
    assert node.words(uids["emergency"]) == "queued at position 1, urgent"
    # It came last, and its nudge lies behind those of the others.
    emergency = node.broker.analyses[-1]
    assert node.broker.analyses[0] != emergency
    for _ in dict.fromkeys(node.broker.analyses):
        node.now += 10
        node.worker.run()
    ended = {name: node.status(uid).finished_at or 0.0 for name, uid in uids.items()}
    assert sorted(ended, key=ended.__getitem__) == ["emergency", "routine", "trial"]
    assert {node.status(uid).analysis_state for uid in uids.values()} == {"done"}

    # Half past eight: the viewer gets what is no shadow, the archive nothing.
    for _ in range(5):
        node.sweep(60)
        node.deliver()
    delivered = len(pacs["viewer"].requests)
    assert delivered > 6
    assert pacs["archive"].requests == []
    assert node.words(uids["trial"]) == "analysed in shadow; nothing is delivered"
    assert node.status(uids["trial"]).deliveries == ()
    assert "archive: 0 of" in node.words(uids["routine"])
    assert "waits for the end of the quiet hours of archive, 09:30" in node.words(uids["routine"])
    documents = [
        json.loads(path.read_text()) for path in node.settings.results_dir.rglob("result.json")
    ]
    assert {item["rule"]: item["shadow"] for item in documents} == {
        "default": False, "emergency": False, "trial": True,
    }  # fmt: skip

    # A clock that is set for a while changes nothing, nor does a nudge of before.
    node.now -= 40 * 60
    node.sweep(0, 10)
    node.deliver()
    node.broker.deliveries += [1, 2, 3, 4]
    node.deliver()
    assert pacs["archive"].requests == []

    node.now = EIGHT + 91 * 60
    node.sweep(0, 10)
    node.deliver()
    assert len(pacs["archive"].requests) == len(pacs["viewer"].requests) == delivered
    for name in ("routine", "emergency"):
        states = {s for d in node.status(uids[name]).deliveries for s in d.states}
        assert states == {"sent"}
    assert node.status(uids["trial"]).deliveries == ()
