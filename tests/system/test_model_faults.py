"""Weights that are altered under a running node, and a GPU that is asked for and missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.bundle import load_bundle
from support.node import Node
from support.orthanc import Orthanc
from support.synthetic_ct import synthetic_series

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]


@pytest.fixture
def bundle(tmp_path: Path, small_bundle: Path) -> Path:
    """A bundle that may be harmed."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture
def node(tmp_path: Path, bundle: Path, orthanc: Orthanc) -> Iterator[Node]:
    with Node(tmp_path / "node", bundle, pacs=[orthanc]) as made:
        yield made


def series_of(patient: str, folder: Path) -> tuple[str, list[Path]]:
    made = synthetic_series(
        folder / patient, slices=22, matrix=128, patient_id=patient, study=patient
    )
    return made.series_instance_uid, list(made.paths)


def end_of(node: Node, part: str) -> str:
    """Wait until a part that cannot run has ended, in order; return what it said."""
    process = node.processes.pop(part)
    try:
        assert process.wait(90) == 1
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return node.log(part).read_text()


def test_weights_altered_under_a_running_node(node: Node, bundle: Path, tmp_path: Path) -> None:
    """What is loaded goes on as what it is; what was changed never loads, and its work waits."""
    identity = load_bundle(bundle).identity.sha256
    node.start()
    first, files = series_of("FIRST", tmp_path)
    assert node.send(files).returncode == 0
    node.wait_until_delivered(first)

    weights = max(bundle.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = weights.read_bytes()
    altered = bytearray(content)
    altered[-100] ^= 1
    weights.chmod(0o600)
    weights.write_bytes(altered)
    second, files = series_of("SECOND", tmp_path)
    assert node.send(files).returncode == 0
    node.wait_until_delivered(second)
    for uid in (first, second):
        status = node.series(uid)
        assert status is not None
        assert status.result is not None
        assert status.result["model"]["sha256"] == identity

    node.kill("work")
    node.start("work")
    assert f"{weights.name} has been altered" in end_of(node, "work")
    third, files = series_of("THIRD", tmp_path)
    assert node.send(files).returncode == 0
    status = node.wait_for_state(third, lambda found: found.analysis_state is not None, "selected")
    assert (status.analysis_state, status.attempts) == ("waiting", 0)

    weights.write_bytes(content)
    node.start("work")
    node.wait_until_delivered(third)


def test_a_gpu_that_is_asked_for_and_missing(node: Node, tmp_path: Path) -> None:
    """Nobody computes elsewhere in silence, and receiving goes on."""
    node.start("listen", "reconcile", "deliver")
    node.environment = {"CUDA_VISIBLE_DEVICES": "", "M3LUNG_ANALYSIS__DEVICE": "cuda"}
    node.start("work")
    said = end_of(node, "work")
    assert "the device cuda is not available" in said
    assert "Traceback" not in said
    checked = node.m3lung("check")
    assert checked.returncode == 3
    assert "cuda is not available" in checked.stdout
    uid, files = series_of("GPU", tmp_path)
    assert node.send(files).returncode == 0
    status = node.wait_for_state(uid, lambda found: found.analysis_state is not None, "selected")
    assert (status.analysis_state, status.attempts) == ("waiting", 0)

    node.environment = {}
    node.start("work")
    node.wait_until_delivered(uid)
