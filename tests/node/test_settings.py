"""node.toml: what is refused, what wins, and that the text names the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node.errors import ConfigurationError
from dicom_node.settings import NodeSettings, find_config, load_settings


@pytest.fixture(autouse=True)
def nothing_of_the_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("M3LUNG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(write(tmp_path, text))
    return str(caught.value)


def test_without_a_document_the_defaults_hold_and_nobody_is_known(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.listener.host == "127.0.0.1"
    assert settings.peers == ()
    assert not settings.listener.accept_unknown_callers
    assert settings.root == tmp_path / "home/.local/share/m3lung"
    assert settings.ledger_url == f"sqlite:///{settings.root}/ledger.sqlite3"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[listener]\nprot = 104", "listener.prot"),
        ('[[peers]]\nname = "pacs"\nae_title = "PACS"\ncolour = 1', "peers.0.colour"),
        ("[completion]\nsettle_s = 0", "completion.settle_s"),
        ("[listener]\nport = 65536", "listener.port"),
        ("[listener]\nport = -1", "listener.port"),
        ('[[peers]]\nname = "pacs"\nae_title = "PACS"\nport = 0', "peers.0.port"),
        ('[[peers]]\nname = "P ACS"\nae_title = "PACS"', "peers.0.name"),
        ('[[peers]]\nname = "pacs"\nae_title = "PACS"\nroles = ["boss"]', "peers.0.roles.0"),
        ('[results]\nbanner = ""', "results.banner"),
        ('log_level = "loud"', "log_level"),
        ("state_dir = 5", "state_dir"),
        ('_env_file = "secrets.env"', "_env_file"),
    ],
)
def test_a_wrong_field_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    said = refusal(tmp_path, text)
    assert f": {named}: " in said
    assert "node.toml" in said


@pytest.mark.parametrize(
    "text",
    ["ae_title = ", "ae_title = 'A'\nae_title = 'B'", "[listener]\nport=1\n[listener]\nport=2"],
    ids=["no value", "key twice", "table twice"],
)
def test_a_document_that_does_not_parse_is_refused(tmp_path: Path, text: str) -> None:
    assert "node.toml" in refusal(tmp_path, text)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b'ae_title = "\xff"')
    with pytest.raises(ConfigurationError, match=r"node\.toml"):
        load_settings(path)


@pytest.mark.parametrize("title", ["A", "M3LUNG", "with space", "SIXTEEN_CHARS_OK", "a#$%&'()*+,-"])
def test_legal_ae_titles(title: str) -> None:
    assert NodeSettings(ae_title=title).ae_title == title


@pytest.mark.parametrize(
    "title",
    ["", "   ", "SEVENTEEN_CHARS_X", "BACK\\SLASH", "TAB\tTAB", "ÄÖÜ", "NEW\nLINE", "DEL\x7f"],
)
def test_illegal_ae_titles(title: str) -> None:
    with pytest.raises(ValidationError, match="AE title"):
        NodeSettings(ae_title=title)


def test_padding_of_an_ae_title_does_not_count() -> None:
    assert NodeSettings(ae_title="  PACS  ").ae_title == "PACS"


def test_environment_wins_over_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, '[broker]\nurl = "redis://document"\n[listener]\nport = 104')
    monkeypatch.setenv("M3LUNG_BROKER__URL", "redis://:secret@environment")
    settings = load_settings(path)
    assert settings.broker.url == "redis://:secret@environment"
    assert settings.listener.port == 104


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("M3LUNG_BROKER__ULR", "redis://x", "broker.ulr"),
        ("M3LUNG_LISTENER__PORT", "many", "listener.port"),
        ("M3LUNG_PEERS", "[{", "peers"),
    ],
)
def test_a_wrong_environment_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=named):
        load_settings()


def test_peers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M3LUNG_PEERS", '[{"name": "pacs", "ae_title": "PACS", "port": 11113}]')
    assert load_settings().peer("pacs").port == 11113


def test_a_relative_state_dir_is_relative_to_its_document(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "node.toml"
    path.write_text('state_dir = "state"', encoding="utf-8")
    assert load_settings(Path("etc/node.toml")).root == tmp_path / "etc/state"


def test_a_home_relative_state_dir_is_the_users(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, 'state_dir = "~/m3"')).root == tmp_path / "home/m3"


def test_duplicate_peers_are_refused(tmp_path: Path) -> None:
    peer = '[[peers]]\nname = "pacs"\nae_title = "{}"\n'
    said = refusal(tmp_path, peer.format("A") + peer.format("B"))
    assert "every name may stand once" in said


@pytest.mark.parametrize("title", ["M3LUNG", "SECOND"])
def test_a_destination_that_is_the_node_itself_is_refused(tmp_path: Path, title: str) -> None:
    said = refusal(
        tmp_path,
        '[listener]\nport = 11112\ncalled_ae_titles = ["M3LUNG", "SECOND"]\n'
        f'[[peers]]\nname = "loop"\nae_title = "{title}"\nport = 11112',
    )
    assert "results would loop" in said
    assert "peers.loop" in said


@pytest.mark.parametrize(
    "line", ["port = 11113", 'roles = ["source"]\nport = 11112'], ids=["other port", "only source"]
)
def test_a_peer_of_the_same_title_that_is_no_loop_is_fine(tmp_path: Path, line: str) -> None:
    text = f'[[peers]]\nname = "twin"\nae_title = "M3LUNG"\n{line}'
    assert load_settings(write(tmp_path, text)).peer("twin").ae_title == "M3LUNG"


def test_a_disabled_peer_neither_sends_nor_gets(tmp_path: Path) -> None:
    path = write(tmp_path, '[[peers]]\nname = "pacs"\nae_title = "PACS"\nenabled = false')
    peer = load_settings(path).peer("pacs")
    assert not peer.is_source
    assert not peer.is_destination


def test_an_unknown_peer_is_answered_with_those_there_are(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, '[[peers]]\nname = "pacs"\nae_title = "PACS"'))
    with pytest.raises(ConfigurationError, match="no peer is called 'pasc'; known: pacs"):
        settings.peer("pasc")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        NodeSettings().listener.port = 1  # type: ignore[misc]


def test_where_the_document_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config() is None
    home = tmp_path / "home/.config/m3lung/node.toml"
    home.parent.mkdir(parents=True)
    home.touch()
    assert find_config() == home
    write(tmp_path, "")
    assert find_config() == Path("node.toml")
    named = tmp_path / "named.toml"
    monkeypatch.setenv("M3LUNG_CONFIG", str(named))
    with pytest.raises(ConfigurationError, match=r"no configuration at .*named\.toml"):
        find_config()
    named.touch()
    assert find_config() == named
    assert find_config(home) == home
    assert load_settings().ae_title == "M3LUNG"  # M3LUNG_CONFIG is no field
