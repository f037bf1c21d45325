"""What only a process knows, counted by real ones: listeners, a delivery worker, a reconciler."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.delivery.worker import DeliveryWorker
from dicom_node.ledger import Tally, open_ledger
from dicom_node.metrics import MetricsApp
from dicom_node.settings import load_settings
from dicom_node.simulated_pacs import SimulatedPacs, behaviour_from
from support.listening import ListeningNode, Rejected, ct_dataset
from support.ports import free_port
from support.shipments import DeliveringNode

Samples = dict[str, dict[tuple[str, ...], float]]


def samples(config: Path) -> Samples:
    """Name → values of its labels → value, as the exporter of that node says."""
    settings = load_settings(config)
    with open_ledger(settings.ledger_url) as ledger:
        text = MetricsApp(lambda: settings, ledger).answer("/metrics").body.decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ListeningNode]:
    made = ListeningNode(tmp_path / "node", processes=2)
    made.start()
    yield made
    made.stop()


def test_listeners_count_what_they_answer_and_refuse(node: ListeningNode) -> None:
    wait_for(lambda: samples(node.config)["m3lung_processes"]["listen",] == 2)
    wait_for(
        lambda: samples(node.config).get("m3lung_loop_age_seconds", {}).get(("listen",), 99) < 30
    )
    stored = ct_dataset()
    with node.sender() as sender:
        assert sender.store_dataset(stored) == 0x0000
        assert sender.store_dataset(stored) == 0x0000
        assert sender.store_dataset(stored, sop_instance_uid="1.2.3") == 0xA900
        sender.release()
    for _ in range(3):
        with pytest.raises(Rejected):
            node.sender(calling="STRANGER")
    with pytest.raises(Rejected):
        node.sender(called="NOBODY")
    node.stop()  # in order: what was counted is handed over
    found = samples(node.config)
    assert found["m3lung_processes"]["listen",] == 0
    assert found["m3lung_c_store_responses_total"] == {
        ("stored", "0x0000"): 1, ("duplicate", "0x0000"): 1, ("refused", "0xA900"): 1
    }  # fmt: skip
    assert found["m3lung_associations_total"]["released",] == 1
    assert found["m3lung_associations_refused_total"] == {
        ("unknown_caller",): 3, ("unknown_called_ae",): 1
    }  # fmt: skip
    assert found["m3lung_images_received_total"] == {(): 1}


def test_a_delivery_worker_counts_what_the_destination_answers(tmp_path: Path) -> None:
    node = DeliveringNode(tmp_path / "node")
    tally = Tally()
    try:
        pacs = SimulatedPacs(tmp_path / "pacs", ae_title="PACS", behaviour=behaviour_from(""))
        node.configure({"name": "pacs", "ae_title": "PACS", "port": pacs.port, "compress": "none"})
        node.analysed(3)
        for shipment_id in node.ledger.shipments.due(0.0):
            DeliveryWorker(node.source, node.ledger, tally=tally).run(shipment_id)
        pacs.stop()
        node.change_peer("pacs", port=free_port())
        node.analysed(2)
        for shipment_id in node.ledger.shipments.due(0.0):
            DeliveryWorker(node.source, node.ledger, tally=tally).run(shipment_id)
        node.ledger.tallies.add(tally.take())
        found = samples(node.config)
    finally:
        node.close()
    assert found["m3lung_deliveries_total"]["pacs", "accepted"] == 3
    assert found["m3lung_deliveries_total"]["pacs", "transient"] == 2
    assert found["m3lung_delivery_seconds_count"] == {("pacs",): 1}
    assert found["m3lung_delivery_waiting"] == {("pacs",): 1}
    assert found["m3lung_breaker_failures"]["pacs",] == 1


def test_a_reconciler_says_that_it_sweeps(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('state_dir = "state"\n')
    load_settings(config).root.mkdir()
    open_ledger(load_settings(config).ledger_url).close()
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "reconcile", "--config", str(config)]
    )
    try:
        wait_for(
            lambda: samples(config).get("m3lung_loop_age_seconds", {}).get(("reconcile",), 99) < 30,
            timeout_s=200.0,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert samples(config)["m3lung_processes"]["reconcile",] == 0
