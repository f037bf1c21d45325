"""TLS, mutual and bound to the AE title: listener, sender, and what the two say about failures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from dicom_node.audit import AuditTrail, records, verify
from dicom_node.cli.certs import app as certs_app
from dicom_node.cli.check import certificates
from dicom_node.delivery.connection_test import Step, StepResult, check_peer, echo
from dicom_node.errors import ConfigurationError
from dicom_node.settings import ListenerSettings, NodeSettings, Peer, TLSSettings, load_settings
from dicom_node.simulated_pacs import SimulatedPacs
from dicom_node.source_query import QueryFailed, count_instances
from dicom_node.tls import ServerContexts, server_context
from dicom_node.tls.certificates import make_authority, make_certificate, read_certificates
from support.listening import (
    CT_CONTEXT,
    Aborted,
    ListeningNode,
    RawSender,
    Rejected,
    ct_dataset,
    request_pdu,
    run_sender,
    value_pdu,
)
from support.peers import program
from support.ports import free_port

VERIFICATION = [("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])]


@dataclass(frozen=True)
class Papers:
    """Certificates of one CA, of another CA, and an expired one."""

    folder: Path

    def tls(self, name: str, *, ca: str = "ca", **more: Any) -> TLSSettings:
        return TLSSettings(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            ca=self.folder / f"{ca}.pem",
            **more,
        )

    def sha256(self, name: str) -> str:
        return read_certificates(self.folder / f"{name}.pem")[0].sha256

    def client(self, name: str | None, *, ca: str = "ca") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.folder / f"{ca}.pem")
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    make_authority(folder)
    for name in ("node", "sender", "other", "pacs"):
        make_certificate(folder, name, ["127.0.0.1"], authority=folder)
    make_certificate(folder, "rsa", authority=folder, key_type="rsa")
    make_certificate(folder, "selfsigned", ["127.0.0.1"])
    elsewhere = folder / "elsewhere"
    make_authority(elsewhere)
    make_certificate(elsewhere, "stranger", ["127.0.0.1"], authority=elsewhere)
    for suffix in ("pem", "key"):
        shutil.copy(elsewhere / f"stranger.{suffix}", folder)
    shutil.copy(elsewhere / "ca.pem", folder / "strangers-ca.pem")
    _make_expired(folder)
    return Papers(folder)


def _make_expired(folder: Path) -> None:
    make_certificate(folder, "expired", ["127.0.0.1"], authority=folder)
    (folder / "expired.pem").unlink()
    request = ["openssl", "req", "-new", "-key", "expired.key", "-subj", "/CN=expired"]
    made = subprocess.run(request, cwd=folder, capture_output=True, check=True).stdout
    (folder / "index").touch()
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=p\ncertificate=ca.pem\nprivate_key=ca.key\nrand_serial=yes\n[p]\ncommonName=supplied\n"
    )
    (folder / "expired.csr").write_bytes(made)
    subprocess.run(
        ["openssl", "ca", "-batch", "-config", "ca.cnf", "-in", "expired.csr",
         "-out", "expired.pem", "-startdate", "20200101000000Z",
         "-enddate", "20200201000000Z", "-notext"],
        cwd=folder, capture_output=True, check=True,
    )  # fmt: skip


# -- the listener ------------------------------------------------------------------------------


class TLSNode(ListeningNode):
    """A listener with both ports, and sources of every kind."""

    tls_port = 0

    def __init__(self, directory: Path, papers: Papers, *, required: bool = False) -> None:
        self.papers, self.required = papers, required
        super().__init__(
            directory,
            handshake_timeout_s=2.0,
            pdu_timeout_s=2.0,
            idle_timeout_s=4.0,
            max_connections=250,
            max_connections_per_address=250,
        )

    def write_config(self, callers: Any, **listener: Any) -> None:
        super().write_config((), **listener)
        folder, sha256 = self.papers.folder, self.papers.sha256
        self.config.write_text(
            self.config.read_text()
            + f"""
