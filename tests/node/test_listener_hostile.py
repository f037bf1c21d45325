"""The listener against peers that are slow, silent, greedy or broken (PS3.8)."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom.uid import CTImageStorage

from dicom_node.ledger import open_ledger
from dicom_node.listener.server import AssociationServer, bind
from dicom_node.listener.storage import Storage
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool
from support.listening import (
    CT_CONTEXT,
    Aborted,
    ListeningNode,
    RawSender,
    Rejected,
    command,
    ct_dataset,
    encode,
    request_pdu,
    value_pdu,
)

A_ABORT = 7


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListeningNode]:
    listener = ListeningNode(
        tmp_path_factory.mktemp("hostile"),
        handshake_timeout_s=1.0,
        pdu_timeout_s=2.0,
        idle_timeout_s=3.0,
        max_associations=12,
        max_connections=200,
        max_connections_per_address=100,
    )
    listener.start()
    yield listener
    listener.stop()


def connect(node: ListeningNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), 20)


def seconds_until_closed(connection: socket.socket) -> float:
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    connection.close()
    return time.monotonic() - started


def test_silence_before_the_request_ends(node: ListeningNode) -> None:
    assert 0.8 < seconds_until_closed(connect(node)) < 2.5


@pytest.mark.parametrize("sent", [1, 5, 6, 40])
def test_half_a_request_then_silence_ends(node: ListeningNode, sent: int) -> None:
    connection = connect(node)
    connection.sendall(request_pdu(CT_CONTEXT)[:sent])
    assert seconds_until_closed(connection) < 4.5


def test_half_a_pdu_then_silence_ends(node: ListeningNode) -> None:
    sender = node.sender()
    sender.socket.sendall(value_pdu(1, 1, bytes(1000))[:500])
    assert 1.5 < seconds_until_closed(sender.socket) < 4.5


def test_a_byte_at_a_time_ends(node: ListeningNode) -> None:
    sender = node.sender()
    pdu = value_pdu(1, 1, bytes(1000))
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in pdu:
            sender.socket.sendall(bytes([byte]))
            time.sleep(0.2)
    sender.socket.close()
    assert time.monotonic() - started < 5.5


def test_an_idle_association_ends(node: ListeningNode) -> None:
    sender = node.sender()
    started = time.monotonic()
    assert sender.read_pdu()[0] == A_ABORT
    sender.socket.close()
    assert 2.5 < time.monotonic() - started < 4.5


@pytest.mark.parametrize("established", [False, True])
@pytest.mark.parametrize("kind", [1, 4, 5, 7])
@pytest.mark.parametrize("length", [0xFFFFFFFF, 2 << 20])
def test_announced_gigabytes_are_refused_at_once(
    node: ListeningNode, established: bool, kind: int, length: int
) -> None:
    before = psutil.Process(node.pid).memory_info().rss
    connection = node.sender().socket if established else connect(node)
    connection.sendall(struct.pack(">BxL", kind, length))
    with contextlib.suppress(ConnectionError):
        connection.sendall(bytes(1 << 20))
    started = time.monotonic()
    with contextlib.suppress(ConnectionError, Aborted):
        answer = connection.recv(10)
        assert answer[:1] in (b"", b"\x07")
    connection.close()
    assert time.monotonic() - started < 1
    assert psutil.Process(node.pid).memory_info().rss - before < 5e6


@pytest.mark.parametrize(
    "pdu",
    [
        b"\x63\x00\x00\x00\x00\x04\0\0\0\0",  # unknown type
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"\x02\x00\x00\x00\x00\x04\0\0\0\0",  # A-ASSOCIATE-AC
        b"\x04\x00\x00\x00\x00\x04\0\0\0\2",  # data before association
        b"\x05\x00\x00\x00\x00\x04\0\0\0\0",
        b"\x01\x00\x00\x00\x00\x44" + bytes(68),  # a request of zeros
        b"\x01\x00\x00\x00\x00\x04" + bytes(4),
    ],
)
def test_wrong_first_pdus(node: ListeningNode, pdu: bytes) -> None:
    connection = connect(node)
    connection.sendall(pdu)
    assert seconds_until_closed(connection) < 4
    assert node.echo_seconds() < 2


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0\0",  # a fragment of no length
        b"\0\0\0\1\1",
        b"\0\0\1\0\1\3abc",  # longer than its PDU
        b"\0\0\0\4\x63\3ab",  # a context that was not accepted
        b"\0\0\0\4\1\2ab",  # a dataset without command
        b"\0\0\0\6\1\3abcd",  # a command that is none
        b"\0\0\0\2\1\3",  # an empty command
    ],
)
def test_broken_data(node: ListeningNode, body: bytes) -> None:
    sender = node.sender()
    sender.socket.sendall(struct.pack(">BxL", 4, len(body)) + body)
    assert sender.read_pdu()[0] == A_ABORT
    sender.socket.close()


def test_an_endless_command_is_refused(node: ListeningNode) -> None:
    sender = node.sender()
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            sender.socket.sendall(value_pdu(1, 1, bytes(16000)))
        assert sender.read_pdu()[0] == A_ABORT
    assert seconds_until_closed(sender.socket) < 3


def test_abort_in_the_middle_leaves_nothing(node: ListeningNode) -> None:
    before = set(node.spool.rglob("*.dcm"))
    for ending in ("abort", "close", "reset"):
        sender = node.sender()
        sender.send_values(1, True, command(1, 1, CTImageStorage, "1.2.3", True))
        sender.socket.sendall(value_pdu(1, 0, bytes(50000)))
        if ending == "abort":
            sender.socket.sendall(b"\x07\x00\x00\x00\x00\x04\0\0\0\0")
        if ending == "reset":
            linger = struct.pack("ii", 1, 0)
            sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sender.socket.close()
    # First it has to have read all that was sent: an empty folder may be one that will be filled.
    deadline = time.monotonic() + 20
    while node.has_connections() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not node.has_connections()
    assert list((node.spool / "incoming").iterdir()) == []
    assert set(node.spool.rglob("*.dcm")) == before


def test_random_requests_and_data(node: ListeningNode) -> None:
    chance = random.Random(4711)
    good_request = request_pdu(CT_CONTEXT)
    dataset = ct_dataset(size=8)
    store = value_pdu(1, 3, command(1, 1, CTImageStorage, dataset.SOPInstanceUID, True))
    good_store = store + value_pdu(1, 2, encode(dataset))
    for number in range(150):
        damaged = bytearray(good_request if number % 2 else good_store)
        for _ in range(chance.randint(1, 12)):
            damaged[chance.randrange(6, len(damaged))] = chance.randrange(256)
        try:
            connection = connect(node) if number % 2 else node.sender().socket
        except Rejected:
            continue
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(damaged)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert node.echo_seconds() < 2
    assert "Traceback" not in node.logged()


def test_300_idle_connections_shut_nobody_out(node: ListeningNode) -> None:
    idle = []
    times = []
    try:
        for number in range(300):
            idle.append(connect(node))
            if number % 30 == 29:
                times.append(node.echo_seconds())
        times += [node.echo_seconds() for _ in range(10)]
        with node.sender() as sender:
            assert sender.store_dataset(ct_dataset()) == 0
        assert psutil.Process(node.pid).num_threads() < 220
        assert psutil.Process(node.pid).memory_info().rss < 150e6
    finally:
        for connection in idle:
            connection.close()
    assert max(times) < 2, times
    assert statistics.median(times) < 0.5


def test_the_cap_counts_associations_and_not_connections(node: ListeningNode) -> None:
    idle = [connect(node) for _ in range(40)]
    senders = [node.sender() for _ in range(12)]
    with pytest.raises(Rejected) as caught:
        node.sender()
    assert caught.value.reason == (2, 3, 2)
    for sender in senders[:3]:
        sender.release()
        sender.socket.close()
    assert node.echo_seconds() < 2
    for connection in [*idle, *(sender.socket for sender in senders[3:])]:
        connection.close()


def test_too_many_from_one_address(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "few", max_connections_per_address=3)
    node.start()
    try:
        senders = [node.sender() for _ in range(3)]
        with pytest.raises((Aborted, ConnectionError)):
            node.sender()
        for sender in senders:
            sender.socket.close()
        time.sleep(0.3)
        assert node.echo_seconds() < 2
    finally:
        node.stop()


def test_a_reader_of_nothing_blocks_nobody(node: ListeningNode) -> None:
    """A peer that asks and asks and never reads the answers."""
    sender = node.sender([("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])])
    sender.socket.settimeout(2)
    echo = value_pdu(1, 3, command(0x30, 1, "1.2.840.10008.1.1", None, False))
    with contextlib.suppress(OSError):
        while True:
            sender.socket.sendall(echo * 500)
    assert node.echo_seconds() < 2
    sender.socket.close()


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The server class with TLS, in this process; test_tls.py has it as a node is configured."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    settings = NodeSettings(
        state_dir=tmp_path,
        listener={"accept_unknown_callers": True, "handshake_timeout_s": 2, "min_free_bytes": 0},  # type: ignore[arg-type]
    )
    spool = Spool(settings.spool_dir)
    spool.prepare()
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    over = threading.Event()
    with open_ledger(settings.ledger_url) as ledger:
        storage = Storage(spool, ledger.intake, GroupCommit(spool, ledger.intake))
        server = AssociationServer(
            listening, storage, lambda: settings, ssl_context=lambda: context
        )
        thread = threading.Thread(target=server.serve, args=(over.is_set, 1.0))
        thread.start()
        yield port, ssl.create_default_context(cafile=str(certificate))
        over.set()
        thread.join()


class TLSSender(RawSender):
    """A sender whose connection is wrapped before the first PDU."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection
        try:
            socket.create_connection = lambda *a, **k: context.wrap_socket(  # type: ignore[assignment]
                plain(*a, **k), server_hostname="127.0.0.1"
            )
            super().__init__(port)
        finally:
            socket.create_connection = plain


def test_a_silent_tls_client_stops_nobody(tls_server: tuple[int, ssl.SSLContext]) -> None:
    port, context = tls_server
    silent = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(5)]
    plain = socket.create_connection(("127.0.0.1", port), 20)
    plain.sendall(request_pdu(CT_CONTEXT))
    started = time.monotonic()
    with TLSSender(port, context) as sender:
        assert sender.store_dataset(ct_dataset()) == 0
    assert time.monotonic() - started < 1
    for connection in [*silent, plain]:
        assert seconds_until_closed(connection) < 4
