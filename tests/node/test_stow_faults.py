"""STOW-RS under trial: kills, full disks, slow senders, limits, TLS. Acknowledged is durable."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pydicom.dataset import Dataset

from dicom_node.spool import content_digest
from dicom_node.tls.certificates import make_authority, make_certificate
from support.failing_disk import FailingDisk
from support.listening import Rejected, ct_dataset, encode
from support.posting import PostingNode, body_of, part_10, raw_request, status_line


def digest_of(dataset: Dataset) -> str:
    return content_digest("1.2.840.10008.1.2.1", encode(dataset))


def assert_kept(node: PostingNode, acknowledged: dict[str, str]) -> None:
    """Check {SOP Instance UID: digest} against ledger and spool, byte by byte."""
    held = node.instances()
    for uid, digest in acknowledged.items():
        assert held[uid][0] == digest
        content = (node.spool / held[uid][1]).read_bytes()
        start = 144 + int.from_bytes(content[140:144], "little")
        assert content_digest("1.2.840.10008.1.2.1", content[start:]) == digest


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_kill_in_mid_post_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Two crash points, then a kill at any time under load; the senders come again."""
    node = PostingNode(tmp_path / "node")
    everything: list[Dataset] = []
    acknowledged: dict[str, str] = {}

    def post_until_it_dies() -> None:
        with contextlib.suppress(httpx.HTTPError), node.client() as client:
            while True:
                mine = [ct_dataset(number) for number in range(4)]
                everything.extend(mine)
                answer = node.post(map(part_10, mine), client=client)
                assert answer.status == 200
                acknowledged.update({str(one.SOPInstanceUID): digest_of(one) for one in mine})

    for point in ("listener.after_rename:6", "listener.after_commit:6", ""):
        node.environment["M3LUNG_CRASH_AT"] = point
        node.start()
        assert node.stow_port
        before = len(acknowledged)
        senders = [threading.Thread(target=post_until_it_dies) for _ in range(1 if point else 3)]
        for sender in senders:
            sender.start()
        if not point:
            node.wait_until(lambda before=before: len(acknowledged) >= before + 12)  # type: ignore[misc]
            os.kill(node.pid, signal.SIGKILL)
        assert node.wait_for_death() == -signal.SIGKILL
        node.kill()
        for sender in senders:
            sender.join(30)
            assert not sender.is_alive()
        assert len(acknowledged) > before
        assert_kept(node, acknowledged)

    del node.environment["M3LUNG_CRASH_AT"]
    node.start()
    try:
        with node.client() as client:
            assert node.post(map(part_10, everything), client=client).status == 200
        assert_kept(node, {str(one.SOPInstanceUID): digest_of(one) for one in everything})
        assert len(list(node.spool.glob("instances/*/*.dcm"))) == len(everything)
    finally:
        node.stop()


# -- disk, time, limits ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FailingDisk:
    return FailingDisk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, disk: FailingDisk) -> Iterator[PostingNode]:
    """A node with little patience, two associations, and a disk that fails on order."""
    made = PostingNode(
        tmp_path_factory.mktemp("frail"),
        stow={"max_request_bytes": 4 << 20},
        max_associations=2,
        handshake_timeout_s=1.0,
        pdu_timeout_s=1.5,
        idle_timeout_s=2.0,
    )
    made.environment |= disk.environment
    made.start()
    yield made
    made.stop()


def test_a_full_disk_is_never_success(node: PostingNode, disk: FailingDisk) -> None:
    before, refused, after = (ct_dataset(number) for number in range(3))
    assert node.post([part_10(before)]).status == 200
    disk.fail("fsync", errno.ENOSPC, ".dcm")
    try:
        answer = node.post([part_10(refused)])
    finally:
        disk.heal()
    uid = str(refused.SOPInstanceUID)
    assert (answer.status, answer.failed) == (503, {uid: 0xA700})
    assert answer.headers["Retry-After"] == "30"
    assert uid not in node.instances()
    assert not list((node.spool / "incoming").iterdir())
    assert node.post([part_10(after), part_10(refused)]).status == 200
    assert_kept(node, {str(one.SOPInstanceUID): digest_of(one) for one in (before, refused, after)})


def test_above_high_water_no_request_begins(tmp_path: Path) -> None:
    node = PostingNode(
        tmp_path / "high",
        sections="[retention]\nhigh_water_percent = 0.001\nlow_water_percent = 0.0005",
    )
    node.start()
    try:
        answer = node.post([part_10(ct_dataset(1))])
        assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
        assert "high-water mark" in answer.text
        with pytest.raises(Rejected):
            node.sender()
    finally:
        node.stop()


