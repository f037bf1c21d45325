"""``m3lung peers`` and ``m3lung echo`` against real listeners."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    ComprehensiveSRStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from typer.testing import CliRunner, Result

from dicom_node.cli import echo as echo_verb
from dicom_node.cli import peers as peers_verb
from dicom_node.simulated_pacs import Behaviour, SimulatedPacs
from support.ports import free_port


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(
        'state_dir = "state"\n[delivery]\nconnect_timeout_s = 2\nresponse_timeout_s = 3\n'
    )
    return path


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SimulatedPacs]:
    with SimulatedPacs(tmp_path / "pacs") as pacs:
        yield pacs


def peers(*arguments: str, config: Path) -> Result:
    return CliRunner().invoke(peers_verb.app, [*arguments, "--config", str(config)])


def add(pacs: SimulatedPacs, config: Path, *more: str) -> Result:
    address = ["--ae-title", pacs.ae_title, "--host", pacs.host, "--port", str(pacs.port)]
    return peers("add", "pacs", *address, *more, config=config)


def steps(config: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    result = peers("test", "pacs", "--json", config=config)
    report = json.loads(result.stdout)
    assert report["healthy"] == (result.exit_code == 0)
    return result.exit_code, {step["name"]: step for step in report["steps"]}


def test_add_list_test_remove(pacs: SimulatedPacs, config: Path) -> None:
    more = ["--role", "destination", "--output", "report", "--output", "overlay"]
    added = add(pacs, config, *more)
    assert added.exit_code == 0, added.output
    (listed,) = json.loads(peers("list", "--json", config=config).stdout)
    assert listed["outputs"] == ["report", "overlay"]
    assert listed["roles"] == ["destination"]
    assert "pacs" in peers("list", config=config).stdout
    tested = peers("test", "pacs", config=config)
    assert tested.exit_code == 0
    assert "answered in" in tested.stdout
    assert peers("remove", "pacs", config=config).exit_code == 0
    assert "no peers" in peers("list", config=config).stdout


def test_usage_errors_are_one_line_and_exit_2(pacs: SimulatedPacs, config: Path) -> None:
    add(pacs, config)
    for result, words in (
        (add(pacs, config), "name: a peer called 'pacs' exists"),
        (peers("remove", "nobody", config=config), "no peer is called 'nobody'"),
        (peers("test", "nobody", config=config), "no peer is called 'nobody'"),
        (
            peers(
                *["add", "x", "--ae-title", "A" * 17, "--host", "h", "--port", "1"],
                config=config,
            ),
            "ae_title: an AE title has 1 to 16 characters",
        ),
        (
            peers(*["add", "x", "--ae-title", "A", "--host", "h", "--port", "0"], config=config),
            "port:",
        ),
    ):
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_good_peer(pacs: SimulatedPacs, config: Path) -> None:
    add(pacs, config, "--query")
    code, found = steps(config)
    assert code == 0, found
    assert {name: step["result"] for name, step in found.items()} == {
        "name resolution": "ok",
        "TCP": "ok",
        "TLS": "skipped",
        "association": "ok",
        "C-ECHO": "ok",
        "report": "ok",
        "overlay": "ok",
        "summary": "ok",
        "segmentation": "ok",
        "key_objects": "ok",
        "C-FIND": "ok",
    }
    assert found["report"]["words"].startswith("Comprehensive 3D SR will be sent")
    assert found["overlay"]["words"].startswith("Secondary Capture Image will be sent as JPEG-LS")
    assert len(pacs.holdings) == 0


def test_what_follows_from_what_a_peer_takes(tmp_path: Path, config: Path) -> None:
    behaviour = Behaviour(
        sop_classes=(
            str(ComprehensiveSRStorage),
            str(SecondaryCaptureImageStorage),
            str(KeyObjectSelectionDocumentStorage),
        ),
        transfer_syntaxes=(str(ImplicitVRLittleEndian),),
        queries=False,
    )
    with SimulatedPacs(tmp_path / "few", behaviour=behaviour) as pacs:
        add(pacs, config, "--query")
        code, found = steps(config)
    assert code == 3
    assert found["report"]["result"] == "ok"
    assert "Comprehensive 3D SR not accepted: Comprehensive SR will be" in found["report"]["words"]
    assert "as Implicit VR Little Endian" in found["overlay"]["words"]
    assert "JPEG-LS Lossless Image Compression" in found["overlay"]["words"]
    assert found["segmentation"]["result"] == "failed"
    assert "SOP class not supported" in found["segmentation"]["words"]
    assert found["C-FIND"]["result"] == "failed"
    assert "does not offer Study Root C-FIND" in found["C-FIND"]["words"]


@pytest.mark.parametrize(
    ("behaviour", "title", "words"),
    [
        (Behaviour(known_ae_titles=("X",)), "SIMPACS", "does not know our AE title M3LUNG: add it"),
        (Behaviour(check_called_ae_title=True), "WRONG", "the peer is not called WRONG"),
    ],
)
def test_a_rejection_in_words(
    tmp_path: Path, config: Path, behaviour: Behaviour, title: str, words: str
) -> None:
    with SimulatedPacs(tmp_path / "strict", behaviour=behaviour) as pacs:
        pacs.ae_title = title
        add(pacs, config)
        code, found = steps(config)
    assert code == 3
    assert found["association"]["result"] == "failed"
    assert words in found["association"]["words"]
    assert "C-ECHO" not in found


def test_nobody_listens_and_no_such_host(config: Path) -> None:
    port = str(free_port())
    peers(*["add", "pacs", "--ae-title", "A", "--host", "127.0.0.1", "--port", port], config=config)
    code, found = steps(config)
    assert code == 3
    assert "nothing listens there" in found["TCP"]["words"]
    assert "association" not in found
    peers("remove", "pacs", config=config)
    peers(*["add", "pacs", "--ae-title", "A", "--host", "a.invalid", "--port", "1"], config=config)
    code, found = steps(config)
    assert code == 3
    assert found["name resolution"]["result"] == "failed"


def echo(*arguments: str, config: Path) -> Result:
    return CliRunner().invoke(echo_verb.app, [*arguments, "--config", str(config)])


def test_echo(pacs: SimulatedPacs, config: Path) -> None:
    add(pacs, config)
    by_name = echo("pacs", config=config)
    assert by_name.exit_code == 0, by_name.output
    assert "answered in" in by_name.stdout
    by_address = echo(f"127.0.0.1:{pacs.port}", "--aet", "ANY", "--json", config=config)
    assert json.loads(by_address.stdout)["result"] == "ok"
    gone = echo(f"127.0.0.1:{free_port()}", config=config)
    assert gone.exit_code == 3
    assert "Connection refused" in gone.stdout
    for wrong in ("nobody", ":104", "host:99999", "host:port"):
        assert echo(wrong, config=config).exit_code == 2
    assert "aet" in echo("h:1", "--aet", "A" * 17, config=config).stderr


def test_quiet_hours_are_an_option(pacs: SimulatedPacs, config: Path) -> None:
    added = add(pacs, config, "--quiet-hours", "07:00-09:30", "--quiet-hours", "22:00-23:00",
                "--let-urgent")  # fmt: skip
    assert added.exit_code == 0, added.output
    [peer] = json.loads(peers("list", "--json", config=config).stdout)
    assert peer["quiet_hours"] == ["07:00-09:30", "22:00-23:00"]
    assert peer["quiet_hours_let_urgent"] is True
    refused = peers("add", "other", "--ae-title", "O", "--host", "h", "--port", "104",
                    "--quiet-hours", "7-9", config=config)  # fmt: skip
    assert refused.exit_code == 2
