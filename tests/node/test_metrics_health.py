"""Health is progress: what is told of a node that receives, stands still, or has no disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dicom_node.ledger import Ledger, open_ledger
from dicom_node.metrics import MetricsApp
from dicom_node.pulse import Pulse
from dicom_node.settings import NodeSettings
from support.ledger_life import Clock, LedgerLife


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(
        state_dir=tmp_path,
        listener={"min_free_bytes": 0},
        retention={"high_water_percent": 100.0, "low_water_percent": 100.0},
        metrics={"cache_s": 0.0, "stale_work_s": 300.0},
    )


@pytest.fixture
def ledger(settings: NodeSettings, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(settings.ledger_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def life(ledger: Ledger) -> LedgerLife:
    return LedgerLife(ledger)


class Node:
    """The parts of a node, as far as the ledger hears of them: this process is each of them."""

    def __init__(self, ledger: Ledger, settings: NodeSettings) -> None:
        self.ledger = ledger
        self.settings = settings
        self.clock: Clock = ledger.database.clock  # type: ignore[assignment]

    def beat(self, *parts: str, turning: bool = True) -> None:
        from dicom_node.ledger import presence

        for part in parts:
            pulse = Pulse(self.ledger, part)
            if turning:
                pulse.turn()
            owner = presence.this_owner
            presence.this_owner = lambda part=part: f"test|{part}"  # type: ignore[assignment]
            try:
                pulse.beat()
            finally:
                presence.this_owner = owner

    def said(self, path: str) -> tuple[int, dict[str, Any]]:
        answer = MetricsApp(lambda: self.settings, self.ledger).answer(path)
        findings = json.loads(answer.body)["findings"]
        return answer.status, {one["name"]: one for one in findings if not one["ok"]}


@pytest.fixture
def node(ledger: Ledger, settings: NodeSettings) -> Node:
    return Node(ledger, settings)


def test_a_node_that_was_never_started_is_neither_well_nor_ready(node: Node) -> None:
    assert node.said("/healthz")[0] == HTTPStatus.SERVICE_UNAVAILABLE
    assert set(node.said("/healthz")[1]) == {"listen", "reconcile"}
    assert set(node.said("/readyz")[1]) == {"listen"}


def test_a_node_that_works_is_well(node: Node, life: LedgerLife) -> None:
    life.selected()
    node.beat("listen", "reconcile")
    assert node.said("/readyz") == (HTTPStatus.OK, {})
    assert node.said("/healthz") == (HTTPStatus.OK, {})


def test_work_that_nobody_takes_is_told_and_images_are_taken_all_the_same(
    node: Node, life: LedgerLife
) -> None:
    life.selected()
    life.analysed("pacs")
    node.clock.now += 400.0
    node.beat("listen", "reconcile", "work", "deliver")
    status, wrong = node.said("/healthz")
    assert status == HTTPStatus.SERVICE_UNAVAILABLE
    assert set(wrong) == {"analysis", "delivery"}
    assert "the oldest for 400 s" in wrong["analysis"]["words"]
    assert node.said("/readyz")[0] == HTTPStatus.OK


def test_a_heart_that_beats_is_no_sweep(
    node: Node, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread lives, the loop does not come round."""
    node.beat("listen", "reconcile")
    later = time.monotonic() + 300.0
    pulse = Pulse(ledger, "reconcile")
    pulse.turn()
    node.clock.now += 300.0
    node.beat("listen")
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        patch.setattr("dicom_node.ledger.presence.this_owner", lambda: "test|reconcile")
        pulse.beat()
    status, wrong = node.said("/healthz")
    assert (status, set(wrong)) == (HTTPStatus.SERVICE_UNAVAILABLE, {"reconcile"})
    assert "300 s ago" in wrong["reconcile"]["words"]


def test_a_listener_whose_port_is_closed_is_told(node: Node, tmp_path: Path) -> None:
    node.beat("listen", "reconcile")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        (tmp_path / "listener.port").write_text(f"{port}\n")
        assert node.said("/readyz")[0] == HTTPStatus.OK
    status, wrong = node.said("/readyz")
    assert status == HTTPStatus.SERVICE_UNAVAILABLE
    assert wrong["listen"]["words"] == f"port {port} refuses: ConnectionRefusedError"


def test_a_full_disk_is_told(node: Node) -> None:
    node.beat("listen", "reconcile")
    node.settings = node.settings.model_copy(
        update={"listener": node.settings.listener.model_copy(update={"min_free_bytes": 1 << 60})}
    )
    assert set(node.said("/readyz")[1]) == {"disk"}


def test_a_series_that_never_ends_is_told(node: Node, life: LedgerLife) -> None:
    life.receive()
    node.clock.now += node.settings.completion.maximum_wait_s
    node.beat("listen", "reconcile")
    assert node.said("/healthz")[0] == HTTPStatus.OK
    node.clock.now += 400.0
    node.beat("listen", "reconcile")
    assert set(node.said("/healthz")[1]) == {"receiving"}


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_exporter_serves_and_ends(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('state_dir = "state"\n[metrics]\nport = 0\ncache_s = 0\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "metrics", "--config", str(config)],
        stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    try:
        file = tmp_path / "state" / "metrics.port"
        deadline = time.monotonic() + 200.0
        while not file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        port = int(file.read_text())
        status, text = get(port, "/metrics")
        assert status == HTTPStatus.OK
        assert "m3lung_ledger_up 1.0" in text
        assert "m3lung_configuration_ok 1.0" in text
        assert get(port, "/healthz")[0] == HTTPStatus.SERVICE_UNAVAILABLE
        assert get(port, "/")[0] == HTTPStatus.NOT_FOUND
        with socket.create_connection(("127.0.0.1", port)):  # says nothing, holds nobody up
            assert get(port, "/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE
        config.write_text("nonsense")
        assert "m3lung_configuration_ok 0.0" in get(port, "/metrics")[1]
        # The ledger goes away under it.
        (tmp_path / "state" / "ledger.sqlite3").unlink()
        while "m3lung_ledger_up 0.0" not in get(port, "/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.2)  # a slow look serves for a while
        assert '"does not answer' in get(port, "/healthz")[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stderr is not None
        log = process.stderr.read()
        process.stderr.close()
    assert process.returncode == 0, log
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from dicom_node.cli.app import assemble
    from dicom_node.errors import ConfigurationError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "node.toml"
        config.write_text('state_dir = "state"\nlog_level = "error"\n')
        options = ["metrics", "--port", str(taken.getsockname()[1]), "--config", str(config)]
        done = CliRunner().invoke(assemble(), options)
    assert isinstance(done.exception, ConfigurationError)
    assert "metrics: 127.0.0.1" in str(done.exception)