def test_a_body_larger_than_allowed_ends_without_being_read(node: PostingNode) -> None:
    one = part_10(ct_dataset(1))

    def endless() -> Iterator[bytes]:
        yield body_of([one], end=False) + b"--edge-of-a-part\r\n\r\n"
        while True:
            yield bytes(1 << 16)

    with contextlib.suppress(httpx.HTTPError):  # what was not sent yet cannot be sent any more
        answer = node.post_body(endless())
        assert answer.status == 413
        assert len(answer.stored) == 1
    assert "request_answered" in node.logged()
    assert not list((node.spool / "incoming").iterdir())


def trickle(connection: socket.socket) -> None:
    """Send a header that has no end, a byte now and then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        connection.send(b"P")
        time.sleep(0.05)


def test_who_is_silent_or_slow_is_shown_the_door(node: PostingNode) -> None:
    with node.raw() as silent, node.raw() as slow, node.raw() as stalled:
        stalled.sendall(raw_request(b"--edge", length=1000))
        with pytest.raises(ConnectionError):
            trickle(slow)
        silent.settimeout(30)
        assert silent.recv(100) == b""
        assert status_line(stalled) == 408


def test_a_request_takes_the_place_of_an_association(node: PostingNode) -> None:
    one = part_10(ct_dataset(1))
    body = body_of([one])
    with node.raw() as first, node.raw() as second:
        for connection in (first, second):
            connection.sendall(raw_request(length=len(body), Expect="100-continue"))
            assert status_line(connection) == 100
        third = node.post([one])
        assert (third.status, third.headers["Retry-After"]) == (503, "30")
        with pytest.raises(Rejected):
            node.sender()
        for connection in (first, second):
            connection.sendall(body)
            assert status_line(connection) == 200
    with node.sender() as sender:
        assert sender.store_dataset(ct_dataset(2)) == 0
    assert node.post([one]).status == 200


@pytest.mark.slow
def test_memory_does_not_grow_with_the_body(tmp_path: Path) -> None:
    node = PostingNode(tmp_path / "node")
    node.start()
    try:
        one = ct_dataset(1)
        assert node.post([part_10(one)]).status == 200
        process = psutil.Process(node.pid)
        before = process.memory_info().rss
        large = ct_dataset(2, PixelData=bytes(64 << 20))
        peak = 0
        over = threading.Event()

        def look() -> None:
            nonlocal peak
            while not over.wait(0.02):
                peak = max(peak, process.memory_info().rss)

        looking = threading.Thread(target=look)
        looking.start()
        answer = node.post([part_10(large)])
        over.set()
        looking.join()
        assert answer.status == 200
        assert peak - before < 24 << 20
    finally:
        node.stop()


def test_it_ends_in_order_and_lets_a_request_finish(tmp_path: Path) -> None:
    node = PostingNode(tmp_path / "node")
    node.start()
    one = ct_dataset(1)
    body = body_of([part_10(one)])
    with node.raw() as busy, node.raw() as idle:
        busy.sendall(raw_request(length=len(body), Expect="100-continue"))
        assert status_line(busy) == 100
        os.kill(node.pid, signal.SIGTERM)
        time.sleep(0.5)
        busy.sendall(body)
        assert status_line(busy) == 200
        idle.settimeout(30)
        assert idle.recv(1) == b""
    assert node.wait_for_death() == 0
    assert_kept(node, {str(one.SOPInstanceUID): digest_of(one)})


# -- TLS -------------------------------------------------------------------------------------------


def test_a_certificate_bound_to_a_peer_does_without_a_token(tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    make_authority(papers)
    for name in ("node", "sender", "other"):
        make_certificate(papers, name, ["127.0.0.1"], authority=papers)
    make_certificate(papers, "stranger", ["127.0.0.1"])

    def context(name: str | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(papers / "ca.pem"))
        if name is not None:
            made.load_cert_chain(papers / f"{name}.pem", papers / f"{name}.key")
        return made

    files = "\n".join(
        f'{field} = "{papers / name}"'
        for field, name in (("certificate", "node.pem"), ("key", "node.key"), ("ca", "ca.pem"))
    )
    secured = '[[peers]]\nname = "secure"\nae_title = "SECURE"\nroles = ["source"]\ntls = true\n'
    node = PostingNode(
        tmp_path / "node",
        stow={"tls": True},
        sections=f'{secured}certificate_name = "sender"\n[tls]\n{files}\nport = 0\n',
    )
    node.start()
    try:
        one = ct_dataset(1)
        assert node.post([part_10(one)], token=None, verify=context("sender")).status == 200
        assert ("SECURE",) in node.sql("select calling_ae from associations")
        # Another's certificate is nobody's here; a token does without one.
        assert node.post([part_10(one)], token=None, verify=context("other")).status == 401
        assert node.post([part_10(one)], token=None, verify=context(None)).status == 401
        assert node.post([part_10(one)], verify=context(None)).status == 200
        with pytest.raises(httpx.HTTPError):
            node.post([part_10(one)], verify=context("stranger"))
        with node.client() as client, pytest.raises(httpx.HTTPError):
            client.post(node.url.replace("https:", "http:"), content=b"")
    finally:
        node.stop()
