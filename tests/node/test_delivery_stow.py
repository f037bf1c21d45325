"""Shipments by STOW-RS: to a real Orthanc with its DICOMweb plugin, and to servers that say no."""

from __future__ import annotations

import io
import json
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless

from dicom_node.delivery.connection_test import check_peer, is_healthy, probe
from dicom_node.delivery.outcome import Outcome
from dicom_node.delivery.qido import list_by_qido
from dicom_node.delivery.shipment import PendingDelivery, Shipped
from dicom_node.delivery.stow_answer import Other, read_answer
from dicom_node.delivery.stow_shipping import ship_by_stow
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import QueryFailed
from support.delivery_objects import overlays, pending, report
from support.orthanc import Orthanc
from support.ports import free_port

TOKEN = "token-of-the-node"


def settings_of(peer: Peer, **fields: Any) -> NodeSettings:
    delivery = {"connect_timeout_s": 5, "response_timeout_s": 10}
    return NodeSettings(peers=(peer,), delivery=delivery, **fields)


def peer_of(url: str, **fields: Any) -> Peer:
    return Peer(name="web", ae_title="WEBPACS", stow_url=url, roles=["destination"], **fields)


class Sent:
    """What a shipment came to."""

    def __init__(self, shipment: list[PendingDelivery], peer: Peer, **fields: Any) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.objects: dict[int, int | None] = {}
        self.chosen: list[tuple[int, ...]] = []
        self.shipped: Shipped = ship_by_stow(
            shipment,
            peer,
            settings_of(peer, **fields),
            choose=lambda *ids: self.chosen.append(ids),
            record=self._record,
        )

    def _record(self, delivery: int, object_id: int | None, outcome: Outcome) -> None:
        assert delivery not in self.outcomes
        self.outcomes[delivery] = outcome
        self.objects[delivery] = object_id

    @property
    def events(self) -> list[str]:
        return [str(self.outcomes[number].event) for number in sorted(self.outcomes)]

    @property
    def words(self) -> set[str]:
        return {outcome.words for outcome in self.outcomes.values()}


# -- a real PACS -----------------------------------------------------------------------------------


@pytest.fixture
def web(orthanc: Orthanc) -> Orthanc:
    if not orthanc.has_dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed (make peers)")
    return orthanc


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize(
    ("compress", "syntax"),
    [
        ("none", ExplicitVRLittleEndian),
        ("lossless", JPEGLSLossless),
        ("jpeg", JPEGBaseline8Bit),
    ],
)
def test_results_arrive_once_whatever_is_repeated(
    web: Orthanc, tmp_path: Path, compress: str, syntax: str
) -> None:
    shipment = [*overlays(tmp_path, 3, size=256), pending(4, "report", report(tmp_path))]
    peer = peer_of(f"{web.url}/dicom-web/studies", compress=compress)
    for _ in range(2):
        sent = Sent(shipment, peer)
        assert sent.events == ["accepted"] * 4, sent.words
        assert sent.shipped.peer_failure == ""
        assert sent.outcomes[1].transfer_syntax_uid == syntax
        assert web.instance_count() == 4
    (instance,) = web.lookup(shipment[0].candidates[0].sop_instance_uid)
    held = dcmread(io.BytesIO(web.download(instance)))
    original = dcmread(shipment[0].candidates[0].path)
    assert held.file_meta.TransferSyntaxUID == syntax
    difference = np.abs(held.pixel_array.astype(int) - original.pixel_array)
    assert difference.max() == 0 if compress != "jpeg" else difference.mean() < 5
    if compress == "none":
        assert web.download(instance) == shipment[0].candidates[0].path.read_bytes()


@pytest.mark.peer("orthanc")
def test_the_connection_test_finds_a_good_pacs_and_qido_lists_what_it_holds(
    web: Orthanc, tmp_path: Path
) -> None:
    peer = peer_of(f"{web.url}/dicom-web/studies", verify="qido")
    settings = settings_of(peer)
    steps = check_peer(settings, peer)
    assert is_healthy(steps), steps
    assert [step.name for step in steps] == [
        "name resolution", "TCP", "TLS", "HTTP", "authentication", "STOW-RS", "QIDO-RS",
    ]  # fmt: skip
    assert web.instance_count() == 0
    assert probe(settings, peer).result == "ok"
    shipment = overlays(tmp_path, 3)
    uids = {one.candidates[0].sop_instance_uid for one in shipment}
    header = dcmread(shipment[0].candidates[0].path, stop_before_pixels=True)
    asked = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
    assert list_by_qido(settings, peer, *asked) == frozenset()
    Sent(shipment, peer)
    assert list_by_qido(settings, peer, *asked) == uids
    web.kill()
    with pytest.raises(QueryFailed, match="no connection"):
        list_by_qido(settings, peer, *asked)
    assert probe(settings, peer).result == "failed"


