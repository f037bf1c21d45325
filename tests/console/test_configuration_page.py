"""Versions of the configuration by the browser: listed, compared, brought back; no secrets."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dicom_node import __version__
from dicom_node.configuration import Change, ConfigurationDocument, History
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.peers_document import PeersDocument
from dicom_node.settings import Peer, load_settings
from support.console_node import ConsoleNode, ServedConsole, csrf_of

SECRET = "hunter22-hunter22"
DOCUMENT = f"""\
state_dir = "state"
log_level = "info"

[webhook]
url = "https://hooks.example.org/x"
secret = "{SECRET}"

[mail]
password = "{SECRET}"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleNode]:
    node = ConsoleNode(tmp_path_factory.mktemp("configuration"))
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
    """A browser; the document has two versions: by hand, and with a peer."""
    node.config.write_text(DOCUMENT)
    history = History(node.source().root)
    for version in history.versions():
        version.path.unlink()
    PeersDocument(node.config).add(
        Peer(name="pacs", ae_title="ARCHIVE"), Change("zoe", "m3lung peers add", "peer pacs added")
    )
    return browser


def post(client: httpx.Client, path: str, **data: Any) -> httpx.Response:
    token = csrf_of(client.get("/configuration").text)
    return client.post(path, data={"csrf": token, **data}, follow_redirects=True)


def lines(page: str) -> list[tuple[str, str]]:
    found = re.findall(r'<tr class="(gone|new)">.*?<code>(.*?)</code>', page)
    return [(kind, html.unescape(text)) for kind, text in found]


def test_without_a_change_there_is_no_version(node: ConsoleNode, browser: httpx.Client) -> None:
    node.config.write_text(DOCUMENT)
    page = browser.get("/configuration")
    assert page.status_code == 200
    assert "No version is kept yet" in page.text


def test_versions_say_who_when_how_and_what(admin: httpx.Client, node: ConsoleNode) -> None:
    page = admin.get("/configuration").text
    assert "zoe" in page
    assert "m3lung peers add" in page
    assert "peer pacs added" in page
    assert "by hand" in page
    assert "in force" in page
    assert "<time" in page
    assert str(node.config) in page


def test_the_difference_of_two_neighbours_and_of_any_two(
    admin: httpx.Client, node: ConsoleNode
) -> None:
    page = admin.get("/configuration/difference", params={"old": 1, "new": 2})
    assert ("new", 'ae_title = "ARCHIVE"') in lines(page.text)
    assert all(kind == "new" for kind, _ in lines(page.text))
    back = admin.get("/configuration/difference", params={"old": 2, "new": 1})
    assert all(kind == "gone" for kind, _ in lines(back.text))
    same = admin.get("/configuration/difference", params={"old": 2, "new": 0})
    assert "There is no difference" in same.text
    node.config.write_text(node.config.read_text().replace("info", "debug"))
    page = admin.get("/configuration/difference", params={"old": 2, "new": 0})
    assert lines(page.text) == [("gone", 'log_level = "info"'), ("new", 'log_level = "debug"')]
    assert "edited by hand since" in admin.get("/configuration").text
    assert admin.get("/configuration/difference?old=1&new=99").status_code == 404
    assert admin.get("/configuration/difference?old=-1&new=x").status_code == 422


def test_no_page_shows_a_secret(admin: httpx.Client, node: ConsoleNode) -> None:
    text = node.config.read_text().replace(f'password = "{SECRET}"', 'password = "another-one"')
    node.config.write_text(text)
    for path in (
        "",
        "/versions/0",
        "/versions/1",
        "/difference?old=1&new=2",
        "/difference?old=1&new=0",
        "/versions/1/restore",
    ):
        page = admin.get(f"/configuration{path}")
        assert page.status_code == 200, path
        assert SECRET not in page.text, path
        assert "another-one" not in page.text, path
    # That it changed shows all the same.
    changed = lines(admin.get("/configuration/difference?old=2&new=0").text)
    assert [kind for kind, _ in changed] == ["gone", "new"]
    node.config.write_text(text.replace("[mail]", "[mail"))  # what does not parse is masked, too
    assert "another-one" not in admin.get("/configuration/versions/0").text
    assert "another-one" not in admin.get("/configuration").text


