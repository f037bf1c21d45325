"""The audit trail: chained across files and processes, and what verifying finds."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node.audit import Auditor, AuditTrail, Transfer, records, verify
from dicom_node.audit.flood import FloodGate
from dicom_node.audit.trail import line_hash
from dicom_node.settings import AuditSettings, NodeSettings


def filled(folder: Path, count: int = 10, **options: Any) -> AuditTrail:
    trail = AuditTrail(folder / "audit", **options)
    for number in range(count):
        trail.append({"n": number})
    return trail


def the_file(trail: AuditTrail) -> Path:
    (path,) = trail.folder.glob("audit-*.jsonl")
    return path


def test_each_record_carries_the_hash_of_the_one_before(tmp_path: Path) -> None:
    trail = filled(tmp_path, 3)
    lines = the_file(trail).read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[0])["previous"] == "0" * 64
    assert json.loads(lines[2])["previous"] == line_hash(lines[1])
    verdict = verify(trail)
    assert (verdict.ok, verdict.count, verdict.sha256) == (True, 3, line_hash(lines[2]))
    assert stat.S_IMODE(the_file(trail).stat().st_mode) == 0o600
    assert stat.S_IMODE(trail.folder.stat().st_mode) == 0o700


def change(lines: list[bytes], index: int) -> list[bytes]:
    lines[index] = lines[index].replace(b'"n":', b'"n":9')
    return lines


@pytest.mark.parametrize(
    ("damage", "place", "words"),
    [
        (lambda lines: change(lines, 4), "audit-0000000001.jsonl:6", "record 5 was altered"),
        (lambda lines: change(lines, 9), "audit-0000000001.jsonl:10", "record 10 was altered"),
        (lambda lines: lines[:3] + lines[5:], "audit-0000000001.jsonl:4", "records 4 to 5 are"),
        (lambda lines: lines[:-2], "the end", "records 9 to 10 are missing at the end"),
        (lambda lines: lines[2:], "audit-0000000001.jsonl:1", "records 1 to 2 are missing"),
        (lambda lines: [*lines[:4], b"{]\n", *lines[5:]], "audit-0000000001.jsonl:5", "cannot be"),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], "audit-0000000001.jsonl:5", "missing"),
        (lambda lines: [], "the end", "records 1 to 10 are missing"),
    ],
)  # fmt: skip
def test_verifying_names_the_first_record_that_does_not_fit(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], place: str, words: str
) -> None:
    trail = filled(tmp_path)
    path = the_file(trail)
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    verdict = verify(trail)
    assert not verdict.ok
    assert verdict.place == place
    assert words in verdict.words


def test_what_was_cut_is_not_healed_by_going_on(tmp_path: Path) -> None:
    trail = filled(tmp_path)
    path = the_file(trail)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    trail.append({"n": 10})
    verdict = verify(trail)
    assert not verdict.ok
    assert "records 9 to 10 are missing" in verdict.words
    assert any("was cut" in str(record.get("AuditTrailRepair")) for record in records(trail.folder))


def test_a_deleted_trail_or_head_is_noticed(tmp_path: Path) -> None:
    trail = filled(tmp_path)
    saved = trail.head_path.read_bytes()
    trail.head_path.unlink()
    assert "head is missing" in verify(trail).words
    trail.head_path.write_bytes(saved)
    the_file(trail).unlink()
    assert not verify(trail).ok


def test_a_trail_written_anew_with_its_head_fits_no_note_from_outside(tmp_path: Path) -> None:
    noted = verify(filled(tmp_path / "a"))
    other = AuditTrail(tmp_path / "b")
    for number in range(10):
        other.append({"n": number + 1})
    assert verify(other).ok
    assert not verify(other, known=(noted.seq, noted.sha256)).ok
    assert verify(AuditTrail(tmp_path / "a" / "audit"), known=(noted.seq, noted.sha256)).ok


def test_the_head_may_lie_elsewhere(tmp_path: Path) -> None:
    trail = filled(tmp_path, head_path=tmp_path / "other-disk" / "head")
    assert verify(trail).ok
    assert not (trail.folder / "head").exists()


def test_a_crash_between_record_and_head_costs_nothing(tmp_path: Path) -> None:
    trail = filled(tmp_path, 3)
    head = trail.head_path.read_bytes()
    trail.append({"n": 3})
    trail.head_path.write_bytes(head)
    assert verify(trail).ok  # one ahead is what a crash leaves
    trail.append({"n": 4})
    verdict = verify(trail)
    assert (verdict.ok, verdict.count) == (True, 5)


def test_a_torn_record_is_taken_away_and_told(tmp_path: Path) -> None:
    trail = filled(tmp_path, 3)
    with the_file(trail).open("ab") as file:
        file.write(b'{"seq":4,"previous":"ab')
    assert not verify(trail).ok
    trail.append({"n": 3})
    assert verify(trail).ok
    assert [record.get("n") for record in records(trail.folder)] == [0, 1, 2, None, 3]


def test_records_put_behind_the_head_are_found(tmp_path: Path) -> None:
    trail = filled(tmp_path, 3)
    head = trail.head_path.read_bytes()
    for number in range(3):
        trail.append({"n": number})
    trail.head_path.write_bytes(head)
    assert "not covered by the head" in verify(trail).words


APPEND_MANY = """
import os, sys
from pathlib import Path
from dicom_node.audit import AuditTrail
trail = AuditTrail(Path(sys.argv[1]), rotate_bytes=8192)
for number in range(int(sys.argv[2])):
    trail.append({"pid": os.getpid(), "n": number, "padding": "x" * 100})
