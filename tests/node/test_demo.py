"""``m3lung demo`` with real processes: its PACS, its folder, and the whole way there and back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from dicom_node.cli.demo_folder import fresh_folder
from dicom_node.demo.child import Child, ChildFailed, free_port
from dicom_node.demo.comparison import compare
from dicom_node.demo.following import SentObject, has_ended
from dicom_node.demo.local_node import write_configuration
from dicom_node.demo.local_pacs import LocalPacs, PacsKind, start_pacs
from dicom_node.demo.retrieval import RetrievalFailed, find_series, get_series
from dicom_node.demo.sending import SendingFailed, send_instances
from dicom_node.errors import ConfigurationError, DeliveryError
from dicom_node.ledger.worklist import DeliverySummary, SeriesStatus
from dicom_node.settings import load_settings
from support.delivery_objects import overlay
from training.phantom import write_simple_series

ROOT = Path(__file__).resolve().parents[2]
BOTH = [
    pytest.param("simulated", id="simulated"),
    pytest.param("orthanc", id="orthanc", marks=pytest.mark.peer("orthanc")),
]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    return write_simple_series(folder, slices=20, rows=256, slice_mm=8.0)


def instances_of(folder: Path) -> dict[str, tuple[str, Path]]:
    found = {}
    for path in sorted(folder.glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        found[str(header.SOPInstanceUID)] = (str(header.SOPClassUID), path)
    return found


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# The PACS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_pacs_takes_lists_and_ends(kind: PacsKind, phantom: Path, tmp_path: Path) -> None:
    instances = instances_of(phantom)
    steps: list[tuple[int, int]] = []
    with start_pacs(kind, tmp_path / "pacs", "M3LUNG", free_port()) as pacs:
        pid = pacs.child.pid
        assert pid is not None
        assert is_running(pid)
        send_instances(
            instances, pacs.ae_title, pacs.port, lambda done, total: steps.append((done, total))
        )
        study = str(dcmread(phantom / "0001.dcm").StudyInstanceUID)
        (series,) = find_series(pacs, study)
        assert find_series(pacs, "2.25.1") == []
    assert (series.modality, series.instances) == ("CT", 20)
    assert steps[0] == (0, 20)
    assert steps[-1] == (20, 20)
    assert not is_running(pid)


@pytest.mark.parametrize("kind", BOTH)
def test_results_come_back_by_c_get(kind: PacsKind, tmp_path: Path) -> None:
    sent = overlay(tmp_path)
    dataset = dcmread(sent)
    with start_pacs(kind, tmp_path / "pacs", "M3LUNG", free_port()) as pacs:
        instances = {str(dataset.SOPInstanceUID): (str(dataset.SOPClassUID), sent)}
        send_instances(instances, pacs.ae_title, pacs.port, lambda done, total: None)
        (series,) = find_series(pacs, str(dataset.StudyInstanceUID))
        (path,) = get_series(pacs, series, tmp_path / "back")
    assert path.stem == dataset.SOPInstanceUID
    (comparison,) = compare([as_sent(dataset, sent)], tmp_path, {path.stem: path})
    assert comparison.differences == ()


def test_a_pacs_that_cannot_start_says_why(tmp_path: Path) -> None:
    child = Child("it", [sys.executable, "-c", "raise SystemExit('no disk')"], tmp_path / "log")
    with child:
        deadline = time.monotonic() + 20
        while child.pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ChildFailed, match="it ended with code 1"):
            child.require_alive()
    assert child.tail() == "no disk"


def test_a_child_that_does_not_listen_is_killed_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.demo.child._STOP_S", 0.5)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print(own.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = Child("it", [sys.executable, "-c", code], tmp_path / "log")
    with child:
        deadline = time.monotonic() + 20
        while not child.tail() and time.monotonic() < deadline:
            time.sleep(0.02)
        pid, own = child.pid, int(child.tail())
        assert pid is not None
        assert is_running(own)
    assert not is_running(pid)
    assert not is_running(own)


def test_orthanc_asked_for_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.demo.local_pacs.find_program", lambda name: None)
    with (
        pytest.raises(ConfigurationError, match="simulated"),
        start_pacs("orthanc", tmp_path, "M3LUNG", 1),
    ):
        pass


# Sending and fetching -----------------------------------------------------------------------------


def test_sending_to_nobody(phantom: Path) -> None:
    with pytest.raises(DeliveryError, match="no TCP connection"):
        send_instances(instances_of(phantom), "NOBODY", free_port(), lambda done, total: None)


def test_a_refused_image_is_named(phantom: Path, tmp_path: Path) -> None:
    from dicom_node.simulated_pacs import Behaviour, SimulatedPacs

    behaviour = Behaviour(answers=lambda request: 0xC123 if request.number == 3 else 0x0000)
    with (
        SimulatedPacs(tmp_path / "held", behaviour=behaviour) as pacs,
        pytest.raises(SendingFailed, match=r"SIMPACS refused 0004\.dcm \(0xC123\)"),
    ):
        send_instances(instances_of(phantom), "SIMPACS", pacs.port, lambda done, total: None)


def test_a_pacs_without_c_find(tmp_path: Path) -> None:
    from dicom_node.simulated_pacs import Behaviour, SimulatedPacs

    with SimulatedPacs(tmp_path / "held", behaviour=Behaviour(queries=False)) as server:
        child = Child("it", [], tmp_path / "log")
        pacs = LocalPacs("the PACS", "SIMPACS", server.port, "", child)
        with pytest.raises(RetrievalFailed, match="the PACS accepts no association"):
            find_series(pacs, "2.25.1")


# Comparison ---------------------------------------------------------------------------------------


def as_sent(dataset: FileDataset, path: Path) -> SentObject:
    return SentObject(
        "overlay",
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        Path(path.name),
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.80"])
def test_another_transfer_syntax_is_no_difference(syntax: str, tmp_path: Path) -> None:
    path = overlay(tmp_path)
    dataset = dcmread(path)
    if syntax.endswith(".80"):
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
    dataset.save_as(tmp_path / "back.dcm", implicit_vr=implicit, little_endian=True)
    back = {str(dataset.SOPInstanceUID): tmp_path / "back.dcm"}
    (comparison,) = compare([as_sent(dataset, path)], tmp_path, back)
    assert comparison.is_whole, comparison.differences


@pytest.mark.parametrize("syntax", ["", "1.2.840.10008.1.2.4.80"])
def test_one_changed_pixel_is_found(syntax: str, tmp_path: Path) -> None:
    path = overlay(tmp_path)
    dataset = dcmread(path)
    pixels = bytearray(dataset.PixelData)
    pixels[len(pixels) // 2] ^= 1
    dataset.PixelData = bytes(pixels)
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "back.dcm")
    back = {str(dataset.SOPInstanceUID): tmp_path / "back.dcm"}
    (comparison,) = compare([as_sent(dataset, path)], tmp_path, back)
    assert comparison.differences == (("the pixels differ" if syntax else "PixelData differs"),)


def test_what_is_missing_or_renamed_is_found(tmp_path: Path) -> None:
    path = overlay(tmp_path)
    dataset = dcmread(path)
    (missing,) = compare([as_sent(dataset, path)], tmp_path, {})
    assert not missing.is_whole
    uid = str(dataset.SOPInstanceUID)
    dataset.SeriesDescription = "something else"
    del dataset.PatientID
    dataset.save_as(tmp_path / "back.dcm")
    (other,) = compare([as_sent(dataset, path)], tmp_path, {uid: tmp_path / "back.dcm"})
    assert set(other.differences) == {"SeriesDescription differs", "PatientID differs"}


# Following ----------------------------------------------------------------------------------------


def status(state: str, analysis: str | None, deliveries: dict[str, int] | None) -> SeriesStatus:
    summaries = () if deliveries is None else (DeliverySummary("pacs", deliveries, "", None),)
    return SeriesStatus(
        series_id=1, series_instance_uid="2.25.1", study_instance_uid="2.25.2",
        accession_number="", description="", source_ae="SCANNER", received=24, expected=None,
        revision=1, state=state, first_arrival_at=0.0, last_arrival_at=0.0, waiting_for="",
        closing_reason="", reason="", analysis_state=analysis, attempts=0, stage="", done=0,
        total=0, queue_position=None, finished_at=None, result=None, deliveries=summaries,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "analysis", "deliveries", "ended"),
    [
        ("receiving", None, None, False),
        ("complete", None, None, False),
        ("skipped", None, None, True),
        ("rejected", None, None, True),
        ("selected", "waiting", None, False),
        ("selected", "running", None, False),
        ("selected", "quarantined", None, True),
        ("selected", "skipped", None, True),
        ("selected", "done", {"waiting": 1, "sent": 4}, False),
        ("selected", "done", {"sent": 5}, True),
        ("selected", "done", {"sent": 4, "parked": 1}, True),
    ],
)
def test_when_a_series_has_ended(
    state: str, analysis: str | None, deliveries: dict[str, int] | None, ended: bool
) -> None:
    assert has_ended(status(state, analysis, deliveries), 24) is ended
    assert not has_ended(status(state, analysis, deliveries), 25)


# Folder and configuration -------------------------------------------------------------------------


def test_folder_is_made_anew_only_if_it_is_ours(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "out") as folder:
        folder.from_pacs.mkdir()
        (folder.root / "mine.txt").write_text("kept")
        with (
            pytest.raises(ConfigurationError, match="another demo runs"),
            fresh_folder(tmp_path / "out"),
        ):
            pass
    with fresh_folder(tmp_path / "out") as folder:
        assert not folder.from_pacs.exists()
        assert (folder.root / "mine.txt").read_text() == "kept"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ConfigurationError, match="not made by a demo"),
        fresh_folder(tmp_path / "other"),
    ):
        pass
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_configuration_is_what_the_node_reads(tmp_path: Path) -> None:
    pacs = LocalPacs("Orthanc", "ORTHANC", 4242, "", Child("it", [], tmp_path / "log"))
    path = tmp_path / "node.toml"
    write_configuration(
        path, state_dir=tmp_path / "state", port=11199, pacs=pacs, bundle=tmp_path / "b"
    )
    settings = load_settings(path)
    assert settings.listener.port == 11199
    assert settings.analysis.bundle == tmp_path / "b"
    assert settings.peer("pacs").is_destination
    assert settings.peer("pacs").query
    assert settings.peer("scanner").is_source
    assert not settings.peer("scanner").is_destination


# The command --------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_demo(*options: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        # What a node of the same user is told must not reach the demo's.
        env={**os.environ, "PYTHONPATH": str(ROOT), "M3LUNG_STATE_DIR": str(cwd / "stray")},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def check_outcome(out: Path, stdout: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stdout)
    assert document["ok"], document["problem"]
    assert document == json.loads((out / "demo.json").read_text())
    (reading,) = document["readings"]
    kinds = {item["kind"] for item in reading["objects"]}
    assert kinds == {"report", "overlay", "summary", "segmentation", "key_objects"}
    for item in reading["objects"]:
        dataset = dcmread(item["path"], stop_before_pixels=True)
        assert dataset.SOPInstanceUID == item["sop_instance_uid"]
        assert str(dataset.PatientName) == "PHANTOM^SEED 7"
        assert "DEMO: RESEARCH USE ONLY" in dataset.SeriesDescription
        assert item["differences"] == []
    assert len(document["series_in_pacs"]) == 6  # the CT and five kinds of results
    assert reading["result"]["model"]["trained"] is True  # the demonstration bundle
    assert all(seconds > 0 for seconds in reading["timing_s"].values())
    names = {Path(path).name for path in document["pictures"]}
    assert {"summary.png", "contact-sheet.png"} < names
    assert sum(name.startswith("overlay-") for name in names) in range(1, 9)
    return document


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", BOTH)
def test_there_and_back(kind: str, phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--series", str(phantom), "--out", str(out), "--pacs", kind, "--json"]
    with running_demo(*options, cwd=tmp_path) as demo:
        stdout, stderr = demo.communicate(timeout=850)
    assert demo.returncode == 0, stderr
    check_outcome(out, stdout)
    assert not (tmp_path / "stray").exists()
    left = [item for item in psutil.process_iter(["cmdline"]) if names_folder(item, out)]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(number: signal.Signals, phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--series", str(phantom), "--out", str(out), "--pacs", "simulated"]
    with running_demo(*options, cwd=tmp_path) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "images to the node" in line:
                break
        started = descendants(demo.pid)
        assert len(started) >= 5  # PACS, serve, and serve's parts
        demo.send_signal(number)
        demo.communicate(timeout=60)
        assert demo.returncode != 0
        _, left = psutil.wait_procs(started, timeout=10)
    assert left == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--series", "nowhere"], "no such file or folder"),
        (["--series", "empty"], "holds no readable DICOM image"),
        (["--out", "."], "not made by a demo"),
        (["--pacs", "nonsense"], "nonsense"),
    ],
)
def test_wrong_usage(options: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with running_demo(*options, cwd=tmp_path) as demo:
        _, stderr = demo.communicate(timeout=60)
    assert demo.returncode == 2
    assert words in " ".join(stderr.split())
    assert "Traceback" not in stderr


def names_folder(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in part for part in process.info["cmdline"] or [])
