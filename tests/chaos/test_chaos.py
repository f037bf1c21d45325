"""A short seeded part of `make chaos`: every run of the suite makes some faults for real."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pydicom
import pytest

from chaos.drive import Chaos, drive, table
from chaos.faults import FAULTS
from chaos.oracle import judge
from dicom_node.ledger import open_ledger

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]


@pytest.mark.timeout(280)
def test_a_few_faults_lose_and_double_nothing(tmp_path: Path, small_bundle: Path) -> None:
    chaos, verdict = drive(tmp_path, small_bundle, faults=8, seed=7)
    assert verdict.is_clean, f"{table(chaos, verdict, 7)}\n{verdict}\n{chaos.node.logs()}"
    assert sum(chaos.made.values()) >= 7
    assert verdict.acknowledged >= 8 * 22


def test_the_oracle_sees_what_is_wrong(tmp_path: Path, small_bundle: Path) -> None:
    """A check that cannot fail shows nothing: harm done by hand is found, each kind as its own."""
    [abort] = [fault for fault in FAULTS if fault.name.startswith("sender aborts")]
    with Chaos(tmp_path, small_bundle, seed=3) as chaos:
        chaos.make(abort, random.Random(3))
        chaos.settle()

        def look():
            return judge(chaos.node, chaos.pacs, chaos.acknowledged)

        assert look().is_clean, look()

        uid_lost, uid_altered = list(chaos.acknowledged)[:2]
        files = {uid: _spooled(chaos, uid) for uid in (uid_lost, uid_altered)}
        files[uid_lost].unlink()
        content = bytearray(files[uid_altered].read_bytes())
        content[-1] ^= 1
        files[uid_altered].chmod(0o600)
        files[uid_altered].write_bytes(content)
        verdict = look()
        assert (verdict.lost, verdict.altered) == ([uid_lost], [uid_altered])

        stranger = pydicom.dcmread(io.BytesIO(chaos.pacs.download(chaos.pacs.instances()[0])))
        stranger.SOPInstanceUID = stranger.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
        buffer = io.BytesIO()
        stranger.save_as(buffer)
        chaos.pacs.upload(buffer.getvalue())
        assert look().doubled == ["object 2.25.1 is not the ledger's"]

        chaos.node.kill("work")
        chaos.next_sending(random.Random(4)).send_all()
        assert any("analysis" in text for text in look().stuck)


def _spooled(chaos: Chaos, uid: str) -> Path:
    with open_ledger(chaos.node.ledger_url) as ledger:
        return chaos.node.directory / "state" / "spool" / ledger.revisions.path(uid)
