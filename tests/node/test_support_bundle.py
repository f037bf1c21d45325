"""``m3lung support-bundle``: what is in it, and what is not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.audit import records
from dicom_node.cli.app import assemble
from dicom_node.errors import ConfigurationError
from dicom_node.ledger import open_ledger
from dicom_node.logs import pseudonym
from support.listening import ListeningNode, ct_dataset

SERIES = "2.25.4711471147114711"


@pytest.fixture
def node(tmp_path: Path) -> ListeningNode:
    """A node that has received something, and is stopped."""
    node = ListeningNode(tmp_path / "node")
    node.start()
    with node.sender() as sender:
        first = ct_dataset(series=SERIES, AccessionNumber="CANARYACC")
        assert sender.store_dataset(first) == 0
        first.PatientComments = "other bytes, same instance: a conflict for the journal"
        assert sender.store_dataset(first) == 0
    node.stop()
    config = node.config.read_text()
    broker = '[broker]\nurl = "redis://:Geheim123@127.0.0.1:1/0"\n'
    node.config.write_text(config.replace("[listener]", f"{broker}[listener]"))
    return node


def bundle(node: ListeningNode, target: Path, *more: str) -> dict[str, str]:
    words = ["support-bundle", "--out", str(target), "--config", str(node.config), *more]
    done = CliRunner().invoke(assemble(), words)
    assert done.exit_code == 0, (done.output, done.exception)
    with zipfile.ZipFile(target) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_it_holds_what_a_supporter_asks_for(node: ListeningNode, tmp_path: Path) -> None:
    found = bundle(node, tmp_path / "b.zip", "--log", str(node.log))
    assert json.loads(found["versions.json"])["packages"]["pydicom"]
    assert json.loads(found["settings.json"])["listener"]["idle_timeout_s"] == 60.0
    ledger = json.loads(found["ledger.json"])
    assert ledger["rows"]["instances"] == 1
    assert ledger["rows"]["conflicts"] == 1
    assert ledger["states"]["revisions"] == {"receiving": 1}
    events = [json.loads(line) for line in found["events.jsonl"].splitlines()]
    kinds = {event["kind"]: event for event in events}
    assert kinds["conflicting_instance"]["series"] == pseudonym(SERIES)
    assert kinds["conflicting_instance"]["sop_instance_uid"].startswith("uid:")
    assert json.loads(found["disk.json"])["folders"]["spool"]["files"] >= 1
    names = {finding["name"] for finding in json.loads(found["check.json"])}
    assert {"packages", "ledger", "broker", "audit trail"} <= names
    assert json.loads(found["audit.json"])["ok"]
    assert "110104" in found["audit.jsonl"]
    assert "error" in json.loads(found["queues.json"])  # no Redis answers there
    (log,) = (text for name, text in found.items() if name.startswith("logs/"))
    assert "association_released" in log
    assert (tmp_path / "b.zip").stat().st_mode & 0o077 == 0


def test_it_holds_no_patient_no_secret_and_no_uid(node: ListeningNode, tmp_path: Path) -> None:
    with node.log.open("a") as file:
        file.write(f"somebody logged patient CANARY-4711 and series {SERIES}\n")
    target = tmp_path / "b.zip"
    everything = "\n".join(bundle(node, target, "--log", str(node.log)).values())
    assert "CANARY" not in everything.upper()
    assert "Geheim123" not in everything
    assert SERIES not in everything
    assert f"uid:{pseudonym(SERIES)}" in everything
    assert "patient [identifier] and" in everything


def test_what_was_left_out_is_told(node: ListeningNode, tmp_path: Path) -> None:
    with node.log.open("a") as file:
        file.write("CANARY-4711\n")
    words = ["--out", str(tmp_path / "b.zip"), "--log", str(node.log)]
    done = CliRunner().invoke(assemble(), ["support-bundle", *words, "--config", str(node.config)])
    assert "1 identifiers of patients were found" in " ".join(done.output.split())


def test_plain_identifiers_keep_the_trail_at_home(node: ListeningNode, tmp_path: Path) -> None:
    text = node.config.read_text()
    node.config.write_text(text.replace("[listener]", '[audit]\nidentifiers = "plain"\n[listener]'))
    found = bundle(node, tmp_path / "b.zip")
    assert "left out" in found["audit.jsonl"]
    assert "110104" not in found["audit.jsonl"]


def test_that_it_was_made_is_in_the_trail(node: ListeningNode, tmp_path: Path) -> None:
    bundle(node, tmp_path / "b.zip")
    last = list(records(node.state / "audit"))[-1]
    assert last["EventIdentification"]["EventOutcomeDescription"] == "support bundle written"


def test_a_broken_ledger_is_told_and_the_rest_is_packed(
    node: ListeningNode, tmp_path: Path
) -> None:
    with open_ledger(f"sqlite:///{node.state / 'ledger.sqlite3'}"):
        pass
    for path in node.state.glob("ledger.sqlite3*"):
        path.write_bytes(b"this is no database" * 100)
    found = bundle(node, tmp_path / "b.zip")
    assert "error" in json.loads(found["ledger.json"])
    assert json.loads(found["versions.json"])


def test_nothing_is_overwritten(node: ListeningNode, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_text("mine")
    words = ["support-bundle", "--out", str(tmp_path / "b.zip"), "--config", str(node.config)]
    done = CliRunner().invoke(assemble(), words)
    assert isinstance(done.exception, ConfigurationError)
    assert (tmp_path / "b.zip").read_text() == "mine"
