"""``m3lung config``: versions listed, compared, and brought back, also from a broken document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dicom_node.cli import config as config_verb
from dicom_node.configuration import Change
from dicom_node.errors import ConfigurationError
from dicom_node.peers_document import PeersDocument
from dicom_node.settings import Peer, load_settings


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Three versions: empty, with one peer, with two; a secret in all of them."""
    path = tmp_path / "node.toml"
    path.write_text('state_dir = "state"\n[ledger]\nurl = "postgresql://n:hidden7@db/m3lung"\n')
    for name in ("one", "two"):
        peer = Peer(name=name, ae_title=name.upper(), host="h", port=104)
        PeersDocument(path).add(peer, Change("ada", "m3lung peers add", f"peer {name} added"))
    return path


def config(document: Path, *arguments: str, **more: str) -> Result:
    return CliRunner().invoke(
        config_verb.app, [*arguments, "--config", str(document)], catch_exceptions=False, **more
    )


def names(document: Path) -> list[str]:
    return [peer.name for peer in load_settings(document).peers]


def test_versions_are_listed(document: Path) -> None:
    listed = json.loads(config(document, "history", "--json").stdout)
    assert [item["number"] for item in listed] == [3, 2, 1]
    assert listed[0]["author"] == "ada"
    assert listed[0]["words"] == "peer two added"
    assert "peer one added" in config(document, "history").stdout


def test_two_versions_are_compared_without_secrets(document: Path) -> None:
    assert '+ name = "two"' in config(document, "diff").stdout  # since the one before
    assert '- name = "two"' in config(document, "diff", "3", "2").stdout
    assert "no difference" in config(document, "diff", "3").stdout
    shown = config(document, "show", "2").stdout
    assert 'name = "one"' in shown
    assert "hidden7" not in shown + config(document, "diff", "1", "3").stdout


def test_a_version_is_brought_back(document: Path) -> None:
    refused = config(document, "rollback", "2", input="n\n")
    assert (refused.exit_code, names(document)) == (1, ["one", "two"])
    done = config(document, "rollback", "2", "--yes")
    assert (done.exit_code, names(document)) == (0, ["one"])
    newest = json.loads(config(document, "history", "--json").stdout)[0]
    assert newest["verb"] == "m3lung config rollback"
    assert newest["words"] == "configuration: version 2 restored"
    with pytest.raises(ConfigurationError, match="not kept"):
        config(document, "rollback", "99", "--yes")


@pytest.mark.parametrize("broken", ["prot = 3\n", "[[[\n"])
def test_a_document_that_does_not_load_is_brought_back(document: Path, broken: str) -> None:
    document.write_text('state_dir = "state"\n' + broken)
    assert config(document, "rollback", "--yes").exit_code == 0
    assert names(document) == ["one", "two"]
