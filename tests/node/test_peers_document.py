"""Peers edited in node.toml: comments stay, nothing wrong gets in, the version before is kept."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.errors import ConfigurationError, PeerRefused
from dicom_node.peers_document import PeersDocument, peer_from
from dicom_node.settings import Peer, PeerRole, load_settings

DOCUMENT = """\
# Radiology, house 2. Ask Dr. Example before changing.
ae_title = "M3LUNG"
state_dir = "state"  # beside this file

[listener]
port = 11112

# the archive
[[peers]]
name = "archive"
ae_title = "ARCHIVE"   # as its administrator wrote it
host = "10.0.0.5"
port = 104

# the scanner in room 7
[[peers]]
name = "scanner"
ae_title = "CT7"
host = "10.0.0.7"
roles = ["source"]

[delivery]
breaker_failures = 5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(DOCUMENT)
    return path


def new(name: str = "viewer", **fields: Any) -> Peer:
    return Peer(name=name, ae_title="VIEWER", host="10.0.0.9", port=4242, **fields)


def test_add_keeps_every_line(path: Path) -> None:
    kept = PeersDocument(path).add(new(roles=(PeerRole.DESTINATION,), compress="jpeg"))
    text = path.read_text()
    assert set(DOCUMENT.splitlines()) <= set(text.splitlines())
    assert load_settings(path).peer("viewer") == new(roles=(PeerRole.DESTINATION,), compress="jpeg")
    assert load_settings(path).delivery.breaker_failures == 5
    assert kept is not None
    assert kept.text() == DOCUMENT
    assert kept.path.parent == path.parent / "state" / "config-history"
    assert tomllib.loads(kept.path.read_text()) == tomllib.loads(DOCUMENT)


def test_add_then_remove_gives_the_same_meaning(path: Path) -> None:
    document = PeersDocument(path)
    document.add(new())
    document.remove("viewer")
    assert tomllib.loads(path.read_text()) == tomllib.loads(DOCUMENT)
    assert len(list((path.parent / "state" / "config-history").iterdir())) == 3


def test_remove_leaves_the_neighbours_comment(path: Path) -> None:
    PeersDocument(path).remove("archive")
    text = path.read_text()
    assert "ARCHIVE" not in text
    assert '# the scanner in room 7\n[[peers]]\nname = "scanner"' in text
    assert [peer.name for peer in PeersDocument(path).peers()] == ["scanner"]
    PeersDocument(path).remove("scanner")
    assert PeersDocument(path).peers() == ()
    assert load_settings(path).delivery.breaker_failures == 5


def test_remove_is_not_fooled_by_text_that_looks_like_a_header(path: Path) -> None:
    path.write_text(
        '[results]\ninstitution = """\n[[peers]]\n"""\n\n'
        '[[peers]]\nname = "a"\nae_title = "A"\n\n[[peers]]\nname = "b"\nae_title = "B"\n'
    )
    before = path.read_text()
    with pytest.raises(ConfigurationError, match="edit it by hand"):
        PeersDocument(path).remove("a")
    assert path.read_text() == before


def test_the_first_peer_makes_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("M3LUNG_CONFIG", raising=False)
    assert PeersDocument().peers() == ()
    assert PeersDocument().add(new()) is None
    assert [peer.name for peer in load_settings(tmp_path / "node.toml").peers] == ["viewer"]
    PeersDocument().add(Peer(name="second", ae_title="SECOND"))  # finds the one it made
    assert len(PeersDocument().peers()) == 2