def test_a_version_is_restored_and_in_force(admin: httpx.Client, node: ConsoleNode) -> None:
    asked = admin.get("/configuration/versions/1/restore")
    assert f"<footer>m3lung-node {__version__}</footer>" in asked.text
    assert "Restore version 1?" in asked.text
    assert ("gone", 'ae_title = "ARCHIVE"') in lines(asked.text)
    assert [peer.name for peer in node.source().peers] == ["pacs"]
    assert "Restore version 1?" in post(admin, "/configuration/versions/1/restore").text
    page = post(admin, "/configuration/versions/1/restore", sure="yes")
    assert "Version 1 is in force again." in page.text
    assert node.source().peers == ()
    assert node.config.read_text() == DOCUMENT
    newest = History(node.source().root).newest()
    assert newest is not None
    assert (newest.number, newest.change.author) == (3, "ada")
    assert newest.change.words == "configuration: version 1 restored"
    trail = "".join(p.read_text() for p in (node.source().root / "audit").glob("*.jsonl"))
    assert "configuration: version 1 restored" in trail
    assert SECRET not in trail


def test_who_decided_on_another_document_is_told(admin: httpx.Client, node: ConsoleNode) -> None:
    seen = re.search(
        r'name="seen" value="(\w+)"', admin.get("/configuration/versions/1/restore").text
    )
    assert seen is not None
    node.config.write_text(node.config.read_text() + "# more\n")
    page = post(admin, "/configuration/versions/1/restore", sure="yes", seen=seen[1])
    assert page.status_code == 422
    assert "changed meanwhile" in page.text
    assert node.config.read_text().endswith("# more\n")


def test_a_version_that_is_wrong_today_is_refused(admin: httpx.Client, node: ConsoleNode) -> None:
    version = History(node.source().root).version(1)
    assert version is not None
    version.path.write_text("no_such_field = 1\n")
    before = node.config.read_text()
    page = post(admin, "/configuration/versions/1/restore", sure="yes")
    assert page.status_code == 422
    assert "Nothing was changed." in page.text
    assert "no_such_field" in page.text
    assert node.config.read_text() == before
    version.path.write_bytes(b"\xff\xfe")
    assert admin.get("/configuration/versions/1").status_code == 422
    assert post(admin, "/configuration/versions/1/restore", sure="yes").status_code == 422
    assert node.config.read_text() == before


@pytest.mark.parametrize("nonsense", [b"state_dir = \n", b"no_such_field = 1\n", b"\xff\xfe\x00"])
def test_nonsense_is_told_and_rolled_back(
    admin: httpx.Client, node: ConsoleNode, nonsense: bytes
) -> None:
    admin.get("/configuration")
    node.config.write_bytes(nonsense)
    page = admin.get("/configuration")
    assert page.status_code == 200
    assert "the last good one stays in force" in page.text
    assert "does not load" in page.text
    assert [peer.name for peer in node.source().peers] == ["pacs"]
    page = post(admin, "/configuration/versions/2/restore", sure="yes")
    assert "Version 2 is in force again." in page.text
    assert "the last good one stays" not in page.text
    assert [peer.name for peer in load_settings(node.config).peers] == ["pacs"]
    kept = [version.change.verb for version in History(node.source().root).versions()]
    assert kept == ["console", "by hand", "m3lung peers add", "by hand"]


def test_viewers_look_and_change_nothing(
    admin: httpx.Client, console: ServedConsole, node: ConsoleNode
) -> None:
    before = node.config.read_text()
    with console.log_in("vera") as viewer:
        page = viewer.get("/configuration")
        assert page.status_code == 200
        assert "/restore" not in page.text
        assert viewer.get("/configuration/difference?old=1&new=2").status_code == 200
        assert viewer.get("/configuration/versions/1/restore").status_code == 403
        answer = viewer.post(
            "/configuration/versions/1/restore", data={"csrf": csrf_of(page.text), "sure": "yes"}
        )
        assert answer.status_code == 403
    assert node.config.read_text() == before


def test_the_environment_is_named_without_its_values(
    admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3LUNG_WEBHOOK__SECRET", "from-the-environment")
    page = admin.get("/configuration").text
    assert "M3LUNG_WEBHOOK__SECRET" in page
    assert "from-the-environment" not in page


def test_many_versions_and_a_long_document(admin: httpx.Client, node: ConsoleNode) -> None:
    document = ConfigurationDocument(node.config)
    for _ in range(12):
        document.edit(Change("ada", "console", "more"), lambda text: text + "# more\n" * 400)
    page = admin.get("/configuration")
    assert page.status_code == 200
    assert "too long" in admin.get("/configuration/difference?old=1&new=0").text
    assert admin.get("/configuration/versions/0").status_code == 200
