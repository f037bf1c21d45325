"""The peers themselves: what the other tests take for granted about them."""

from __future__ import annotations

import io
import re
import subprocess
import time
from pathlib import Path

import psycopg
import pydicom
import pytest

from support.orthanc import Orthanc
from support.peers import PEERS, Peer, program, require_peer
from support.redis_server import RedisServer
from support.synthetic_ct import synthetic_series

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.peer("dcmtk")
def test_orthanc_takes_a_synthetic_series_and_gives_it_back(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    series = synthetic_series(tmp_path / "ct", slices=3, matrix=64)
    command = [
        program("storescu") or "",
        "-aec",
        orthanc.ae_title,
        "127.0.0.1",
        str(orthanc.dicom_port),
    ]
    subprocess.run([*command, *map(str, series.paths)], check=True)

    assert orthanc.instance_count() == 3
    assert orthanc.sop_instance_uids() == set(series.sop_instance_uids)
    held = orthanc.instances(sop_class_uid=CT_IMAGE_STORAGE, series=series.series_instance_uid)
    assert len(held) == 3
    assert orthanc.by_sop_class() == {CT_IMAGE_STORAGE: held}
    (first,) = orthanc.lookup(series.sop_instance_uids[0])
    read = pydicom.dcmread(io.BytesIO(orthanc.download(first)))
    assert read.SOPInstanceUID == series.sop_instance_uids[0]
    assert orthanc.lookup("1.2.3") == []


@pytest.mark.peer("dcmtk")
def test_orthanc_refuses_another_called_ae_title(orthanc: Orthanc) -> None:
    command = [program("echoscu") or "", "-aec", "SOMEBODY", "127.0.0.1", str(orthanc.dicom_port)]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_redis_keeps_what_it_took_through_a_kill(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("nudge", "1")
        time.sleep(1.2)  # appendfsync everysec
    redis_server.restart()
    with redis_server.client() as client:
        assert client.get("nudge") == b"1"
    done = subprocess.run(
        ["redis-cli", "-p", str(redis_server.port), "ping"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NOAUTH" in done.stdout


def test_postgresql_databases_are_fresh(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() or (None,)
    assert count == 0


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("vendor", ["GE", "Siemens"])
def test_synthetic_series_is_valid_dicom(tmp_path: Path, vendor: str) -> None:
    series = synthetic_series(tmp_path, slices=2, matrix=64, vendor=vendor)  # type: ignore[arg-type]
    for path in series.paths:
        done = subprocess.run(
            [program("dciodvfy") or "", str(path)], capture_output=True, text=True, check=False
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert errors == []


def test_synthetic_series_is_the_same_each_time(tmp_path: Path) -> None:
    one = synthetic_series(tmp_path / "one", slices=2, matrix=64)
    two = synthetic_series(tmp_path / "two", slices=2, matrix=64)
    for a, b in zip(one.paths, two.paths, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_absent_peer_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {**PEERS, "orthanc": Peer(lambda: False, "orthanc orthanc-dicomweb")}
    monkeypatch.setattr("support.peers.PEERS", absent)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"not installed: .*apt install orthanc"):
        require_peer("orthanc")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="orthanc is not installed"):
        require_peer("orthanc")


def test_markers_name_peers_that_exist() -> None:
    tests = Path(__file__).resolve().parents[1]
    named = {
        name
        for path in tests.rglob("test_*.py")
        for names in re.findall(r"mark\.peer\(([^)]*)\)", path.read_text())
        for name in re.findall(r"\"(\w+)\"", names)
    }
    assert named <= PEERS.keys()