@pytest.mark.peer("orthanc")
def test_a_wrong_password_is_told_and_a_right_one_taken(tmp_path: Path) -> None:
    pacs = Orthanc(
        tmp_path / "locked",
        options={"AuthenticationEnabled": True, "RegisteredUsers": {"node": "secret"}},
    )
    if not pacs.has_dicomweb:
        pytest.skip("Orthanc's DICOMweb plugin is not installed (make peers)")
    pacs._ready = lambda: _until_it_answers(pacs)  # its own check knows no password
    pacs.start()
    try:
        peer = peer_of(f"{pacs.url}/dicom-web/studies")
        shipment = overlays(tmp_path, 3)
        wrong = {"credentials": {"web": {"user": "node", "password": "guess"}}}
        sent = Sent(shipment, peer, **wrong)
        assert sent.events == ["permanent"] * 3
        assert any("M3LUNG_CREDENTIALS__WEB__" in words for words in sent.words)
        found = {step.name: step for step in check_peer(settings_of(peer, **wrong), peer)}
        assert found["HTTP"].result == "ok"
        assert found["authentication"].result == "failed"
        assert "(HTTP 401)" in found["authentication"].words
        right = {"credentials": {"web": {"user": "node", "password": "secret"}}}
        assert Sent(shipment, peer, **right).events == ["accepted"] * 3
        assert is_healthy(check_peer(settings_of(peer, **right), peer))
    finally:
        pacs.kill()


def _until_it_answers(pacs: Orthanc) -> None:
    import socket

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", pacs.http_port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError


# -- servers that answer as they are told ----------------------------------------------------------

Answer = Callable[[int, bytes], tuple[int, bytes]]


