"""A short seeded part of `make chaos`: every run of the suite makes some faults for real."""

from __future__ import annotations

import ast
import io
import random
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from chaos.drive import drive
from chaos.faults import faults_of
from chaos.hospital import Hospital
from chaos.table import markdown
from chaos.topology import CLUSTER, SINGLE, TOPOLOGIES, role_of
from dicom_node.crashpoints import CRASH_POINTS
from dicom_node.ledger import open_ledger

ROOT = Path(__file__).resolve().parents[2]
real = [
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("dcmtk"),
    pytest.mark.slow,
    # pynetdicom drops its socket unclosed when a listener that was killed refuses the connection.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def marked(test):
    for mark in real:
        test = mark(test)
    return test


@marked
@pytest.mark.timeout(280)
def test_a_few_faults_lose_and_double_nothing(tmp_path: Path, small_bundle: Path) -> None:
    hospital, verdict = drive(tmp_path, small_bundle, faults=8, seed=7)
    report = markdown(hospital, verdict, "seed 7")
    assert verdict.is_clean, f"{report}\n{hospital.node.logs()}"
    assert hospital.made.total() >= 7
    assert verdict.acknowledged >= 8 * 22
    assert not hospital.fallen
    print(report)


@marked
@pytest.mark.peer("postgresql")
@pytest.mark.peer("redis")
@pytest.mark.timeout(280)
def test_two_of_everything_lose_and_double_nothing(tmp_path: Path, small_bundle: Path) -> None:
    """One process killed at a crash point, both servers lost, and one series sent twice at once."""
    hospital, verdict = drive(
        tmp_path,
        small_bundle,
        faults=4,
        seed=11,
        topology=CLUSTER,
        only=["reconciler.after_select", "broker killed", "database crashed", "two senders"],
    )
    report = markdown(hospital, verdict, "seed 11")
    assert verdict.is_clean, f"{report}\n{hospital.node.logs()}"
    assert hospital.made.total() == 4, report
    assert verdict.acknowledged == 4 * 22
    assert not hospital.fallen
    print(report)


def test_every_crash_point_of_the_code_is_driven() -> None:
    """A name in the code, in the table and among the faults: all three or none."""
    called = [
        node.args[0].value
        for package in ("dicom_node", "inference")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "crash_point"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert set(called) == set(CRASH_POINTS)
    for topology in TOPOLOGIES.values():
        names = [fault.name for fault in faults_of(topology)]
        assert set(CRASH_POINTS) <= set(names)
        assert len(names) == len(set(names))
        assert all(topology.parts_of(role_of(point)) for point in CRASH_POINTS)


def test_the_drivers_help_names_what_it_can_do() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/chaos/drive.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for word in ("--topology", "--markdown", "--seed", *TOPOLOGIES):
        assert word in done.stdout


@marked
def test_the_oracle_sees_what_is_wrong(tmp_path: Path, small_bundle: Path) -> None:
    """A check that cannot fail shows nothing: harm done by hand is found, each kind as its own."""
    [abort] = [fault for fault in faults_of(SINGLE) if fault.name.startswith("sender aborts")]
    with Hospital(tmp_path, small_bundle, seed=3) as hospital:
        dice = random.Random(3)
        abort.make(hospital, hospital.next_sending(dice), dice)
        hospital.settle()
        assert hospital.judge().is_clean, hospital.judge()

        uid_lost, uid_altered = list(hospital.acknowledged)[:2]
        files = {uid: _spooled(hospital, uid) for uid in (uid_lost, uid_altered)}
        files[uid_lost].unlink()
        content = bytearray(files[uid_altered].read_bytes())
        content[-1] ^= 1
        files[uid_altered].chmod(0o600)
        files[uid_altered].write_bytes(content)
        verdict = hospital.judge()
        assert (verdict.lost, verdict.altered) == ([uid_lost], [uid_altered])

        pacs = hospital.pacs
        stranger = pydicom.dcmread(io.BytesIO(pacs.download(pacs.instances()[0])))
        stranger.SOPInstanceUID = stranger.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
        buffer = io.BytesIO()
        stranger.save_as(buffer)
        pacs.upload(buffer.getvalue())
        assert hospital.judge().doubled == ["object 2.25.1 is not the ledger's"]

        hospital.node.kill("work")
        hospital.next_sending(dice).send_all()
        hospital.next_sending(dice)
        stuck = hospital.judge().stuck
        assert any("analysis None" in text or "analysis waiting" in text for text in stuck), stuck
        assert any("not acknowledged" in text for text in stuck)


def _spooled(hospital: Hospital, uid: str) -> Path:
    with open_ledger(hospital.node.ledger_url) as ledger:
        return hospital.node.directory / "state" / "spool" / ledger.revisions.path(uid)