"""
ROOT = Path(__file__).resolve().parents[2]


def appending(folder: Path, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", APPEND_MANY, str(folder), str(count)]
    return subprocess.Popen(command, cwd=ROOT)


def append_many(folder: Path, count: int) -> None:
    assert appending(folder, count).wait(60) == 0


def test_processes_append_to_one_chain_across_files(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    writers = [appending(folder, 50) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    verdict = verify(AuditTrail(folder))
    assert (verdict.ok, verdict.count) == (True, 200)
    assert len(list(folder.glob("audit-*.jsonl"))) > 3
    by_writer: dict[int, list[int]] = {}
    for record in records(folder):
        by_writer.setdefault(record["pid"], []).append(record["n"])
    assert [sorted(found) == found == list(range(50)) for found in by_writer.values()] == [True] * 4


def test_a_file_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    append_many(folder, 200)
    files = sorted(folder.glob("audit-*.jsonl"))
    newest = verify(AuditTrail(folder), latest_only=True)
    assert newest.ok
    assert 0 < newest.count < 100
    content = files[-1].read_bytes()
    files[-1].write_bytes(content[: content.rindex(b"{")])
    assert not verify(AuditTrail(folder), latest_only=True).ok
    files[-1].write_bytes(content)
    files[1].unlink()
    verdict = verify(AuditTrail(folder))
    assert not verdict.ok
    assert verdict.place == f"{files[2].name}:1"


def test_retention_takes_whole_files_and_moves_the_beginning(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    append_many(folder, 200)
    files = sorted(folder.glob("audit-*.jsonl"))
    for path in files[:2]:
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    trail = AuditTrail(folder, rotate_bytes=1, keep_days=5)
    trail.append({"n": "next"})
    left = sorted(folder.glob("audit-*.jsonl"))
    assert files[0] not in left
    assert files[1] not in left
    assert files[2] in left
    verdict = verify(trail)
    assert verdict.ok
    assert "the first is" in verdict.words
    assert verify(trail, latest_only=True).count == 2  # what went, and the next
    left[0].unlink()  # by somebody else
    assert not verify(trail).ok


# -- what is said ------------------------------------------------------------------------------


def auditor(folder: Path, **audit: Any) -> Auditor:
    return Auditor(NodeSettings(state_dir=folder, audit=AuditSettings(**audit)), "listen")


def transfer() -> Transfer:
    made = Transfer("1.2.3.4", "CANARY-4711")
    made.sop_classes["1.2.840.10008.5.1.4.1.1.2"] = 148
    return made


def test_a_transfer_says_who_what_and_how_much(tmp_path: Path) -> None:
    one = auditor(tmp_path)
    one.received([transfer()], calling_ae="CT1", address="10.0.0.7", failed=False)
    (record,) = records(tmp_path / "audit")
    event = record["EventIdentification"]
    assert event["EventID"]["csd-code"] == "110104"
    assert (event["EventActionCode"], event["EventOutcomeIndicator"]) == ("C", "0")
    source, destination = record["ActiveParticipant"]
    assert source["AlternativeUserID"] == "AETITLES=CT1"
    assert (source["NetworkAccessPointID"], source["UserIsRequestor"]) == ("10.0.0.7", True)
    assert source["RoleIDCode"][0]["csd-code"] == "110153"
    assert destination["AlternativeUserID"] == "AETITLES=M3LUNG"
    study, patient = record["ParticipantObjectIdentification"]
    assert study["ParticipantObjectDescription"]["SOPClass"][0]["NumberOfInstances"] == 148
    text = json.dumps(record)
    assert "CANARY" not in text
    assert "1.2.3.4" not in text
    assert patient["ParticipantObjectID"] == one.identifier_of_patient("CANARY-4711")
    assert one.identifier_of_patient("CANARY-4712") != one.identifier_of_patient("CANARY-4711")
    other = auditor(tmp_path / "elsewhere")
    assert other.identifier_of_patient("CANARY-4711") != one.identifier_of_patient("CANARY-4711")


def test_identifiers_of_the_standard_on_demand(tmp_path: Path) -> None:
    auditor(tmp_path, identifiers="plain").received(
        [transfer()], calling_ae="CT1", address="10.0.0.7", failed=True
    )
    (record,) = records(tmp_path / "audit")
    study, patient = record["ParticipantObjectIdentification"]
    assert study["ParticipantObjectID"] == "1.2.3.4"
    assert patient["ParticipantObjectID"] == "CANARY-4711"
    assert record["EventIdentification"]["EventOutcomeIndicator"] == "4"


def test_start_stop_and_an_order_of_a_person(tmp_path: Path) -> None:
    one = auditor(tmp_path)
    with one.running():
        one.user_did("purge: 148 images removed", studies=["1.2.3"])
    kinds = [
        record["EventIdentification"]["EventTypeCode"][0]["csd-code"]
        for record in records(tmp_path / "audit")
    ]
    assert kinds == ["110120", "110132", "110121"]


def test_knocking_all_day_is_counted_and_not_repeated(tmp_path: Path) -> None:
    one = auditor(tmp_path)
    with one.running():
        for _ in range(500):
            one.refused("unknown calling AE title", address="10.0.0.66", calling_ae="EVIL\x1b[")
    found = list(records(tmp_path / "audit"))
    assert len(found) == 4
    assert found[1]["ActiveParticipant"][0]["AlternativeUserID"] == "AETITLES=EVIL\\x1b["
    assert "499 refusals" in found[2]["EventIdentification"]["EventOutcomeDescription"]


def test_a_flood_gate_lets_one_through_a_window() -> None:
    now = [0.0]
    gate = FloodGate(60.0, lambda: now[0])
    assert [gate.admit("a") for _ in range(3)] == [0, None, None]
    assert gate.admit("b") == 0
    now[0] = 61.0
    assert gate.admit("a") == 2
    for number in range(5000):
        gate.admit(number)
    assert gate.held_back() > 3000


def test_nothing_is_written_where_it_is_switched_off(tmp_path: Path) -> None:
    auditor(tmp_path, enabled=False).refused("no", address="10.0.0.1")
    assert not (tmp_path / "audit").exists()


def test_a_record_that_cannot_be_written_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = auditor(tmp_path)
    one.refused("first", address="10.0.0.1")
    real_fsync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    one.refused("second", address="10.0.0.1")
    monkeypatch.setattr(os, "fsync", real_fsync)
    one.refused("third", address="10.0.0.1")
    words = [
        record["EventIdentification"]["EventOutcomeDescription"]
        for record in records(tmp_path / "audit")
    ]
    assert words == ["first", "1 records could not be written before this one", "third"]
    assert verify(one.trail).ok
