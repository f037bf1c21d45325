"""Notifications, over a real mail server and a real HTTP server: told once, grouped, discreet."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from typer.testing import CliRunner

from dicom_node.cli.app import assemble
from dicom_node.errors import ConfigurationError
from dicom_node.ledger import Ledger, open_ledger, tables
from dicom_node.ledger.shipments import BreakerRow
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.notifications import Notifier
from dicom_node.settings import NodeSettings, load_settings
from dicom_node.tls.certificates import make_authority, make_certificate
from support.ledger_life import CANARIES, Clock, LedgerLife
from support.ports import free_port

SECRET = "0123456789abcdef-secret"
TO = "admin@hospital.example"


class MailBox:
    """Takes mail, or misbehaves as told."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answers: list[str] = []  # in place of taking, one for each mail
        self.on_data: Callable[[], None] = lambda: None

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("nobody"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answers:
            return self.answers.pop(0)
        self.mails.append(
            email.message_from_bytes(envelope.content, policy=email.policy.default)  # type: ignore[arg-type]
        )
        self.on_data()
        return "250 taken"

    def text(self) -> str:
        return "".join(mail.get_content() for mail in self.mails)


def _authenticate(
    _server: Any, _session: Any, _envelope: Any, _kind: str, login: Any
) -> AuthResult:
    right = isinstance(login, LoginPassword) and login.password == b"right"
    return AuthResult(success=right, handled=right)


@contextlib.contextmanager
def mail_server(
    box: MailBox, certificate: Path | None = None, *, starttls: bool = True
) -> Iterator[int]:
    """A mail server in a thread; with `certificate` it wants STARTTLS and a login, or TLS."""
    options: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        if starttls:
            options = {
                "tls_context": context, "require_starttls": True,
                "authenticator": _authenticate, "auth_required": True,
            }  # fmt: skip
        else:
            options = {"ssl_context": context}
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield int(controller.port)
    finally:
        controller.stop()


class Hook(ThreadingHTTPServer):
    """Takes POSTs, or answers as told."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        super().__init__(("127.0.0.1", 0), _HookHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _HookHandler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 204
        if status < 300:
            named = {name.lower(): value for name, value in self.headers.items()}
            self.server.posts.append((named, body))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Undo what a verb sets up: its stream is gone with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("dicom_node").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def box() -> MailBox:
    return MailBox()


@pytest.fixture
def mail_port(box: MailBox) -> Iterator[int]:
    with mail_server(box) as port:
        yield port


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite3'}"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgresql_url"))
    with open_ledger(url, clock=clock) as opened:
        yield opened


@pytest.fixture
def life(ledger: Ledger) -> LedgerLife:
    return LedgerLife(ledger)


class Told:
    """A notifier whose settings a test changes."""

    def __init__(self, ledger: Ledger, clock: Clock, **document: Any) -> None:
        self.ledger, self.clock = ledger, clock
        self.document = document
        self.notifier = Notifier(self.settings, ledger)

    def settings(self) -> NodeSettings:
        return NodeSettings(**self.document)

    def sweep(self, after_s: float = 60.0) -> int:
        """Have it look, think it over, and look again."""
        sent = self.notifier.sweep()
        self.clock.now += after_s
        return sent + self.notifier.sweep()

    def states(self) -> list[tuple[str, str, int]]:
        m = tables.messages.c
        with self.ledger.database.read() as connection:
            rows = connection.execute(sa.select(m.channel, m.state, m.attempts).order_by(m.id))
            return [tuple(row) for row in rows]


@pytest.fixture
def document(tmp_path: Path, mail_port: int, hook: Hook) -> dict[str, Any]:
    return {
        "state_dir": tmp_path / "state",
        "listener": {"min_free_bytes": 0},
        "retention": {"low_water_percent": 100.0, "high_water_percent": 100.0},
        "notifications": {"group_s": 10.0, "interval_s": 600.0},
        "mail": {
            "host": "127.0.0.1", "port": mail_port, "security": "none",
            "sender": "node@hospital.example", "to": [TO], "timeout_s": 20.0,
        },
        "webhook": {"url": hook.url, "secret": SECRET, "timeout_s": 20.0},
        "peers": [{"name": "pacs", "ae_title": "PACS"}],
    }  # fmt: skip


@pytest.fixture
def told(ledger: Ledger, clock: Clock, document: dict[str, Any]) -> Told:
    return Told(ledger, clock, **document)


def test_a_failure_is_told_once_over_each_channel(
    told: Told, life: LedgerLife, box: MailBox, hook: Hook
) -> None:
    life.set_aside("the images of the series belong to several patients", skipped=False)
    life.set_aside("the images are a localizer (scout view)", skipped=True)  # no failure
    assert told.notifier.sweep() == 0  # others may follow
    assert told.sweep() == 2
    assert told.sweep(after_s=3600.0) == 0
    [mail] = box.mails
    assert mail["Subject"] == "[M3LUNG] 1 series cannot be analysed"
    assert mail["To"] == TO
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "belong to several patients" in mail.get_content()
    [(headers, body)] = hook.posts
    said = json.loads(body)
    assert said["type"] == "m3lung.notification"
    assert [event["occasion"] for event in said["data"]["events"]] == ["rejected"]
    assert told.states() == [("mail", "sent", 1), ("webhook", "sent", 1)] or told.states() == [
        ("webhook", "sent", 1), ("mail", "sent", 1)
    ]  # fmt: skip
    # The signature is that of Standard Webhooks.
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_every_kind_of_failure_has_its_words(
    told: Told, life: LedgerLife, box: MailBox, ledger: Ledger, clock: Clock
) -> None:
    life.rejected_by_pixels()
    life.failed(2, most=2)
    life.analysed("pacs")
    life.deliver(DeliveryEvent.PERMANENT, DeliveryEvent.BAD_OBJECT)
    ledger.shipments.set_breaker(BreakerRow("pacs", "open", 4, clock.now + 60, "CANARY-ID said so"))
    told.document["retention"] = {"low_water_percent": 0.001, "high_water_percent": 100.0}
    told.sweep()
    [mail] = box.mails
    text = mail.get_content()
    assert "An image cannot be decoded." in text
    assert "was set aside: it failed" in text
    assert "pacs: 1 objects parked until somebody changes something, 1 objects that cannot" in text
    assert "destination pacs failed 4 times in a row" in text
    assert "the disk is nearly full" in text
    for canary in CANARIES:
        assert canary not in text + mail["Subject"]


def test_what_is_wrong_is_told_when_it_begins_and_when_it_is_over(
    told: Told, box: MailBox, ledger: Ledger, clock: Clock
) -> None:
    ledger.shipments.set_breaker(BreakerRow("pacs", "open", 3, clock.now + 60, "refused"))
    for state in ("half_open", "open", "half_open"):
        told.sweep(after_s=700.0)
        ledger.shipments.set_breaker(BreakerRow("pacs", state, 9, clock.now + 60, "refused"))
    assert len(box.mails) == 1
    ledger.shipments.set_breaker(BreakerRow("pacs", "closed", 0, 0.0, ""))
    told.sweep(after_s=700.0)
    assert len(box.mails) == 2
    assert "destination pacs answers again" in box.mails[1].get_content()


def test_a_storm_is_one_message(told: Told, life: LedgerLife, box: MailBox, hook: Hook) -> None:
    for _ in range(60):
        life.set_aside("the images belong to several series", skipped=False)
        told.notifier.sweep()
    told.sweep()
    [mail] = box.mails
    assert mail["Subject"] == "[M3LUNG] 60 series cannot be analysed"
    assert "… and 40 more" in mail.get_content()
    life.set_aside("the images belong to several series", skipped=False)
    told.sweep(after_s=300.0)
    assert len(box.mails) == 1  # too soon for another
    told.sweep(after_s=400.0)
    assert len(box.mails) == len(hook.posts) == 2


def reading(predicted: str, probability: float, training: str = "site") -> dict[str, Any]:
    return {
        "patient": {"predicted": predicted, "probabilities": {predicted: probability}},
        "model": {"training": training},
    }


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (reading("covid19", 0.93), "was read as COVID-19, 93%"),
        (reading("cap", 0.7, "demonstration"), "was read as CAP, 70% by a demonstration model"),
        (reading("healthy", 0.99), None),
        (reading("covid19", 0.4), None),
        (reading("covid19", 0.93, "untrained"), None),  # its output means nothing
        ({"patient": None}, None),
    ],
)
def test_a_positive_reading_is_told_where_it_is_wanted(
    told: Told, life: LedgerLife, box: MailBox, result: dict[str, Any], words: str | None
) -> None:
    life.analysed(result=result)
    told.sweep()
    assert box.mails == []  # not by default
    told.document["notifications"] |= {"occasions": ["positive"]}
    life.analysed(result=result)
    life.rejected_by_pixels()
    told.sweep()
    assert len(box.mails) == (words is not None)
    if words:
        assert words in box.text()
        assert "NOT FOR DIAGNOSTIC USE" in box.text()
        assert "decoded" not in box.text()


def test_nothing_of_a_patient_is_told_unless_it_is_allowed(
    told: Told, life: LedgerLife, box: MailBox, hook: Hook
) -> None:
    reason = "SOP Instance UIDs that stand for several images of the series: 2.25.777000001000002"
    life.set_aside(reason, skipped=False)
    told.sweep()
    everything = str(box.mails[0]) + box.text() + hook.posts[0][1].decode() + str(hook.posts[0][0])
    for canary in CANARIES:
        assert canary not in everything
    assert "uid:" in everything


def test_where_it_is_allowed_the_identifiers_are_told(
    ledger: Ledger, clock: Clock, life: LedgerLife, document: dict[str, Any], box: MailBox
) -> None:
    document["notifications"] |= {"include_patient_data": True}
    with pytest.raises(ValueError, match=r"mail\.security"):
        NodeSettings(**document)
    life.set_aside("the images belong to several series", skipped=False)
    document["mail"] |= {"security": "starttls"}
    del document["webhook"]
    told = Told(ledger, clock, **document)
    told.sweep()  # the server has no TLS: nothing leaves
    assert box.mails == []
    assert told.states() == [("mail", "waiting", 1)]


def test_a_server_that_fails_is_tried_again_and_one_mail_arrives(
    told: Told, life: LedgerLife, box: MailBox, hook: Hook
) -> None:
    box.answers = ["451 try later", "452 full"]
    hook.answers = [500, 302, 404]
    life.rejected_by_pixels()
    told.sweep()
    assert box.mails == []
    assert told.notifier.sweep() == 0  # not before its time
    for _ in range(4):
        told.clock.now += 300.0
        told.notifier.sweep()
    assert len(box.mails) == len(hook.posts) == 1
    assert sorted(told.states()) == [("mail", "sent", 3), ("webhook", "sent", 4)]


def test_a_message_is_given_up_in_the_end(told: Told, life: LedgerLife, box: MailBox) -> None:
    del told.document["webhook"]
    told.document["mail"] |= {"port": free_port()}
    life.rejected_by_pixels()
    told.sweep()
    told.clock.now += 2 * 86400.0
    told.notifier.sweep()
    assert told.states() == [("mail", "given_up", 2)]


def test_two_notifiers_tell_once(
    told: Told, life: LedgerLife, ledger: Ledger, clock: Clock, box: MailBox, hook: Hook
) -> None:
    others = [Notifier(told.settings, ledger) for _ in range(3)]
    for _ in range(5):
        life.rejected_by_pixels()

    def sweep_all() -> None:
        threads = [threading.Thread(target=one.sweep) for one in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    sweep_all()
    clock.now += 60.0
    sweep_all()
    sweep_all()
    assert len(box.mails) == len(hook.posts) == 1
    assert box.mails[0]["Subject"] == "[M3LUNG] 5 series cannot be analysed"


def test_who_adds_a_channel_is_not_told_of_old(
    told: Told, life: LedgerLife, document: dict[str, Any], box: MailBox
) -> None:
    channels = {name: told.document.pop(name) for name in ("mail", "webhook")}
    life.rejected_by_pixels()
    told.sweep()
    told.document |= channels
    told.sweep()
    assert box.mails == []
    life.rejected_by_pixels()
    told.sweep()
    assert len(box.mails) == 1


SWEEP_ONCE = """
import sys, time
from pathlib import Path
from dicom_node.ledger import open_ledger
from dicom_node.notifications import Notifier
from dicom_node.settings import SettingsSource
source = SettingsSource(Path(sys.argv[1]))
with open_ledger(source().ledger_url, clock=lambda: time.time() + float(sys.argv[2])) as ledger:
    Notifier(source, ledger).sweep()
"""


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    lines = ['state_dir = "state"']
    for name, fields in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{field} = {json.dumps(value)}" for field, value in fields.items()]
    path = folder / "node.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_killed_between_sending_and_noting_it_comes_again_under_the_same_name(
    tmp_path: Path, box: MailBox, mail_port: int
) -> None:
    config = write_config(
        tmp_path,
        listener={"min_free_bytes": 0},
        notifications={"group_s": 0.0, "occasions": ["rejected"]},
        mail={"host": "127.0.0.1", "port": mail_port, "security": "none",
              "sender": "node@hospital.example", "to": [TO], "timeout_s": 60.0},
    )  # fmt: skip
    url = load_settings(config).ledger_url
    with open_ledger(url) as ledger:
        LedgerLife(ledger).rejected_by_pixels()

    def sweep(ahead_s: float, *, kill: bool = False) -> int:
        command = [sys.executable, "-c", SWEEP_ONCE, str(config), str(ahead_s)]
        process = subprocess.Popen(command)
        # The mail is taken; its sender dies before it hears so.
        box.on_data = (lambda: os.kill(process.pid, signal.SIGKILL)) if kill else lambda: None
        return process.wait(240)

    assert sweep(1.0, kill=True) == -signal.SIGKILL
    assert len(box.mails) == 1
    assert sweep(2.0) == 0
    assert len(box.mails) == 1  # somebody may be sending it
    assert sweep(3600.0) == 0
    assert len(box.mails) == 2
    assert box.mails[0]["Message-ID"] == box.mails[1]["Message-ID"]
    assert box.mails[0].get_content() == box.mails[1].get_content()
    assert sweep(7200.0) == 0
    assert len(box.mails) == 2


# -- m3lung notify test, and what is refused -------------------------------------------------------


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    make_authority(folder)
    make_certificate(folder, "mail", hosts=["127.0.0.1", "localhost"], authority=folder)
    return folder


def notify_test(folder: Path, **sections: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    config = write_config(folder, **sections)
    done = CliRunner().invoke(assemble(), ["notify", "test", "--json", "--config", str(config)])
    return done.exit_code, json.loads(done.stdout)


def test_the_test_goes_through_tls_and_login(papers: Path, tmp_path: Path, box: MailBox) -> None:
    with mail_server(box, papers / "mail.pem") as port:
        mail = {
            "host": "127.0.0.1", "port": port, "ca": str(papers / "ca.pem"), "timeout_s": 20.0,
            "user": "node@hospital.example", "password": "right", "to": [TO],
        }  # fmt: skip
        code, [said] = notify_test(tmp_path, mail=mail)
        assert code == 0
        assert [step["step"] for step in said["steps"]] == ["connection", "TLS", "login", "message"]
        assert "this is a test" in box.text()

        def failing(**changes: Any) -> str:
            code, [said] = notify_test(tmp_path, mail=mail | changes)
            assert code == 3
            last = said["steps"][-1]
            assert not last["ok"]
            return f"{last['step']}: {last['words']}"

        assert failing(password="wrong").startswith("login: the server answers 535")
        stranger = {name: value for name, value in mail.items() if name != "ca"}
        code, [said] = notify_test(tmp_path, mail=stranger)
        assert code == 3
        assert said["steps"][-1]["step"] == "TLS"
        assert "unknown CA" in said["steps"][-1]["words"]
        assert failing(to=["nobody@hospital.example"]).startswith("recipients: nobody@")
        assert "the port is closed" in failing(port=free_port())
        assert "no such host" in failing(host="nowhere.invalid")
        assert "certificates:" in failing(ca=str(tmp_path / "none.pem"))
        box.answers = ["554 looks like spam"]
        assert failing() == "message: the server answers 554 looks like spam"


def test_mail_over_tls_from_the_first_byte(papers: Path, tmp_path: Path, box: MailBox) -> None:
    with mail_server(box, papers / "mail.pem", starttls=False) as port:
        mail = {
            "host": "127.0.0.1", "port": port, "security": "tls", "ca": str(papers / "ca.pem"),
            "sender": "node@hospital.example", "to": [TO], "timeout_s": 20.0,
        }  # fmt: skip
        assert notify_test(tmp_path, mail=mail)[0] == 0
        assert len(box.mails) == 1
        del mail["ca"]
        code, [said] = notify_test(tmp_path, mail=mail)
    assert code == 3
    assert said["steps"][-1]["step"] == "connection"
    assert "unknown CA" in said["steps"][-1]["words"]


def test_the_test_of_a_webhook_names_the_step(tmp_path: Path, hook: Hook) -> None:
    webhook = {"url": hook.url, "secret": "whsec_" + base64.b64encode(b"k" * 24).decode()}
    assert notify_test(tmp_path, webhook=webhook)[0] == 0
    headers, body = hook.posts[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(b"k" * 24, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    hook.answers = [401]
    code, [said] = notify_test(tmp_path, webhook=webhook)
    assert (code, said["steps"][-1]["words"]) == (
        3, "401 Unauthorized; is the secret the same on both sides?"
    )  # fmt: skip
    hook.answers = [307]
    assert "moved" in notify_test(tmp_path, webhook=webhook)[1][0]["steps"][-1]["words"]
    closed = {"url": f"http://127.0.0.1:{free_port()}/", "secret": SECRET}
    assert "the port is closed" in notify_test(tmp_path, webhook=closed)[1][0]["steps"][-1]["words"]
    plain = {"url": hook.url.replace("http:", "https:"), "secret": SECRET}
    [said] = notify_test(tmp_path, webhook=plain)[1]
    assert "speaks no TLS" in said["steps"][-1]["words"]


def test_who_is_refused_costs_the_others_nothing(
    told: Told, life: LedgerLife, tmp_path: Path, box: MailBox
) -> None:
    told.document["mail"] |= {"to": [TO, "nobody@hospital.example"]}
    life.rejected_by_pixels()
    told.sweep()
    told.sweep(after_s=3600.0)
    assert len(box.mails) == 1
    fields = {name: value for name, value in told.document["mail"].items() if value != "none"}
    code, [said] = notify_test(tmp_path, mail=fields | {"security": "none"})
    assert (code, said["ok"]) == (3, False)
    assert [(step["step"], step["ok"]) for step in said["steps"]] == [
        ("connection", True), ("message", True), ("recipients", False)
    ]  # fmt: skip


def test_without_a_channel_there_is_nothing_to_test(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = CliRunner().invoke(assemble(), ["notify", "test", "--config", str(config)])
    assert isinstance(done.exception, ConfigurationError)


MAIL = {"host": "mail", "sender": "node@h.example", "to": [TO]}


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("mail", MAIL | {"to": []}, "nobody would get"),
        ("mail", MAIL | {"sender": ""}, "no mail address"),
        ("mail", MAIL | {"to": ["a@b\nBcc: c@d"]}, "no mail address"),
        ("mail", MAIL | {"to": ["müller@h.example"]}, "no mail address"),
        ("mail", MAIL | {"security": "none", "user": "x"}, "a login needs"),
        ("webhook", {"url": "ftp://x/", "secret": SECRET}, "https://"),
        ("webhook", {"url": "https://u:p@x/", "secret": SECRET}, "no user or password"),
        ("webhook", {"url": "https://x/"}, "secret"),
        ("notifications", {"line": "$patient"}, r"unknown \$patient"),
        ("notifications", {"subject": "100$"}, r"write \$\$"),
        ("notifications", {"body": "$words"}, r"unknown \$words"),
        ("notifications", {"occasions": ["weather"]}, "rejected"),
    ],
)
def test_nonsense_is_refused(
    tmp_path: Path, section: str, fields: dict[str, Any], words: str
) -> None:
    config = write_config(tmp_path, **{section: fields})
    with pytest.raises(ConfigurationError, match=words):
        load_settings(config)


def test_secrets_stay_out_of_dumps(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        mail=MAIL | {"user": "node@h.example", "password": "top-secret-1"},
        webhook={"url": "https://x/", "secret": "top-secret-2-and-long"},
    )
    settings = load_settings(config)
    assert "top-secret" not in settings.model_dump_json() + repr(settings) + str(settings)


def test_templates_shape_the_message(told: Told, life: LedgerLife, box: MailBox) -> None:
    told.document["notifications"] |= {
        "subject": "$count × $summary\nBcc: x@y",
        "body": "$$5 for $ae_title\n$lines",
        "line": "<$occasion|$series>",
    }
    life.rejected_by_pixels()
    told.sweep()
    [mail] = box.mails
    assert mail["Subject"] == "1 × 1 series cannot be analysed Bcc: x@y"
    assert mail["Bcc"] is None
    lines = mail.get_content().splitlines()
    assert lines[0] == "$5 for M3LUNG"
    assert lines[1].startswith("<rejected|")