[tls]
certificate = "{folder / "node.pem"}"
key = "{folder / "node.key"}"
ca = "{folder / "ca.pem"}"
port = 0
required = {str(self.required).lower()}
[[peers]]
name = "plain"
ae_title = "PLAIN"
roles = ["source"]
[[peers]]
name = "bound"
ae_title = "SENDER"
roles = ["source"]
tls = true
certificate_sha256 = ["{sha256("sender")}"]
[[peers]]
name = "named"
ae_title = "NAMED"
roles = ["source"]
tls = true
certificate_name = "other"
[[peers]]
name = "far"
ae_title = "FAR"
roles = ["source"]
addresses = ["10.0.0.0/8"]
[[peers]]
name = "near"
ae_title = "NEAR"
roles = ["source"]
addresses = ["10.1.2.3", "127.0.0.0/8"]
"""
        )

    def _wait(self) -> None:
        name = "listener-tls.port"
        deadline = time.monotonic() + 30
        while not (self.state / name).exists():
            assert self.is_running
            assert time.monotonic() < deadline, "no port"
            time.sleep(0.03)
        self.tls_port = int((self.state / name).read_text())
        if not self.required:
            super()._wait()

    def secure(self, papers: Papers, certificate: str | None = "sender", **options: Any) -> Secure:
        ca = options.pop("ca", "ca")
        return Secure(self.tls_port, papers.client(certificate, ca=ca), **options)

    def secure_echo_seconds(self, papers: Papers) -> float:
        started = time.monotonic()
        with self.secure(papers, contexts=VERIFICATION) as sender:
            assert sender.echo() == 0
        return time.monotonic() - started

    def audited(self) -> list[str]:
        return [
            record["EventIdentification"].get("EventOutcomeDescription", "")
            for record in records(self.state / "audit")
        ]


class Secure(RawSender):
    """A sender whose connection is TLS from the first byte."""

    def __init__(self, port: int, context: ssl.SSLContext, **options: Any) -> None:
        plain = socket.create_connection

        def connected(*arguments: Any, **more: Any) -> ssl.SSLSocket:
            return context.wrap_socket(plain(*arguments, **more))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "create_connection", connected)
            super().__init__(port, options.pop("contexts", CT_CONTEXT), **options)


@pytest.fixture(scope="module")
def node(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSNode]:
    listener = TLSNode(tmp_path_factory.mktemp("tls-node"), papers)
    listener.start()
    yield listener
    listener.stop()


def test_a_bound_sender_stores_over_tls_and_releases_at_once(node: TLSNode, papers: Papers) -> None:
    with node.secure(papers) as sender:
        assert sender.socket.version() == "TLSv1.3"  # type: ignore[attr-defined]
        assert sender.store_dataset(ct_dataset()) == 0
    with node.secure(papers, "other", calling="NAMED") as sender:
        assert sender.store_dataset(ct_dataset()) == 0
    assert node.secure_echo_seconds(papers) < 1


def test_tls_1_2_has_forward_secrecy_and_aead(node: TLSNode, papers: Papers) -> None:
    context = papers.client("sender")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Secure(node.tls_port, context) as sender:
        suite = sender.socket.cipher()[0]  # type: ignore[attr-defined]
        assert sender.socket.version() == "TLSv1.2"  # type: ignore[attr-defined]
        assert suite.startswith("ECDHE")
        assert "GCM" in suite or "POLY1305" in suite
        assert sender.store_dataset(ct_dataset()) == 0


@pytest.mark.parametrize("ciphers", ["AES256-SHA256:AES128-SHA", "ECDHE+AES:!AESGCM", "DHE+AESGCM"])
def test_weaker_suites_and_older_versions_are_refused(
    node: TLSNode, papers: Papers, ciphers: str
) -> None:
    context = papers.client("sender")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with pytest.raises((ssl.SSLError, Aborted)):
        Secure(node.tls_port, context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_is_refused(node: TLSNode, papers: Papers) -> None:
    context = papers.client("sender")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Secure(node.tls_port, context)


@pytest.mark.parametrize(
    ("certificate", "calling", "words"),
    [
        ("other", "SENDER", "the certificate is not the one of bound"),  # another peer's
        ("sender", "NAMED", "the certificate is for sender, 127.0.0.1, not for other"),
        ("sender", "PLAIN", "no certificate is bound to it"),
        ("sender", "NOBODY", "no enabled source has this calling AE title"),
    ],
)
def test_a_certificate_of_somebody_else_is_rejected_and_audited(
    node: TLSNode, papers: Papers, certificate: str, calling: str, words: str
) -> None:
    with pytest.raises(Rejected) as caught:
        node.secure(papers, certificate, calling=calling)
    assert caught.value.reason == (1, 1, 3)
    wait_until(lambda: any(words in said for said in node.audited()))
    assert words in node.logged()


def test_a_bound_sender_may_not_call_in_the_clear(node: TLSNode) -> None:
    with pytest.raises(Rejected) as caught:
        node.sender(calling="SENDER")
    assert caught.value.reason == (1, 1, 3)
    assert "bound has to call over TLS" in node.logged()


def test_addresses_are_an_allow_list(node: TLSNode) -> None:
    with node.sender(calling="NEAR") as sender:
        assert sender.store_dataset(ct_dataset()) == 0
    with pytest.raises(Rejected) as caught:
        node.sender(calling="FAR")
    assert caught.value.reason == (1, 1, 3)
    wait_until(lambda: any("far does not call from" in said for said in node.audited()))


def wait_until(condition: Callable[[], bool]) -> None:
    """The record is written after the answer: an audit trail keeps nobody waiting."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def attempt(node: TLSNode, context: ssl.SSLContext) -> None:
    with pytest.raises((ssl.SSLError, Aborted, ConnectionError)):
        Secure(node.tls_port, context)


