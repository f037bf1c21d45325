"""status, retry, purge, check, bundle: what an administrator types, and what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from support.node import Node
from support.orthanc import Orthanc

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk")]


def m3lung(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.mark.slow
def test_an_administrators_questions(
    tmp_path: Path, orthanc: Orthanc, small_bundle: Path, chest_series: list[Path]
) -> None:
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc], retry_s=300) as node:
        config = ("--config", node.config)
        nothing = m3lung("status", "--accession", "A1", *config)
        assert (nothing.returncode, "No such series" in nothing.stdout) == (1, True)

        down = m3lung("check", *config)
        assert down.returncode == 3  # nothing listens yet
        assert "listener" in down.stdout

        node.start("listen", "reconcile", "work")
        healthy = m3lung("check", "--json", *config)
        assert healthy.returncode == 0, healthy.stdout
        assert json.loads(healthy.stdout)["healthy"] is True

        # The PACS is away: the results wait, and the status says so in words.
        orthanc.kill()
        assert node.send(chest_series).returncode == 0
        node.wait_for_state(uid, lambda found: found.analysis_state == "done", "analysed")
        node.start("deliver")
        node.wait_for_state(
            uid,
            lambda found: bool(found.deliveries) and bool(found.deliveries[0].last_error),
            "a failed attempt",
        )
        told = m3lung("status", "--accession", "A1", "--json", *config)
        assert told.returncode == 0
        [item] = json.loads(told.stdout)["series"]
        assert "refuse" in item["words"].lower()
        assert item["received"] == len(chest_series)
        assert m3lung("purge", "--older-than-days", "0", *config).stdout.startswith("0 images")

        orthanc.start()
        again = m3lung("retry", "--accession", "A1", *config)
        assert "tried again now" in again.stdout
        node.wait_until_delivered(uid)
        table = m3lung("status", *config).stdout
        assert "objects sent" in " ".join(table.split())

        unproven = m3lung("purge", "--older-than-days", "0", *config)
        assert unproven.stdout.startswith("0 images")
        assert "are kept" in unproven.stderr
        policy = ("--older-than-days", "0", "--without-proof-days", "0")
        dry = m3lung("purge", *policy, "--dry-run", *config)
        assert dry.stdout.startswith(f"{len(chest_series)} images")
        assert m3lung("purge", *policy, *config).returncode == 0
        assert not list((tmp_path / "node/state/spool/instances").rglob("*.dcm"))
        # What was purged is still known: sending it again has no effect.
        assert node.send(chest_series).returncode == 0
        status = node.series(uid)
        assert status is not None
        assert (status.revision, status.analysis_state) == (1, "done")
        nothing_left = m3lung("retry", "--accession", "A1", *config)
        assert nothing_left.returncode == 1


def test_an_unknown_series_cannot_be_retried(tmp_path: Path, small_bundle: Path) -> None:
    node = Node(tmp_path / "node", small_bundle)
    assert m3lung("retry", "--config", node.config).returncode == 2
    assert m3lung("retry", "--uid", "1.2.3", "--config", node.config).returncode == 1


def test_a_wrong_configuration_names_its_field(tmp_path: Path) -> None:
    document = tmp_path / "node.toml"
    document.write_text('[listener]\nprot = 11112\nstate_dir = "x"\n')
    for verb in ("serve", "listen", "status", "check"):
        done = m3lung(verb, "--config", document)
        assert done.returncode == 2
        assert "listener.prot" in done.stderr
        assert "Traceback" not in done.stderr


def test_bundles(tmp_path: Path, small_bundle: Path) -> None:
    shown = m3lung("bundle", "show", small_bundle, "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["manifest"]["training"] == "untrained"
    missing = m3lung("bundle", "show", tmp_path)
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    assert m3lung("bundle", "untrained", "--out", small_bundle).returncode == 2


def test_help_teaches() -> None:
    for verb in ("", "serve", "analyze", "demo", "status", "peers", "check", "purge", "bundle"):
        done = m3lung(*verb.split(), "--help")
        assert done.returncode == 0
        assert len(done.stdout) > 300