class WebServer:
    """An HTTP server whose answers a test makes of (number of the request, body)."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._say(body)

            def do_GET(self) -> None:
                self._say(b"")

            def _say(self, body: bytes) -> None:
                outer.requests.append((dict(self.headers), body))
                status, content = answer(len(outer.requests), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        scheme = "http"
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://localhost:{self.server.server_port}/dicom-web/studies"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., WebServer]]:
    servers: list[WebServer] = []

    def start(answer: Answer, context: ssl.SSLContext | None = None) -> WebServer:
        servers.append(WebServer(answer, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def uid_in(body: bytes) -> str:
    start = body.index(b"\r\n\r\n") + 4
    return str(dcmread(io.BytesIO(body[start:]), stop_before_pixels=True).SOPInstanceUID)


def response(*, stored: dict[str, int | None], failed: dict[str, int] | None = None) -> bytes:
    """A Store Instances Response in DICOM JSON."""

    def item(uid: str, tag: str, reason: int | None) -> dict[str, Any]:
        found: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is not None:
            found[tag] = {"vr": "US", "Value": [reason]}
        return found

    dataset = {
        "00081199": {
            "vr": "SQ",
            "Value": [item(uid, "00081196", reason) for uid, reason in stored.items()],
        },
        "00081198": {
            "vr": "SQ",
            "Value": [item(uid, "00081197", reason) for uid, reason in (failed or {}).items()],
        },
    }
    return json.dumps(dataset).encode()


# Restated by hand: HTTP status, failure reason, warning reason → event.
@pytest.mark.parametrize(
    ("status", "failed", "warned", "event", "other"),
    [
        (200, None, None, "accepted", "nothing"),
        (202, None, 0xB000, "accepted", "nothing"),  # coerced
        (202, None, 0xB00E, "accepted", "nothing"),  # one product's "held already"
        (409, 0x0111, None, "accepted", "nothing"),  # duplicate SOP instance
        (202, 0xA700, None, "transient", "nothing"),
        (409, 0xA7FF, None, "transient", "nothing"),
        (409, 0x0110, None, "transient", "nothing"),
        (409, 0x0213, None, "transient", "nothing"),
        (409, 0xA900, None, "permanent", "nothing"),
        (409, 0xC000, None, "permanent", "nothing"),
        (409, 0xC122, None, "permanent", "transfer syntax"),
        (409, 0x0122, None, "permanent", "SOP class"),
        (409, 0x0124, None, "permanent", "nothing"),
        (409, 0x0000, None, "permanent", "nothing"),
    ],
)
def test_reasons(
    status: int, failed: int | None, warned: int | None, event: str, other: str
) -> None:
    stored = {} if failed is not None else {"1.2": warned}
    body = response(stored=stored, failed={} if failed is None else {"1.2": failed})
    answer = read_answer(status, body, "1.2")
    assert (str(answer.event), answer.other.value) == (event, other)
    assert not answer.concerns_all


@pytest.mark.parametrize(
    ("status", "event", "concerns_all"),
    [
        (200, "accepted", False),
        (202, "transient", False),
        (409, "permanent", False),
        *((status, "permanent", False) for status in (204, 299, 400, 413, 415, 422)),
        *((status, "permanent", True) for status in (301, 308, 401, 403, 404, 405, 406, 410, 501)),
        *((status, "transient", False) for status in (408, 425, 429, 500, 502, 503, 504, 507, 599)),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1, null]", b'{"00081198": 3}', b"[" * 9999])
def test_statuses(status: int, event: str, concerns_all: bool, body: bytes) -> None:
    answer = read_answer(status, body, "1.2", credentials="M3LUNG_X")
    assert (str(answer.event), answer.concerns_all) == (event, concerns_all)
    assert f"(HTTP {status})" in answer.words
    assert (answer.other is Other.TRANSFER_SYNTAX) is (status == 415)


def test_what_one_request_looks_like(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda _n, body: (200, response(stored={uid_in(body): None})))
    [delivery] = overlays(tmp_path, 1)
    credentials = {"web": {"token": TOKEN}}
    sent = Sent([delivery], peer_of(server.url, compress="none"), credentials=credentials)
    assert sent.events == ["accepted"]
    assert sent.chosen == [(1, 10)]
    [(headers, body)] = server.requests
    kind, _, boundary = headers["Content-Type"].partition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    assert headers["Accept"].startswith("application/dicom+json")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Transfer-Encoding" not in headers
    content = delivery.candidates[0].path.read_bytes()
    assert body == (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )


def test_a_refused_transfer_syntax_is_not_offered_again(serve: Any, tmp_path: Path) -> None:
    def answer(_number: int, body: bytes) -> tuple[int, bytes]:
        start = body.index(b"\r\n\r\n") + 4
        dataset = dcmread(io.BytesIO(body[start:]), stop_before_pixels=True)
        if dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian:
            return 200, response(stored={str(dataset.SOPInstanceUID): None})
        return 409, response(stored={}, failed={str(dataset.SOPInstanceUID): 0xC122})

    server = serve(answer)
    sent = Sent(overlays(tmp_path, 3), peer_of(server.url, compress="lossless"))
    assert sent.events == ["accepted"] * 3
    assert len(server.requests) == 4 + 2  # JPEG-LS, JPEG 2000, RLE, then as they are stored
    assert sent.outcomes[3].transfer_syntax_uid == ExplicitVRLittleEndian


def test_a_refused_sop_class_goes_as_the_next_alternative(serve: Any, tmp_path: Path) -> None:
    def answer(number: int, body: bytes) -> tuple[int, bytes]:
        if number == 1:
            return 409, response(stored={}, failed={uid_in(body): 0x0122})
        return 200, response(stored={uid_in(body): None})

    server = serve(answer)
    sent = Sent([pending(1, "report", report(tmp_path))], peer_of(server.url))
    assert sent.events == ["accepted"]
    assert sent.chosen == [(1, 10), (1, 11, 10)]  # 88.33 in place of 88.34
    assert sent.objects == {1: 11}


def test_exactly_the_failed_object_is_left(serve: Any, tmp_path: Path) -> None:
    def answer(number: int, body: bytes) -> tuple[int, bytes]:
        if number == 2:
            return 202, response(stored={}, failed={uid_in(body): 0xA700})
        return 200, response(stored={uid_in(body): None})

    server = serve(answer)
    sent = Sent(overlays(tmp_path, 4), peer_of(server.url))
    assert sent.events == ["accepted", "transient", "accepted", "accepted"]
    assert sent.shipped.peer_failure == ""
    assert sent.outcomes[2].status == 0xA700


def test_a_busy_peer_is_left_alone_after_three(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda _n, _body: (503, b"later"))
    sent = Sent(overlays(tmp_path, 6), peer_of(server.url))
    assert sent.events == ["transient"] * 6
    assert len(server.requests) == 3
    assert "busy" in sent.shipped.peer_failure
    assert probe(settings_of(peer_of(server.url)), peer_of(server.url)).result == "failed"


def test_a_redirection_takes_nothing_along(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda _n, _body: (307, b""))
    credentials = {"web": {"token": TOKEN}}
    sent = Sent(overlays(tmp_path, 3), peer_of(server.url), credentials=credentials)
    assert sent.events == ["permanent"] * 3
    assert len(server.requests) == 1
    assert any("another address" in words for words in sent.words)


def test_nobody_there(tmp_path: Path) -> None:
    peer = peer_of(f"http://127.0.0.1:{free_port()}/dicom-web/studies")
    sent = Sent(overlays(tmp_path, 5), peer)
    assert sent.events == ["transient"] * 5
    assert "no connection: Connection refused" in sent.shipped.peer_failure
    steps = check_peer(settings_of(peer), peer)
    assert [(step.name, str(step.result)) for step in steps][-1] == ("TCP", "failed")


def test_an_altered_file_is_not_sent(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda _n, body: (200, response(stored={uid_in(body): None})))
    shipment = overlays(tmp_path, 2)
    path = shipment[0].candidates[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    sent = Sent(shipment, peer_of(server.url))
    assert sent.events == ["bad_object", "accepted"]


def test_memory_does_not_grow_with_the_object(serve: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def answer(_number: int, body: bytes) -> tuple[int, bytes]:
        seen.append(len(body))
        return 200, response(stored={})

    server = serve(answer)
    shipment = overlays(tmp_path, 1, size=4096)  # 48 MB
    peer = peer_of(server.url, compress="none")
    tracemalloc.start()
    try:
        server.server.RequestHandlerClass.do_POST = _swallow  # type: ignore[attr-defined]
        sent = Sent(shipment, peer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent.events == ["accepted"]
    assert peak < 12 << 20


def _swallow(handler: BaseHTTPRequestHandler) -> None:
    left = int(handler.headers["Content-Length"])
    while left:
        left -= len(handler.rfile.read(min(left, 1 << 16)))
    handler.send_response(200)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    from dicom_node.tls.certificates import make_authority, make_certificate

    folder = tmp_path / "certs"
    make_authority(folder)
    make_certificate(folder, "node", authority=folder)
    make_certificate(folder, "localhost", authority=folder)
    make_certificate(folder, "other", authority=folder)
    return folder


def test_https_checks_the_name_or_the_fingerprint(
    serve: Any, tmp_path: Path, certificates: Path
) -> None:
    from dicom_node.tls.certificates import read_certificates

    def server_with(name: str) -> WebServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED  # ours is shown
        server: WebServer = serve(
            lambda _n, body: (200, response(stored={uid_in(body): None} if body else {})), context
        )
        return server

    tls = {
        "certificate": certificates / "node.pem",
        "key": certificates / "node.key",
        "ca": certificates / "ca.pem",
    }
    good, bad = server_with("localhost"), server_with("other")
    shipment = overlays(tmp_path, 1)
    assert Sent(shipment, peer_of(good.url), tls=tls).events == ["accepted"]
    sent = Sent(shipment, peer_of(bad.url), tls=tls)
    assert sent.events == ["transient"]
    assert "no TLS connection" in sent.shipped.peer_failure
    steps = {
        step.name: step
        for step in check_peer(settings_of(peer_of(bad.url), tls=tls), peer_of(bad.url))
    }
    assert steps["TLS"].result == "failed"
    assert "HTTP" not in steps
    [certificate] = read_certificates(certificates / "other.pem")
    named = peer_of(bad.url, certificate_sha256=[certificate.sha256])
    assert Sent(shipment, named, tls=tls).events == ["accepted"]
    wrong = peer_of(good.url, certificate_sha256=[certificate.sha256])
    assert Sent(shipment, wrong, tls=tls).events == ["transient"]
    steps = {step.name: step for step in check_peer(settings_of(named, tls=tls), named)}
    assert steps["TLS"].result == "ok", steps["TLS"]
    # Without [tls] the system's authorities hold, and they do not know ours.
    assert Sent(shipment, peer_of(good.url)).events == ["transient"]
    assert len(bad.requests) >= 1