def test_a_link_stays_a_link_and_modes_stay(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    PeersDocument(link).add(new())
    assert link.is_symlink()
    assert load_settings(path).peer("viewer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Big Name"}, "name: small letters"),
        ({"ae_title": "SEVENTEEN-LETTERS"}, "ae_title: .*1 to 16 characters"),
        ({"ae_title": "BACK\\SLASH"}, "ae_title: .*no backslash"),
        ({"ae_title": "   "}, "ae_title"),
        ({"port": 0}, "port: .*from 1 to 65535"),
        ({"port": 65536}, "port: .*from 1 to 65535"),
        ({"host": "http://pacs"}, "host: .*nothing else"),
        ({"addresses": ("10.0.0.0/33",)}, "addresses: .*neither an address nor a network"),
        ({"verify": "qido"}, "verify: .*needs stow_url"),
        ({"certificate_name": "pacs"}, "tls: .*of use with"),
        ({"roles": ("guest",)}, "roles"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        peer_from({"name": "viewer", "ae_title": "VIEWER", "port": 104, **fields})


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (new("archive"), "name: a peer called 'archive' exists"),
        (
            Peer(name="me", ae_title="M3LUNG", port=11112),
            "peers.me: this is the node itself",
        ),
        (Peer(name="other", ae_title="CT7", host="10.0.0.8"), "scanner has this AE title, too"),
        (
            Peer(name="twice", ae_title="ARCHIVE", host="10.0.0.5", roles=("destination",)),
            "archive is the same destination",
        ),
        (new(tls=True), r"tls: needs our own certificate"),
    ],
)
def test_nothing_wrong_gets_in(path: Path, peer: Peer, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        PeersDocument(path).add(peer)
    assert path.read_text() == DOCUMENT
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["node.toml"]


def test_unknown_name_lists_the_known(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="known: archive, scanner"):
        PeersDocument(path).remove("nobody")


def test_a_broken_document_is_left_alone(path: Path) -> None:
    path.write_text("ae_title = \n")
    with pytest.raises(ConfigurationError, match=r"node\.toml"):
        PeersDocument(path).add(new())
    assert path.read_text() == "ae_title = \n"


def test_inline_peers_are_told_to_be_edited_by_hand(path: Path) -> None:
    path.write_text('peers = [{name = "a", ae_title = "A"}]\n')
    with pytest.raises(ConfigurationError, match=r"\[\[peers\]\]"):
        PeersDocument(path).add(new())


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
titles = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"),
    min_size=1,
    max_size=16,
).filter(str.strip)


def test_two_peers_of_one_title_are_told_apart_by_their_addresses(path: Path) -> None:
    one = new("room-8", addresses=("10.0.8.0/24",), roles=(PeerRole.SOURCE,))
    other = new("room-9", addresses=("10.0.9.0/24",), roles=(PeerRole.SOURCE,))
    PeersDocument(path).add(one)
    PeersDocument(path).add(other)
    wider = other.model_copy(update={"addresses": ("10.0.0.0/16",)})
    with pytest.raises(PeerRefused, match="do not overlap"):
        PeersDocument(path).change("room-9", wider)
    assert load_settings(path).peer("room-9") == other


def test_a_change_keeps_comments_and_what_it_does_not_touch(path: Path) -> None:
    archive = load_settings(path).peer("archive")
    changed = archive.model_copy(update={"port": 11104, "enabled": False})
    PeersDocument(path).change("archive", changed)
    text = path.read_text()
    assert load_settings(path).peer("archive") == changed
    assert 'ae_title = "ARCHIVE"   # as its administrator wrote it' in text
    assert "port = 11104\nenabled = false\n\n# the scanner in room 7\n[[peers]]" in text
    PeersDocument(path).change("archive", archive)
    assert load_settings(path).peer("archive") == archive
    last = load_settings(path).peer("scanner")
    PeersDocument(path).change("scanner", last.model_copy(update={"addresses": ("10.0.0.7/32",)}))
    assert load_settings(path).peer("scanner").addresses == ("10.0.0.7/32",)
    assert load_settings(path).delivery.breaker_failures == 5
    with pytest.raises(ConfigurationError, match="known: archive, scanner"):
        PeersDocument(path).change("nobody", last)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(names, titles),
        min_size=1,
        max_size=5,
        unique_by=(lambda pair: pair[0], lambda pair: pair[1].strip(" ")),
    ).map(dict),
    st.randoms(),
)
def test_any_legal_peers_come_back(
    tmp_path_factory: pytest.TempPathFactory, peers: dict[str, str], random: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "node.toml"
    path.write_text('state_dir = "state"\n')
    document = PeersDocument(path)
    for name, title in peers.items():
        document.add(peer_from({"name": name, "ae_title": title, "port": 104}))
    found = {peer.name: peer.ae_title for peer in document.peers()}
    assert found == {name: title.strip(" ") for name, title in peers.items()}
    order = list(peers)
    random.shuffle(order)
    for name in order:
        document.remove(name)
    assert tomllib.loads(path.read_text()) == {"state_dir": "state"}