def test_handshakes_that_fail_are_told_and_audited(node: TLSNode, papers: Papers) -> None:
    attempt(node, papers.client(None))
    attempt(node, papers.client("stranger"))
    attempt(node, papers.client("expired"))
    attempt(node, papers.client("selfsigned"))
    plain = socket.create_connection(("127.0.0.1", node.tls_port), 10)
    plain.sendall(request_pdu(CT_CONTEXT))
    with contextlib.suppress(ConnectionError):
        while plain.recv(4096):
            pass
    plain.close()
    expected = [
        "TLS: the other side shows no certificate",
        "an unknown CA signed it",
        "it has expired",
        "it is self-signed",
        "TLS: the other side speaks no TLS on this port",
    ]
    for words in expected:
        wait_until(lambda words=words: any(words in said for said in node.audited()))  # type: ignore[misc]
    assert node.secure_echo_seconds(papers) < 2


def test_tls_on_the_plain_port_is_told(node: TLSNode, papers: Papers) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Secure(node.port, papers.client("sender"))
    wait_until(lambda: "a TLS handshake on the plain port" in node.logged())


# -- hostile peers, over TLS -------------------------------------------------------------------


def seconds_until_closed(connection: socket.socket) -> float:
    started = time.monotonic()
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    connection.close()
    return time.monotonic() - started


