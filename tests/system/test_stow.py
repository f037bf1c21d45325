"""DICOMweb at both ends: images come by STOW-RS, results go by STOW-RS."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from support.dispositions import KEPT
from support.held import assert_exactly_one_result_set
from support.node import Node
from support.orthanc import Orthanc
from support.ports import free_port
from support.posting import TOKEN, Answer, PostingNode, body_of, content_type, raw_request

REPORT = "Comprehensive 3D SR Storage"


class WebNode(Node):
    """A whole node that takes images by HTTP from SCANNER, and whose PACS gets results so."""

    def __init__(self, directory: Path, bundle: Path, pacs: Orthanc) -> None:
        self.stow_port = free_port()
        super().__init__(
            directory,
            bundle,
            pacs=[pacs],
            peer_options=f'stow_url = "{pacs.url}/dicom-web/studies"\nverify = "qido"',
            sections=f"[stow]\nenabled = true\nport = {self.stow_port}",
            environment={"M3LUNG_CREDENTIALS__SCANNER__ACCEPTED_TOKEN": TOKEN},
        )

    def raw(self) -> socket.socket:
        """Return a connection on which anything can be said."""
        return socket.create_connection(("127.0.0.1", self.stow_port), 30)

    def post(self, paths: Sequence[Path]) -> Answer:
        """POST files as one request, with a client that is none of ours."""
        with httpx.Client(trust_env=False, timeout=120) as client:
            answer = client.post(
                f"http://127.0.0.1:{self.stow_port}/dicom-web/studies",
                content=body_of(path.read_bytes() for path in paths),
                headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type()},
            )
        return Answer.of(answer)


@pytest.fixture
def web(orthanc: Orthanc) -> Orthanc:
    if not orthanc.has_dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed (make peers)")
    return orthanc


@pytest.fixture
def node(tmp_path: Path, small_bundle: Path, web: Orthanc) -> Iterator[WebNode]:
    with WebNode(tmp_path / "node", small_bundle, web) as made:
        yield made


@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.slow
def test_a_posted_series_comes_back_through_a_kill_in_mid_post(
    node: WebNode, web: Orthanc, chest_series: list[Path]
) -> None:
    source = dcmread(chest_series[0], stop_before_pixels=True)
    uid = str(source.SeriesInstanceUID)
    first, second = chest_series[:12], chest_series[12:]
    node.start("listen", "work", "deliver")  # nobody closes the series meanwhile
    assert node.post(first).status == 200
    assert _port_answers(node)

    half = body_of([path.read_bytes() for path in second], end=False)
    with node.raw() as connection:
        connection.sendall(raw_request(half[: len(half) // 2], length=len(half)))
        node.wait_for(lambda: _received(node, uid) > len(first), "some more are durable", 60)
        node.kill("listen")
    assert not _port_answers(node)
    held = _received(node, uid)
    assert len(first) < held < len(chest_series)

    node.start("listen")
    answer = node.post(second)
    node.start("reconcile")
    assert (answer.status, len(answer.stored)) == (200, len(second))
    status = node.wait_until_delivered(uid)
    assert status.received == len(chest_series)
    counts = assert_exactly_one_result_set(web, node.ledger_url, uid)
    assert counts[REPORT] == 1
    report = web.by_sop_class()["1.2.840.10008.5.1.4.1.1.88.34"]
    assert web.get(f"/instances/{report[0]}/tags?simplify")["PatientID"] == source.PatientID


@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.slow
def test_a_pacs_sends_by_its_own_dicomweb_client_and_gets_results_so(
    node: WebNode, web: Orthanc, chest_series: list[Path]
) -> None:
    for path in chest_series:
        web.upload(path.read_bytes())
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    node.start()
    server = {
        "Url": f"http://127.0.0.1:{node.stow_port}/dicom-web",
        "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"},
    }
    request = urllib.request.Request(
        f"{web.url}/dicom-web/servers/m3lung", json.dumps(server).encode(), method="PUT"
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
    sent = web.post(
        "/dicom-web/servers/m3lung/stow", {"Resources": web.lookup(uid), "Synchronous": True}
    )
    assert sent, node.logs()
    status = node.wait_until_delivered(uid)
    assert status.received == len(chest_series)
    assert assert_exactly_one_result_set(web, node.ledger_url, uid)[REPORT] == 1


def _received(node: Node, uid: str) -> int:
    found = node.series(uid)
    return found.received if found else 0


@pytest.mark.real_data
@pytest.mark.slow
def test_every_malformed_file_ends_as_by_c_store(tmp_path: Path, real_data: Path) -> None:
    """What `own class` in malformed.json says of C-STORE holds for a POST of the file."""
    corpus = real_data / "malformed"
    expected = {name: fate["own class"] for name, fate in json.loads(KEPT.read_text()).items()}
    node = PostingNode(tmp_path / "node")
    node.start()
    differing: list[str] = []
    try:
        with node.client() as client:
            for name, fate in sorted(expected.items()):
                answer = node.post([(corpus / name).read_bytes()], client=client)
                if not _is_the_same(answer, fate, node.instances()):
                    differing.append(f"{name}: {fate}; {answer.status} {answer.text}")
                assert node.is_running, name
        assert node.post([b"x"]).status == 409
    finally:
        node.stop()
    assert "\n".join(differing) == ""


def _is_the_same(answer: Answer, fate: str, held: Container[str]) -> bool:
    if fate.startswith("0x0000"):
        return answer.status == 200
    reasons = [*answer.failed.values(), *answer.others]
    if fate.startswith("0x"):
        return answer.status == 409 and reasons == [int(fate.split()[0], 16)]
    if answer.status == 200:
        # In what transfer syntax a thing comes that is thrown away does not matter here.
        return "context" in fate and not any(uid in held for uid in answer.stored)
    # No File Meta Information; a class or transfer syntax that no context was accepted for.
    return answer.status == 409 and reasons[0] in {0xC000, 0xC122, 0x0122, 0xA900}


def _port_answers(node: WebNode) -> bool:
    """Whether `m3lung check` finds the STOW-RS port open."""
    findings = json.loads(node.m3lung("check", "--json").stdout)["findings"]
    [ok] = [one["ok"] for one in findings if one["name"] == "STOW-RS"]
    return bool(ok)
