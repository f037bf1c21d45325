"""No patient data outside of spool, results and ledger: a series of canary words, errors included.

Everything else that the node writes is searched: logs and error output, audit trail, broker,
what `check` says, the support bundle, and the names of files.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from dicom_node.audit import AuditTrail, records, verify
from support.listening import RawSender, encode
from support.node import Node
from support.redis_server import RedisServer

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.slow, pytest.mark.timeout(600)]

CANARIES = {
    "PatientName": "Zanzibarowa^Quetzalina",
    "PatientID": "KANARI-PID-77",
    "PatientBirthDate": "19310709",
    "OtherPatientIDs": "KANARI-OTHER",
    "PatientAddress": "Kanarigade 9",
    "PatientComments": "kanari comment",
    "AccessionNumber": "KANARI-ACC-42",
    "StudyID": "KANARISTUDY",
    "StudyDescription": "Kanari study of Zanzibarowa",
    "SeriesDescription": "Kanari thorax",
    "InstitutionName": "Kanarihospital",
    "InstitutionalDepartmentName": "Kanari ward",
    "ReferringPhysicianName": "Kanariarzt^Ref",
    "PerformingPhysicianName": "Kanariarzt^Perf",
    "OperatorsName": "Kanarioperator",
    "StationName": "KANARISTATION",
    "DeviceSerialNumber": "KANARI0815",
}
SONGS = re.compile(rb"kanari|zanzibar|quetzal|19310709", re.IGNORECASE)


class TalkativePacs:
    """A PACS that quotes the patient in every error comment: for some objects, or for all."""

    def __init__(self, ae_title: str, *, refused_first: int, status: int, keeps: bool) -> None:
        self.ae_title = ae_title
        self.requests = 0
        self._refused_first, self._status, self._keeps = refused_first, status, keeps
        ae = AE(ae_title)
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.dicom_port = int(self._server.server_address[1])

    def _store(self, event: Any) -> Dataset:
        self.requests += 1
        answer = Dataset()
        refused = self.requests <= self._refused_first
        answer.Status = self._status if refused else 0xB000 if self._keeps else 0xC000
        answer.ErrorComment = "no room for Zanzibarowa^Quetzalina KANARI-PID-77"
        answer.OffendingElement = 0x00100010
        return answer

    def stop(self) -> None:
        self._server.shutdown()


@dataclass
class Songs:
    """What was searched, and where a canary sang."""

    heard: list[str] = field(default_factory=list)
    searched_bytes: int = 0

    def listen(self, name: str, content: bytes) -> None:
        self.searched_bytes += len(content)
        for found in SONGS.finditer(content):
            around = content[max(0, found.start() - 60) : found.end() + 60]
            self.heard.append(f"{name}: …{around!r}…")
        for text in re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", content):
            try:
                decoded = base64.b64decode(text + b"=" * (-len(text) % 4))
            except ValueError:
                continue
            if SONGS.search(decoded):
                self.heard.append(f"{name}, in base64: {decoded[:200]!r}")


def canary_series(paths: list[Path], folder: Path) -> list[Path]:
    folder.mkdir()
    made = []
    for number, path in enumerate(paths):
        dataset = dcmread(path)
        for keyword, value in CANARIES.items():
            setattr(dataset, keyword, value)
        target = folder / f"{number:03d}.dcm"
        dataset.save_as(target)
        made.append(target)
    return made


def send_bad_instances(node: Node, good: list[Path]) -> list[int]:
    """Send what the listener has to refuse, of the canary patient; return its answers."""
    whole = dcmread(good[3])
    encoded = encode(whole)
    uid = str(whole.SOPInstanceUID)
    name = encoded.index(b"Zanzibar")
    conflict = encoded.replace(b"kanari comment", b"KANARI COMMENT")
    illegal = encoded.replace(str(whole.SeriesInstanceUID).encode(), b"KANARI^".ljust(
        len(str(whole.SeriesInstanceUID)), b"x"
    ))  # fmt: skip
    answers = []
    for dataset, command_uid in (
        (conflict, uid),  # taken, and set aside
        (encoded, "1.2.3.4"),
        (illegal, uid),
        (encoded[: name + 11], uid),
        (encoded[:name] + encoded[name : name + 5] * 1000, uid),
    ):
        with RawSender(node.port, calling="STORESCU") as sender:
            answers.append(sender.store(dataset, sop_instance_uid=command_uid)[0])
    return answers


def broken_series(good: list[Path], folder: Path) -> tuple[str, list[Path]]:
    """A whole series of another patient's study whose pixels cannot be decoded."""
    folder.mkdir()
    study, series = generate_uid(), generate_uid()
    made = []
    for number, path in enumerate(good):
        dataset = dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.PixelData = dataset.PixelData[:1000]
        target = folder / f"{number:03d}.dcm"
        dataset.save_as(target)
        made.append(target)
    return str(series), made