def hello(papers: Papers) -> bytes:
    """Return the first bytes that a good client sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = papers.client("sender").wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("sent", [0, 1, 5, 60, 10_000])
def test_half_a_handshake_ends(node: TLSNode, papers: Papers, sent: int) -> None:
    connection = socket.create_connection(("127.0.0.1", node.tls_port), 20)
    connection.sendall(hello(papers)[:sent])
    assert seconds_until_closed(connection) < 4.5


def test_a_handshake_a_byte_at_a_time_ends(node: TLSNode, papers: Papers) -> None:
    connection = socket.create_connection(("127.0.0.1", node.tls_port), 20)
    started = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in hello(papers):
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
    connection.close()
    assert time.monotonic() - started < 5.5


def test_silence_after_the_handshake_ends(node: TLSNode, papers: Papers) -> None:
    raw = socket.create_connection(("127.0.0.1", node.tls_port), 20)
    assert seconds_until_closed(papers.client("sender").wrap_socket(raw)) < 6


@pytest.mark.parametrize("established", [False, True])
def test_announced_gigabytes_are_refused_over_tls(
    node: TLSNode, papers: Papers, established: bool
) -> None:
    before = psutil.Process(node.pid).memory_info().rss
    if established:
        connection = node.secure(papers).socket
    else:
        raw = socket.create_connection(("127.0.0.1", node.tls_port), 20)
        connection = papers.client("sender").wrap_socket(raw)
    with contextlib.suppress(OSError):
        connection.sendall(struct.pack(">BxL", 4, 0xFFFFFFFF) + bytes(1 << 20))
    assert seconds_until_closed(connection) < 4
    assert psutil.Process(node.pid).memory_info().rss - before < 8e6


def test_half_a_pdu_over_tls_ends(node: TLSNode, papers: Papers) -> None:
    sender = node.secure(papers)
    sender.socket.sendall(value_pdu(1, 1, bytes(1000))[:500])
    assert 1.5 < seconds_until_closed(sender.socket) < 6


def test_noise_in_an_established_connection_ends_it(node: TLSNode, papers: Papers) -> None:
    sender = node.secure(papers)
    socket.socket.sendall(sender.socket, b"\x17\x03\x03\x00\x20" + bytes(32))  # below TLS
    assert seconds_until_closed(sender.socket) < 4
    assert node.secure_echo_seconds(papers) < 2


@pytest.mark.slow
def test_a_good_peer_is_served_among_hostile_ones(node: TLSNode, papers: Papers) -> None:
    """Silent, half, plain, strange, expired and tardy clients by the dozen, for some seconds."""
    stop = threading.Event()
    process = psutil.Process(node.pid)
    peak = [0]
    first = hello(papers)
    # Made once: loading them is this process's work, and it is the one that takes the times.
    strangers = [papers.client(name) for name in ("stranger", "expired", None)]
    good = papers.client("sender")

    def echo_seconds() -> float:
        started = time.monotonic()
        with Secure(node.tls_port, good, contexts=VERIFICATION) as sender:
            assert sender.echo() == 0
        return time.monotonic() - started

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    def hostile(kind: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, Aborted, Rejected):
                connection = socket.create_connection(("127.0.0.1", node.tls_port), 10)
                with connection:
                    if kind == 1:
                        connection.sendall(first[:100])
                    elif kind == 2:
                        connection.sendall(request_pdu(CT_CONTEXT))
                    elif kind in (3, 4, 5):
                        with strangers[kind - 3].wrap_socket(connection) as secure:
                            secure.recv(10)
                    stop.wait(0.5)

    held = [socket.create_connection(("127.0.0.1", node.tls_port), 20) for _ in range(100)]
    threads = [threading.Thread(target=hostile, args=(number % 6,)) for number in range(24)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    try:
        times = [echo_seconds() for _ in range(200)]
        with node.secure(papers) as sender:
            assert sender.store_dataset(ct_dataset()) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for connection in held:
            connection.close()
    p99 = statistics.quantiles(times, n=100)[98]
    print(f"C-ECHO over TLS: median {statistics.median(times):.3f} s, p99 {p99:.3f} s, "
          f"listener {peak[0] / 1e6:.0f} MB")  # fmt: skip
    assert p99 < 2, times
    assert peak[0] < 256e6
    assert "Traceback" not in node.logged()
    assert "association_failed" not in node.logged()


def test_the_trail_of_all_this_is_whole(node: TLSNode) -> None:
    verdict = verify(AuditTrail(node.state / "audit"))
    assert verdict.ok, verdict
    assert verdict.count > 10


# -- start, renewal, TLS only ------------------------------------------------------------------


def test_tls_alone_opens_no_plain_port(papers: Papers, tmp_path: Path) -> None:
    listener = TLSNode(tmp_path / "only", papers, required=True)
    listener.start()
    try:
        assert not (listener.state / "listener.port").exists()
        assert listener.secure_echo_seconds(papers) < 2
        ports = {
            one.laddr.port
            for one in psutil.Process(listener.pid).net_connections()
            if one.status == psutil.CONN_LISTEN
        }
        assert ports == {listener.tls_port}
    finally:
        listener.stop()


def test_wrong_files_stop_the_start_with_a_reason(papers: Papers, tmp_path: Path) -> None:
    folder = papers.folder
    text = f'state_dir = "state"\n[listener]\nport = {free_port()}\n[tls]\nport = 0\n'
    text += f'ca = "{folder}/ca.pem"\n'
    config = tmp_path / "node.toml"
    config.write_text(text + f'certificate = "{folder}/node.pem"\nkey = "{folder}/sender.key"\n')
    said = run_sender(sys.executable, "-m", "dicom_node", "listen", "--config", config)
    assert said.startswith("1\n")
    assert "key and certificate do not belong together" in said


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    papers: Papers, tmp_path: Path
) -> None:
    for name in ("node.pem", "node.key", "ca.pem"):
        shutil.copy(papers.folder / name, tmp_path)
    contexts = ServerContexts(Papers(tmp_path).tls("node"))
    first = contexts()
    assert contexts() is first
    (tmp_path / "node.pem").write_text("nonsense")
    assert contexts() is first
    shutil.copy(papers.folder / "pacs.pem", tmp_path / "node.pem")
    shutil.copy(papers.folder / "pacs.key", tmp_path / "node.key")
    assert contexts() is not first


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('[tls]\ncertificate = "a"', "belong together"),
        ("[tls]\nrequired = true", "required needs"),
        ('[[peers]]\nname = "p"\nae_title = "P"\ntls = true', "tls needs our own certificate"),
        ('[[peers]]\nname = "p"\nae_title = "P"\ncertificate_name = "x"', "tls = true or an https"),
        ('[[peers]]\nname = "p"\nae_title = "P"\naddresses = ["10.0.0.300"]', "nor a network"),
        ('[[peers]]\nname = "p"\nae_title = "P"\ncertificate_sha256 = ["ab"]', "64 hexadecimal"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, document: str, words: str) -> None:
    (tmp_path / "node.toml").write_text(document)
    with pytest.raises(ConfigurationError, match=words):
        load_settings(tmp_path / "node.toml")


def test_paths_and_fingerprints_are_taken_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(
        '[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\nca = "ca.pem"\n[[peers]]\nname = "p"\n'
        f'ae_title = "P"\ntls = true\ncertificate_sha256 = ["{":".join(["AB"] * 32)}"]\n'
    )
    settings = load_settings(tmp_path / "node.toml")
    assert settings.tls.certificate == tmp_path / "c.pem"
    assert settings.tls.key == Path("/k.pem")
    assert settings.peers[0].certificate_sha256 == ("ab" * 32,)


# -- the sender --------------------------------------------------------------------------------


@pytest.fixture
def secure_pacs(papers: Papers, tmp_path: Path) -> Iterator[SimulatedPacs]:
    context = server_context(papers.tls("pacs"))
    with SimulatedPacs(tmp_path / "pacs", ssl_context=context) as pacs:
        yield pacs


def ours(papers: Papers, name: str = "node", *, ca: str = "ca") -> NodeSettings:
    return NodeSettings(
        tls=papers.tls(name, ca=ca),
        listener=ListenerSettings(),
        delivery={"connect_timeout_s": 2, "response_timeout_s": 3},  # type: ignore[arg-type]
    )


def entry(port: int, *, host: str = "127.0.0.1", tls: bool = True, **more: Any) -> Peer:
    return Peer(name="pacs", ae_title="SIMPACS", host=host, port=port, tls=tls, **more)


def tls_step(settings: NodeSettings, peer: Peer) -> Step:
    return next(step for step in check_peer(settings, peer) if step.name == "TLS")


def test_results_go_over_tls_to_the_bound_peer(papers: Papers, secure_pacs: SimulatedPacs) -> None:
    for more in (
        {"certificate_sha256": (papers.sha256("pacs"),)},
        {"certificate_name": "pacs"},
        {},  # the host is in the certificate
    ):
        peer = entry(secure_pacs.port, query=True, **more)
        steps = check_peer(ours(papers), peer)
        assert {step.name: step.result for step in steps if step.result != "ok"} == {}
        assert "TLSv1.3" in next(step.words for step in steps if step.name == "TLS")
        assert count_instances(ours(papers), peer, "1.2", "1.3") == 0


def test_a_peer_with_another_certificate_gets_nothing(
    papers: Papers, secure_pacs: SimulatedPacs
) -> None:
    impostor = entry(secure_pacs.port, certificate_sha256=(papers.sha256("other"),))
    step = tls_step(ours(papers), impostor)
    assert step.result is StepResult.FAILED
    assert f"its SHA-256 is {papers.sha256('pacs')}" in step.words
    with pytest.raises(QueryFailed, match="not the one of pacs"):
        count_instances(ours(papers), impostor, "1.2", "1.3")
    named = tls_step(ours(papers), entry(secure_pacs.port, certificate_name="archive"))
    assert "for pacs, 127.0.0.1, not for archive" in named.words


def test_each_failing_step_is_told_in_words(
    papers: Papers, secure_pacs: SimulatedPacs, tmp_path: Path
) -> None:
    def words(settings: NodeSettings, port: int, **more: Any) -> str:
        step = tls_step(settings, entry(port, **more))
        assert step.result is StepResult.FAILED
        echoed = echo(settings, entry(port, **more))
        assert echoed.result is StepResult.FAILED
        return step.words

    port = secure_pacs.port
    assert "an unknown CA signed it" in words(ours(papers, ca="strangers-ca"), port)
    # A server says `unknown ca` to who cannot be verified, whatever the client itself trusts.
    both = papers.folder / "both.pem"
    both.write_text((papers.folder / "ca.pem").read_text())
    assert "does not know the CA of our certificate" in words(ours(papers, "stranger"), port)
    assert "our certificate has expired" in words(ours(papers, "expired"), port)
    context = server_context(papers.tls("expired"))
    with SimulatedPacs(tmp_path / "expired", ssl_context=context) as pacs:
        assert "it has expired" in words(ours(papers), pacs.port)
    with SimulatedPacs(tmp_path / "plain") as plain:
        assert "speaks no TLS" in words(ours(papers), plain.port)


def test_a_silent_peer_costs_the_connect_timeout(papers: Papers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        step = tls_step(ours(papers), entry(silent.getsockname()[1]))
        assert "did not end in time" in step.words
        assert time.monotonic() - started < 4


def test_we_speak_no_tls_to_a_peer_that_does(node: TLSNode, papers: Papers) -> None:
    step = echo(ours(papers), entry(node.tls_port, tls=False))
    assert step.result is StepResult.FAILED
    assert "speaks TLS on this port, set tls = true" in step.words
    associated = check_peer(ours(papers), entry(node.tls_port, tls=False))[-1]
    assert "speaks TLS on this port, set tls = true" in associated.words


def test_node_to_node(node: TLSNode, papers: Papers) -> None:
    settings = ours(papers, "sender").model_copy(update={"ae_title": "SENDER"})
    listener = Peer(name="node", ae_title="M3LUNG", port=node.tls_port, tls=True)
    assert echo(settings, listener).result is StepResult.OK
    wrong = ours(papers, "other").model_copy(update={"ae_title": "SENDER"})
    assert "does not know our AE title" in echo(wrong, listener).words


# -- DCMTK as a peer ---------------------------------------------------------------------------


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
@pytest.mark.parametrize("certificate", ["sender", "other"])
def test_dcmtk_sends_over_tls(
    node: TLSNode, papers: Papers, tmp_path: Path, profile: str, certificate: str
) -> None:
    path = tmp_path / "ct.dcm"
    dataset = ct_dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    folder = papers.folder
    said = run_sender(
        program("storescu"), "-v", "-aet", "SENDER", "-aec", "M3LUNG",
        "+tls", folder / f"{certificate}.key", folder / f"{certificate}.pem",
        "+cf", folder / "ca.pem", profile, "127.0.0.1", node.tls_port, path,
    )  # fmt: skip
    if certificate == "sender":
        assert said.startswith("0\n"), said
        assert str(dataset.SOPInstanceUID) in node.instances()
    else:
        assert "Calling AE Title Not Recognized" in said
        assert str(dataset.SOPInstanceUID) not in node.instances()


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("certificate", ["pacs", "rsa"])
def test_we_send_to_dcmtk_over_tls(papers: Papers, tmp_path: Path, certificate: str) -> None:
    port, folder = free_port(), papers.folder
    server = subprocess.Popen(
        [str(program("storescp")), "+tls", str(folder / f"{certificate}.key"),
         str(folder / f"{certificate}.pem"), "+cf", str(folder / "ca.pem"), "-rc",
         "-od", str(tmp_path), str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        peer = entry(port, certificate_name=certificate)
        while (step := echo(ours(papers), peer)).result is not StepResult.OK:
            assert time.monotonic() < deadline, step
            time.sleep(0.1)
    finally:
        server.kill()
        server.wait()


# -- m3lung certs ------------------------------------------------------------------------------


def test_certs_make_and_show(tmp_path: Path) -> None:
    out = str(tmp_path / "certs")
    made = CliRunner().invoke(certs_app, ["make", "--out", out, "--name", "node", "--ca"])
    assert made.exit_code == 0, made.output
    assert "[tls]" in made.output
    again = CliRunner().invoke(certs_app, ["make", "--out", out, "--name", "pacs"])
    assert "m3lung trial CA certs" in again.output
    shown = CliRunner().invoke(certs_app, ["show", f"{out}/pacs.pem", "--json"])
    (found,) = json.loads(shown.stdout)
    encoded = ssl.PEM_cert_to_DER_cert(Path(out, "pacs.pem").read_text())
    assert found["sha256"] == hashlib.sha256(encoded).hexdigest()
    assert 364 < found["days_left"] <= 365
    assert Path(out, "pacs.key").stat().st_mode & 0o077 == 0
    twice = CliRunner().invoke(certs_app, ["make", "--out", out, "--name", "pacs"])
    assert isinstance(twice.exception, ConfigurationError)


def test_certs_show_says_that_one_has_expired(papers: Papers) -> None:
    shown = CliRunner().invoke(certs_app, ["show", str(papers.folder / "expired.pem")])
    assert shown.exit_code == 3
    assert "EXPIRED" in shown.output


def test_check_warns_before_a_certificate_expires(papers: Papers, tmp_path: Path) -> None:
    make_certificate(tmp_path, "soon", days=20)
    for name, ok, words in (
        ("node", True, "expires in 36"),
        ("expired", False, "HAS EXPIRED"),
        ("soon", False, "renew it now"),
    ):
        folder = tmp_path if name == "soon" else papers.folder
        tls = TLSSettings(
            certificate=folder / f"{name}.pem",
            key=folder / f"{name}.key",
            ca=papers.folder / "ca.pem",
        )
        found = {one.name: one for one in certificates(NodeSettings(tls=tls))}
        assert found["TLS certificate"].ok is ok
        assert words in found["TLS certificate"].words
        assert found["TLS trusted certificate"].ok
        assert found["TLS key"].ok
