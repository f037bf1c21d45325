"""Alert rules and dashboard: Prometheus accepts them, they name what exists, alarms go off."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.ledger import Ledger, open_ledger
from dicom_node.metrics import MetricsApp
from dicom_node.pulse import Pulse
from dicom_node.settings import NodeSettings, Peer
from support.ledger_life import LedgerLife
from support.peers import program

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "m3lung.json"
NAME = re.compile(r"\bm3lung_[a-z_]+\b")
SELECTOR = re.compile(r"(m3lung_[a-z_]+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Name of each sample → names of its labels."""
    folder = tmp_path_factory.mktemp("node")
    settings = NodeSettings(state_dir=folder, peers=(Peer(name="pacs", ae_title="PACS"),))
    with open_ledger(settings.ledger_url) as ledger:
        _live(ledger)
        text = MetricsApp(lambda: settings, ledger).answer("/metrics").body.decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _live(ledger: Ledger) -> None:
    """Let every family have a sample."""
    life = LedgerLife(ledger)
    life.set_aside("the images are a localizer (scout view)", skipped=True)
    life.failed(1, most=2)
    pulse = Pulse(ledger, "listen")
    pulse.turn()
    pulse.tally.count("associations_refused", "unknown_caller")
    pulse.tally.count("c_store", "stored", "0x0000")
    pulse.beat()


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_every_metric_and_label_that_is_named_exists(exposed: dict[str, set[str]]) -> None:
    seen = set()
    for place, expression in expressions():
        for name in NAME.findall(expression):
            assert name in exposed, f"{place}: {name}"
            seen.add(name)
        for name, selectors in SELECTOR.findall(expression):
            for label in re.findall(r"(\w+)\s*(?:=|!)", selectors):
                assert label in exposed[name], f"{place}: {name}{{{label}}}"
    assert len(seen) > 25


def test_every_metric_is_explained(exposed: dict[str, set[str]]) -> None:
    page = (DEPLOY.parent / "docs" / "monitoring.md").read_text()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    assert {name for name in families if name not in page} == set()


def test_dashboard_has_no_panel_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program("promtool")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.peer("promtool")
def test_prometheus_accepts_configuration_and_rules() -> None:
    for words in (("check", "config", PROMETHEUS), ("check", "rules", RULES)):
        done = promtool(*words)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.peer("promtool")
def test_prometheus_understands_the_exposition(tmp_path: Path) -> None:
    settings = NodeSettings(state_dir=tmp_path, peers=(Peer(name="pacs", ae_title="PACS"),))
    with open_ledger(settings.ledger_url) as ledger:
        _live(ledger)
        body = MetricsApp(lambda: settings, ledger).answer("/metrics").body
    done = subprocess.run(
        [str(program("promtool")), "check", "metrics"],
        input=body, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def alarm(name: str, minutes: int, **labels: str) -> dict[str, Any]:
    return {"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": [{"exp_labels": labels}]}


def quiet(name: str, minutes: int) -> dict[str, Any]:
    return {"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": []}


# Series over time, a value a minute, and what has to go off when. Prometheus tests begin on
# Thursday, 1 January 1970, at 0 o'clock.
CASES: list[tuple[dict[str, str], list[dict[str, Any]]]] = [
    ({"m3lung_ledger_up": "1x10 0x30"},
     [quiet("M3LungLedgerDown", 9), alarm("M3LungLedgerDown", 20, severity="critical")]),
    ({"up": "1x30"}, [alarm("M3LungExporterAbsent", 20, severity="critical")]),
    ({'m3lung_oldest_ready_seconds{kind="analysis"}': "0+60x40"},
     [quiet("M3LungWorkTooOld", 10),
      alarm("M3LungWorkTooOld", 20, severity="critical", kind="analysis")]),
    ({'m3lung_breaker_state{destination="pacs",state="open"}': "0x5 1x3 0x3 1x30",
      'm3lung_breaker_state{destination="pacs",state="half_open"}': "0x8 1x2 0x40"},
     [quiet("M3LungBreakerOpen", 8),
      alarm("M3LungBreakerOpen", 30, severity="warning", destination="pacs")]),
    ({'m3lung_processes{part="work"}': "0x60", 'm3lung_ready{kind="analysis"}': "0x20 3x40"},
     [quiet("M3LungWorkerAbsent", 20),
      alarm("M3LungWorkerAbsent", 40, severity="critical", part="work")]),
    ({'m3lung_processes{part="listen"}': "1x10 0x20"},
     [quiet("M3LungProcessAbsent", 9),
      alarm("M3LungProcessAbsent", 20, severity="critical", part="listen")]),
    ({"m3lung_images_received_total": "0+9x500 4509x600"},
     # Not in the night, not while images come; 8:20 is the last image.
     [quiet("M3LungNothingReceived", 300), quiet("M3LungNothingReceived", 660),
      alarm("M3LungNothingReceived", 770, severity="warning"),
      quiet("M3LungNothingReceived", 1080)]),
    ({"m3lung_disk_free_bytes": "5000-100x48", "m3lung_disk_refusing_below_bytes": "1000x50",
      "m3lung_disk_used_ratio": "0.5x50"},
     [quiet("M3LungDiskLow", 30), alarm("M3LungDiskLow", 45, severity="critical")]),
    ({'m3lung_analyses_open{state="quarantined"}': "0x5 1x20"},
     [quiet("M3LungSeriesQuarantined", 5),
      alarm("M3LungSeriesQuarantined", 10, severity="warning", state="quarantined")]),
    ({'m3lung_objects_unproven{destination="pacs",state="commit_failed"}': "0x5 2x20"},
     [alarm("M3LungCommitmentFailing", 10, severity="warning", destination="pacs",
            state="commit_failed")]),
]  # fmt: skip


@pytest.mark.peer("promtool")
def test_alarms_go_off_when_they_should(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(_without_annotations())
    document = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "alert_rule_test": checks,
            }
            for series, checks in CASES
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def _without_annotations() -> str:
    """The same rules; promtool would compare every word."""
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    return str(yaml.safe_dump(document))
