"""Peers by the browser: added, changed, tried, removed; what is wrong is told at its field."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_node.configuration import History
from dicom_node.console.peer_form import PeerForm
from dicom_node.console.trials import TooManyTrials, Trials
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.settings import NodeSettings, Peer, load_settings
from support.console_node import ConsoleNode, ServedConsole, csrf_of
from support.orthanc import Orthanc
from support.peers import program
from support.ports import free_port, wait_for_port
from support.server import Server

DOCUMENT = """\
# House 2.
state_dir = "state"

# the archive
[[peers]]
name = "archive"
ae_title = "ARCHIVE"  # as its administrator wrote it
host = "10.0.0.5"
port = 104
"""
GOOD: dict[str, Any] = {
    "name": "viewer",
    "ae_title": "VIEWER",
    "host": "127.0.0.1",
    "port": "4243",
    "roles": ["destination"],
    "outputs": ["overlay", "summary"],
    "enabled": "on",
    "compress": "jpeg",
    "commitment": "none",
    "verify": "none",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleNode]:
    node = ConsoleNode(tmp_path_factory.mktemp("peers"))
    node.user("ada", ConsoleRole.ADMIN)
    node.user("vera", ConsoleRole.VIEWER)
    yield node
    node.ledger.close()


@pytest.fixture(scope="module")
def console(node: ConsoleNode) -> Iterator[ServedConsole]:
    with ServedConsole(node) as served:
        yield served


@pytest.fixture(scope="module")
def browser(console: ServedConsole) -> Iterator[httpx.Client]:
    with console.log_in("ada") as client:
        yield client


@pytest.fixture
def admin(browser: httpx.Client, node: ConsoleNode) -> httpx.Client:
    node.config.write_text(DOCUMENT)
    return browser


def post(client: httpx.Client, path: str, **data: Any) -> httpx.Response:
    token = csrf_of(client.get("/peers").text)
    return client.post(path, data={"csrf": token, **data}, follow_redirects=True)


def faults(page: str) -> dict[str, str]:
    """Field → what is said at it."""
    found = re.findall(r'<p class="field-error" id="fault-(\w+)">(.*?)</p>', page)
    return {name: html.unescape(words) for name, words in found}


def peers(node: ConsoleNode) -> dict[str, Peer]:
    return {peer.name: peer for peer in load_settings(node.config).peers}


def trail(node: ConsoleNode) -> str:
    return "".join(p.read_text() for p in (node.source().root / "audit").glob("*.jsonl"))


def test_a_peer_is_added_and_in_force_at_once(admin: httpx.Client, node: ConsoleNode) -> None:
    other = node.source  # what every process of the node asks, too
    assert [peer.name for peer in other().peers] == ["archive"]
    page = post(admin, "/peers/add", **GOOD)
    assert page.status_code == 200
    assert "viewer is saved." in page.text
    added = peers(node)["viewer"]
    assert added.outputs == ("overlay", "summary")
    assert (added.is_destination, added.is_source, added.compress) == (True, False, "jpeg")
    assert [peer.name for peer in other().peers] == ["archive", "viewer"]
    assert "# House 2." in node.config.read_text()
    assert "# as its administrator wrote it" in node.config.read_text()
    newest = History(node.source().root).newest()
    assert newest is not None
    assert (newest.change.author, newest.change.verb) == ("ada", "console")
    assert newest.change.words == "peer viewer added: VIEWER at 127.0.0.1:4243"
    assert "peer viewer added: VIEWER at 127.0.0.1:4243" in trail(node)
    assert "Network Configuration" in trail(node)
    assert added.associations == 1
    listed = admin.get("/peers").text
    assert "overlay series, summary page" in listed
    post(admin, "/peers/viewer/edit", **GOOD, associations="4")
    assert peers(node)["viewer"].associations == 4
    assert "4 at once" in admin.get("/peers/viewer/details").text


@pytest.mark.parametrize(
    ("entered", "field", "words"),
    [
        ({"ae_title": ""}, "ae_title", "filled in"),
        ({"ae_title": "SEVENTEEN-LETTERS"}, "ae_title", "1 to 16 characters"),
        ({"ae_title": "BACK\\SLASH"}, "ae_title", "no backslash"),
        ({"ae_title": "ÜBER"}, "ae_title", "basic repertoire"),
        ({"ae_title": "TAB\tTAB"}, "ae_title", "basic repertoire"),
        ({"name": "Big Name"}, "name", "small letters"),
        ({"name": "archive"}, "name", "exists"),
        ({"name": "../etc"}, "name", "small letters"),
        ({"ae_title": "ARCHIVE", "roles": ["source"]}, "ae_title", "archive has this AE title"),
        (
            {"ae_title": "ARCHIVE", "host": "10.0.0.5", "port": "104"},
            "ae_title",
            "same destination",
        ),
        ({"port": "0"}, "port", "from 1 to 65535"),
        ({"port": "65536"}, "port", "from 1 to 65535"),
        ({"port": "http"}, "port", "whole number"),
        ({"port": "104.5"}, "port", "whole number"),
        ({"port": ""}, "port", "filled in"),
        ({"host": "http://pacs"}, "host", "nothing else"),
        ({"host": "10.0.0.256"}, "host", "nothing else"),
        ({"host": "two words"}, "host", "nothing else"),
        ({"host": ""}, "host", "filled in"),
        ({"roles": []}, "roles", "at least one"),
        ({"outputs": []}, "outputs", "at least one"),
        ({"addresses": "10.0.0.0/24\n10.0.0.0/33"}, "addresses", "10.0.0.0/33"),
        ({"addresses": "here"}, "addresses", "neither an address nor a network"),
        ({"ae_title": "M3LUNG", "port": "11112"}, "ae_title", "the node itself"),
        ({"tls": "on"}, "tls", "needs our own certificate"),
        ({"certificate_sha256": "12:34"}, "certificate_sha256", "64 hexadecimal digits"),
        ({"verify": "qido"}, "verify", "stow_url"),
        ({"stow_url": "ftp://x"}, "stow_url", "https://"),
        ({"quiet_hours": "25:00-26:00"}, "quiet_hours", "hours of a day"),
        ({"compress": "zip"}, "compress", "none"),
        ({"associations": "0"}, "associations", "from 1 to 8"),
        ({"associations": "9"}, "associations", "from 1 to 8"),
        ({"associations": "two"}, "associations", "from 1 to 8"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(
    admin: httpx.Client, node: ConsoleNode, entered: dict[str, Any], field: str, words: str
) -> None:
    page = post(admin, "/peers/add", **{**GOOD, **entered})
    assert page.status_code == 422
    assert words in faults(page.text)[field]
    assert re.search(rf'aria-describedby="fault-{field}', page.text) or field in (
        "roles", "outputs",
    )  # fmt: skip
    assert node.config.read_text() == DOCUMENT
    # What was entered stands there as it was.
    for name in {"name", "ae_title", "host", "port"} & set(entered):
        assert f'value="{html.escape(str(entered[name]))}"' in page.text
    for name in {"addresses", "certificate_sha256", "quiet_hours"} & set(entered):
        assert f">{entered[name]}</textarea>" in page.text


def test_several_faults_are_told_at_once(admin: httpx.Client) -> None:
    page = post(admin, "/peers/add", **{**GOOD, "port": "0", "host": "a b", "ae_title": "x" * 17})
    assert set(faults(page.text)) == {"port", "host", "ae_title"}
    assert "3 fields need attention" in page.text


def test_what_is_entered_stays_text(admin: httpx.Client) -> None:
    evil = '"><script>alert(1)</script>'
    page = post(admin, "/peers/add", **{**GOOD, "host": evil, "addresses": evil, "name": evil})
    assert page.status_code == 422
    assert "<script>alert" not in page.text
    assert admin.get("/peers/%3Cscript%3E/details").status_code == 404


def test_a_peer_is_changed_and_keeps_what_the_form_does_not_show(
    admin: httpx.Client, node: ConsoleNode
) -> None:
    form = admin.get("/peers/archive/edit")
    assert 'value="10.0.0.5"' in form.text
    entered = {**_as_sent(PeerForm.of(peers(node)["archive"])), "port": "11104", "query": "on"}
    page = post(admin, "/peers/archive/edit", **entered)
    assert "archive is saved." in page.text
    changed = peers(node)["archive"]
    assert (changed.port, changed.query, changed.roles) == (11104, True, ("source", "destination"))
    text = node.config.read_text()
    assert 'ae_title = "ARCHIVE"  # as its administrator wrote it' in text
    assert text.startswith("# House 2.")


def test_whoever_looks_at_an_old_form_is_told(admin: httpx.Client, node: ConsoleNode) -> None:
    seen = re.search(r'name="seen" value="(\w+)"', admin.get("/peers/archive/edit").text)
    assert seen is not None
    node.config.write_text(DOCUMENT + 'verify = "c-find"\n')  # by somebody else
    entered = {**_as_sent(PeerForm.of(peers(node)["archive"])), "port": "11104"}
    page = post(admin, "/peers/archive/edit", **entered, seen=seen[1])
    assert page.status_code == 422
    assert "changed meanwhile" in page.text
    assert 'value="11104"' in page.text
    assert peers(node)["archive"].port == 104


def test_a_peer_is_disabled_and_enabled(admin: httpx.Client, node: ConsoleNode) -> None:
    page = post(admin, "/peers/archive/disable")
    assert "archive is disabled." in page.text
    assert not peers(node)["archive"].is_source
    page = post(admin, "/peers/archive/enable")
    assert "archive is enabled." in page.text
    assert peers(node)["archive"].is_destination


def test_a_peer_is_removed_when_it_is_meant(admin: httpx.Client, node: ConsoleNode) -> None:
    node.analysed("archive")
    asked = admin.get("/peers/archive/remove")
    assert "Remove archive?" in asked.text
    assert "<b>1</b> reading still wait" in asked.text
    assert "archive" in peers(node)
    assert "Remove archive?" in post(admin, "/peers/archive/remove").text  # not sure
    page = post(admin, "/peers/archive/remove", sure="yes")
    assert "archive is removed." in page.text
    assert not peers(node)
    assert "No peer is known" in page.text
    assert admin.get("/peers/archive/details").status_code == 404


def test_viewers_look_and_change_nothing(
    admin: httpx.Client, console: ServedConsole, node: ConsoleNode
) -> None:
    with console.log_in("vera") as viewer:
        page = viewer.get("/peers")
        assert "archive" in page.text
        assert "/edit" not in page.text
        assert "/test" not in page.text
        assert "10.0.0.5:104" in viewer.get("/peers/archive/details").text
        for path in ("add", "archive/edit", "archive/disable", "archive/remove", "archive/test"):
            answer = viewer.post(
                f"/peers/{path}", data={"csrf": csrf_of(page.text), **GOOD, "sure": "yes"}
            )
            assert answer.status_code == 403, path
        assert viewer.get("/peers/add").status_code == 403
        assert viewer.get("/peers/archive/edit").status_code == 403
    assert node.config.read_text() == DOCUMENT


@pytest.mark.parametrize(
    "nonsense", ["state_dir = \n", "no_such_field = 1\n", '[[peers]]\nname = "a"\n', "\x00"]
)
def test_a_document_edited_into_nonsense_changes_nothing(
    admin: httpx.Client, node: ConsoleNode, nonsense: str
) -> None:
    admin.get("/peers")
    node.config.write_text(nonsense)
    page = admin.get("/peers")
    assert page.status_code == 200
    assert "the last good one stays in force" in page.text
    assert "archive" in page.text
    assert "/peers/add" not in page.text
    refused = post(admin, "/peers/add", **GOOD)
    assert refused.status_code == 422
    assert "Nothing was changed" in refused.text
    assert 'value="VIEWER"' in refused.text
    assert node.config.read_text() == nonsense
    assert post(admin, "/peers/archive/disable").status_code == 422
    assert post(admin, "/peers/archive/remove", sure="yes").status_code == 422
    node.config.write_text(DOCUMENT)
    assert "/peers/add" in admin.get("/peers").text


def test_a_rule_that_names_a_peer_holds_it(admin: httpx.Client, node: ConsoleNode) -> None:
    node.config.write_text(DOCUMENT + '\n[[rules]]\nname = "one"\ndestinations = ["archive"]\n')
    page = post(admin, "/peers/archive/remove", sure="yes")
    assert page.status_code == 422
    assert "no peer is called" in html.unescape(page.text)
    assert "archive" in peers(node)


# -- the connection test ---------------------------------------------------------------------------


def steps(page: str) -> list[tuple[str, str, str]]:
    found = re.findall(
        r'<li><span class="badge small \w+">(\w+)</span><div><b>(.*?)</b><div>(.*?)</div>', page
    )
    return [(name, result, html.unescape(words)) for result, name, words in found]


def tried(client: httpx.Client, name: str) -> list[tuple[str, str, str]]:
    began = time.monotonic()
    post(client, f"/peers/{name}/test")
    assert time.monotonic() - began < 15  # whatever the peer does, the page is there
    while True:
        page = client.get(f"/peers/{name}/details")
        if "hx-trigger" not in page.text:
            assert "http-equiv" not in page.text
            return steps(page.text)
        assert 'http-equiv="refresh"' in page.text  # without scripts, too
        assert time.monotonic() - began < 120
        time.sleep(0.2)


def configure(node: ConsoleNode, **fields: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    node.config.write_text(DOCUMENT + "\n[[peers]]\n" + "\n".join(lines) + "\n")


@pytest.mark.peer("dcmtk")
def test_a_storescp_is_tried_step_by_step(
    admin: httpx.Client, node: ConsoleNode, tmp_path: Path
) -> None:
    port = free_port()
    server = Server(
        [str(program("storescp")), "--output-directory", str(tmp_path), str(port)],
        log=tmp_path / "storescp.log",
        ready=lambda: wait_for_port(port),
    )
    server.start()
    try:
        configure(node, name="scp", ae_title="STORESCP", host="localhost", port=port)
        found = tried(admin, "scp")
    finally:
        server.stop()
    results = {name: result for name, result, _ in found}
    words = {name: said for name, _, said in found}
    assert list(results)[:5] == ["name resolution", "TCP", "TLS", "association", "C-ECHO"]
    assert results["C-ECHO"] == "ok"
    assert "will be sent as" in words["overlay"]
    assert "key objects" in results
    page = admin.get("/peers").text
    assert re.search(r"test (passed|failed)", page)
    assert "connection test of peer scp" in trail(node)
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.peer("orthanc")
def test_an_orthanc_is_tried_after_saving(
    admin: httpx.Client, node: ConsoleNode, orthanc: Orthanc
) -> None:
    entered = {
        **GOOD, "name": "orthanc", "ae_title": orthanc.ae_title, "port": str(orthanc.dicom_port),
        "outputs": ["report", "overlay"], "verify": "c-find", "then": "test",
    }  # fmt: skip
    page = post(admin, "/peers/add", **entered)
    assert "orthanc is saved." in page.text
    found = tried(admin, "orthanc")
    assert all(result in ("ok", "skipped") for _, result, _ in found), found
    assert ("C-FIND", "ok", "answered at series level") in found
    assert "Everything works." in admin.get("/peers/orthanc/details").text
    assert orthanc.instance_count() == 0
    # The wrong title is told in words.
    configure(node, name="orthanc", ae_title="WRONG", port=orthanc.dicom_port)
    found = tried(admin, "orthanc")
    assert found[-1][:2] == ("association", "failed")
    assert "not called WRONG" in found[-1][2]


def test_an_absent_peer_is_told_in_words(admin: httpx.Client, node: ConsoleNode) -> None:
    configure(node, name="gone", ae_title="GONE", port=free_port(), enabled=False)
    name, result, words = tried(admin, "gone")[-1]
    assert (name, result) == ("TCP", "failed")
    assert "nothing listens there" in words
    configure(node, name="gone", ae_title="GONE", host="no-such-host.invalid")
    name, result, words = tried(admin, "gone")[-1]
    assert (name, result) == ("name resolution", "failed")
    assert "has no address" in words


def test_a_silent_peer_blocks_nobody(
    admin: httpx.Client, node: ConsoleNode, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        configure(node, name="silent", ae_title="SILENT", port=silent.getsockname()[1])
        post(admin, "/peers/silent/test")
        fragment = admin.get("/peers/silent/details", headers={"HX-Request": "true"})
        assert "hx-trigger" in fragment.text
        assert "<html" not in fragment.text
        again = post(admin, "/peers/silent/test")  # is the one that runs
        assert again.status_code == 200
        began = time.monotonic()
        assert admin.get("/").status_code == 200
        assert time.monotonic() - began < 10
        found = tried(admin, "silent")
    assert found[-1][:2] == ("association", "failed")


def test_only_so_many_at_a_time() -> None:
    held = threading.Event()
    from dicom_node.delivery import connection_test

    def hold(*_: object) -> Iterator[Any]:
        held.wait(30)
        yield from ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_test, "steps_of", hold)
        trials = Trials()
        begun = [trials.start(NodeSettings(), Peer(name=f"p{n}", ae_title="P")) for n in range(4)]
        assert trials.start(NodeSettings(), begun[0].peer) is begun[0]
        with pytest.raises(TooManyTrials, match="4 connection tests"):
            trials.start(NodeSettings(), Peer(name="p9", ae_title="P"))
        held.set()
        deadline = time.monotonic() + 30
        while any(trial.runs for trial in begun):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        trials.start(NodeSettings(), Peer(name="p9", ae_title="P"))


def test_the_command_line_and_the_console_share_one_history(
    admin: httpx.Client, node: ConsoleNode
) -> None:
    post(admin, "/peers/add", **GOOD)
    command = ["-m", "dicom_node", "peers", "remove", "viewer", "--config", str(node.config)]
    subprocess.run(
        [sys.executable, *command],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    first, second, *_ = History(node.source().root).versions()
    assert first.change.verb == "m3lung peers remove"
    assert first.change.words == "peer viewer removed"
    assert second.change.verb == "console"
    assert "viewer" not in admin.get("/peers").text


def _as_sent(form: PeerForm) -> dict[str, Any]:
    sent: dict[str, Any] = dict(form.texts)
    for name, value in form.chosen:
        if name in ("roles", "outputs"):
            sent.setdefault(name, []).append(value)
        else:
            sent[name] = value
    return sent
