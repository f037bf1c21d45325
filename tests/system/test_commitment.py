"""Results until they are committed: `m3lung serve` against `m3lung simulate-pacs`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread

from dicom_node.audit import AuditTrail, records, verify
from dicom_node.simulated_pacs.holdings import Holdings
from support.node import Node
from support.ports import free_port, wait_for_port
from support.server import Server

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.slow]


@pytest.fixture
def pacs(tmp_path: Path) -> SimpleNamespace:
    """Where the PACS will be: the node is configured before it runs."""
    return SimpleNamespace(ae_title="SIMPACS", dicom_port=free_port(), folder=tmp_path / "pacs")


@pytest.fixture
def node(tmp_path: Path, small_bundle: Path, pacs: SimpleNamespace) -> Iterator[Node]:
    with Node(
        tmp_path / "node", small_bundle, pacs=[pacs], peer_options='commitment = "request"'
    ) as made:
        yield made


@pytest.fixture
def simulator(tmp_path: Path, node: Node, pacs: SimpleNamespace) -> Iterator[Server]:
    """It reports on associations of its own, which the listener takes."""
    server = Server(
        [
            *(sys.executable, "-m", "dicom_node", "simulate-pacs", "-m", "commit-new"),
            *("--port", str(pacs.dicom_port), "--folder", str(pacs.folder)),
            *("--peer", f"{node.ae_title}=127.0.0.1:{node.port}"),
        ],
        log=tmp_path / "simulated-pacs.log",
        ready=lambda: wait_for_port(pacs.dicom_port),
    )
    server.start()
    yield server
    server.stop()


def m3lung(node: Node, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node", *words, "--config", str(node.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_results_are_committed_and_the_input_may_go(
    node: Node, simulator: Server, pacs: SimpleNamespace, chest_series: list[Path]
) -> None:
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    node.start("serve")
    assert node.send(chest_series).returncode == 0
    status = node.wait_for_state(
        uid,
        lambda found: [set(item.states) for item in found.deliveries] == [{"committed"}],
        "every object is committed",
    )
    [delivery] = status.deliveries
    assert delivery.states == {"committed": len(Holdings(pacs.folder))}
    assert "N-EVENT-REPORT (new)" in simulator.log.read_text()
    # The trail tells of the proof, and only now may the input go.
    trail = AuditTrail(node.directory / "state" / "audit")
    told = [record["EventIdentification"] for record in records(trail.folder)]
    [report] = [event for event in told if event["EventID"]["csd-code"] == "commitment"]
    assert report["EventOutcomeDescription"] == f"{delivery.states['committed']} objects " + (
        "committed, 0 failed"
    )
    assert f"{len(chest_series)} images" in m3lung(node, "purge", "--older-than-days", "0")
    assert not list((node.directory / "state/spool/instances").glob("*/*.dcm"))
    assert verify(trail).ok
    # They come again: held again, and read no second time.
    assert node.send(chest_series).returncode == 0
    assert len(list((node.directory / "state/spool/instances").glob("*/*.dcm"))) == 24
    again = node.series(uid)
    assert again is not None
    assert (again.revision, again.analysis_state, again.attempts) == (1, "done", 1)