@pytest.fixture
def destinations() -> Iterator[list[TalkativePacs]]:
    pacs = [
        TalkativePacs("GRUDGING", refused_first=3, status=0xA700, keeps=True),
        TalkativePacs("REFUSING", refused_first=0, status=0xC000, keeps=False),
    ]
    yield pacs
    for one in pacs:
        one.stop()


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.peer("redis"))])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path | None]]:
    if request.param == "embedded":
        yield "", None
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    log = tmp_path / "monitor.txt"
    with log.open("wb") as stream:
        watching = subprocess.Popen(
            ["redis-cli", "-p", str(server.port), "monitor"],
            stdout=stream,
            env={**os.environ, "REDISCLI_AUTH": server.password},
        )
        try:
            yield server.url, log
        finally:
            watching.kill()
            watching.wait()


def m3lung(node: Node, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *words, "--config", str(node.config)],
        capture_output=True,
        check=False,
        timeout=120,
    )


def states_at(node: Node, uid: str, destination: str) -> set[str]:
    status = node.series(uid)
    deliveries = status.deliveries if status else ()
    return {state for one in deliveries if one.destination == destination for state in one.states}


def test_no_canary_sings_outside_the_cage(
    tmp_path: Path,
    small_bundle: Path,
    chest_series: list[Path],
    destinations: list[TalkativePacs],
    broker: tuple[str, Path | None],
) -> None:
    broker_url, monitor = broker
    songs = Songs()
    good = canary_series(chest_series, tmp_path / "canaries")
    uid = str(dcmread(good[0], stop_before_pixels=True).SeriesInstanceUID)
    broken_uid, broken = broken_series(good, tmp_path / "broken")
    with Node(
        tmp_path / "node",
        small_bundle,
        pacs=destinations,
        broker_url=broker_url,  # type: ignore[arg-type]
    ) as node:
        config = node.config.read_text()
        loud = 'state_dir = "state"\nlog_level = "debug"'
        node.config.write_text(config.replace('state_dir = "state"', loud))
        node.start("listen", "reconcile")
        assert node.send(good).returncode == 0
        answers = send_bad_instances(node, good)
        assert answers[0] == 0
        assert all(answers[1:]), answers
        assert node.send(broken).returncode in (0, 1)

        def nudged() -> bool:
            status = node.series(uid)
            return status is not None and status.analysis_state == "waiting"

        node.wait_for(nudged, "the analysis waits", 60)
        time.sleep(1.0)
        messages = node.directory / "state" / "broker"
        for path in sorted(messages.rglob("*")) if messages.exists() else []:
            if path.is_file():
                songs.listen(f"broker {path.name}", path.read_bytes())
        if not broker_url:
            assert songs.searched_bytes > 100, "no nudge lay in the broker"
        node.start("work", "deliver")
        node.wait_for(
            lambda: (
                states_at(node, uid, "pacs") == {"sent"}
                and states_at(node, uid, "pacs1") == {"parked"}
            ),
            "delivered, and parked where it was refused",
            180,
        )
        node.wait_for(
            lambda: (
                (found := node.series(broken_uid)) is None
                or found.state in ("rejected", "skipped")
                or found.analysis_state in ("rejected", "quarantined", "done")
            ),
            "the broken series ends",
            120,
        )
        for words in (["check"], ["check", "--json"], ["audit", "show", "--last", "100"]):
            said = m3lung(node, *words)
            assert said.returncode in (0, 3), said.stderr
            songs.listen(" ".join(words), said.stdout + said.stderr)
        bundle = tmp_path / "support.zip"
        logs = [word for path in node.directory.glob("*.log") for word in ("--log", str(path))]
        said = m3lung(node, "support-bundle", "--out", str(bundle), *logs)
        assert said.returncode == 0, said.stderr
        assert b"identifiers of patients were found" not in said.stdout
        songs.listen("support-bundle", said.stdout + said.stderr)

    with zipfile.ZipFile(bundle) as file:
        for name in file.namelist():
            songs.listen(f"bundle {name}", file.read(name))
        assert {"settings.json", "events.jsonl", "audit.jsonl"} <= set(file.namelist())
    for path in node.directory.glob("*.log"):
        songs.listen(path.name, path.read_bytes())
    state = node.directory / "state"
    for path in state.rglob("*"):
        songs.listen("name of a file", str(path.relative_to(state)).encode())
        if path.is_file() and path.parts[len(state.parts)] in ("audit", "broker"):
            songs.listen(str(path.relative_to(state)), path.read_bytes())
    if monitor is not None:
        content = monitor.read_bytes()
        assert b"analysis" in content
        songs.listen("redis", content.replace(b'\\"', b'"'))
    assert songs.heard == []
    # The test can fail: the cage itself is full of them, and the errors were really made.
    assert SONGS.search((state / "ledger.sqlite3").read_bytes())
    logged = "".join(path.read_text(errors="replace") for path in node.directory.glob("*.log"))
    assert logged.count("instance_refused") >= 3
    assert destinations[0].requests > 3
    trail = AuditTrail(state / "audit")
    assert verify(trail).ok
    kinds = {
        record["EventIdentification"]["EventID"]["originalText"]
        for record in records(trail.folder)
        if "EventIdentification" in record
    }
    assert kinds >= {"Application Activity", "DICOM Instances Transferred", "Audit Log Used"}
    print(
        json.dumps({"searched_bytes": songs.searched_bytes, "audit_records": verify(trail).count})
    )
