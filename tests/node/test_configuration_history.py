"""Versions of the document: who, when, what; bounded, compared, restored, without secrets."""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path

import pytest

from dicom_node.configuration import (
    Change,
    ConfigurationDocument,
    History,
    difference,
    history,
    masked,
)
from dicom_node.configuration.history import BY_HAND
from dicom_node.errors import ConfigurationError
from dicom_node.settings import load_settings

FIRST = 'state_dir = "state"  # beside\nlog_level = "info"\n'


@pytest.fixture
def document(tmp_path: Path) -> ConfigurationDocument:
    path = tmp_path / "node.toml"
    path.write_text(FIRST)
    return ConfigurationDocument(path)


def set_level(document: ConfigurationDocument, level: str, author: str = "ada") -> None:
    document.edit(
        Change(author, "console", f"log level {level}"),
        lambda text: re.sub(r'log_level = "\w+"', f'log_level = "{level}"', text),
    )


def versions(document: ConfigurationDocument) -> list[tuple[int, str, str]]:
    root = load_settings(document.path).root
    return [
        (v.number, v.change.author or v.change.verb, v.change.words)
        for v in History(root).versions()
    ]


def test_each_version_says_who_and_what(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    set_level(document, "error", 'Zoë \\ "quoted"\nand more')
    assert versions(document) == [
        (3, 'Zoë \\ "quoted"\nand more', "log level error"),
        (2, "ada", "log level debug"),
        (1, BY_HAND, "found in the document"),
    ]
    found = History(load_settings(document.path).root)
    assert [v.text().count("debug") for v in found.versions()] == [0, 1, 0]
    assert found.version(1).text() == FIRST  # type: ignore[union-attr]
    assert found.version(9) is None
    assert all(v.at is not None for v in found.versions())


def test_what_was_edited_by_hand_is_kept_before_it_is_replaced(
    document: ConfigurationDocument,
) -> None:
    set_level(document, "debug")
    document.path.write_text(document.text() + "# by hand\n")
    set_level(document, "error")
    assert [who for _, who, _ in versions(document)] == ["ada", BY_HAND, "ada", BY_HAND]


def test_nothing_changed_is_no_version(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    set_level(document, "debug")
    assert len(versions(document)) == 2


def test_what_is_wrong_leaves_no_trace(document: ConfigurationDocument) -> None:
    with pytest.raises(ConfigurationError, match="log_level"):
        set_level(document, "loud")
    assert document.text() == FIRST
    assert [path.name for path in document.path.parent.iterdir()] == ["node.toml"]


def test_the_number_kept_is_bounded(
    document: ConfigurationDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_VERSIONS", 5)
    for turn in range(9):
        set_level(document, ("debug", "error")[turn % 2])
    assert [number for number, _, _ in versions(document)] == [10, 9, 8, 7, 6]


def test_a_version_comes_back_as_a_new_one(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    first = History(load_settings(document.path).root).version(1)
    assert first is not None
    document.restore(first, Change("bob", "console", "version 1 restored"))
    assert document.text() == FIRST
    assert versions(document)[0] == (3, "bob", "version 1 restored")


def test_a_document_that_does_not_load_can_be_rolled_back(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    document.path.write_text("log_level = \n")
    with pytest.raises(ConfigurationError):
        set_level(document, "error")
    [newest, *_] = History(document.path.parent / "state").versions()
    document.restore(newest, Change("bob", "console", "restored"))
    assert load_settings(document.path).log_level == "debug"
    assert [who for _, who, _ in versions(document)] == ["bob", BY_HAND, "ada", BY_HAND]


def test_a_version_that_is_wrong_today_is_refused(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    first = History(load_settings(document.path).root).version(1)
    assert first is not None
    first.path.write_text("no_such_field = 1\n")
    with pytest.raises(ConfigurationError, match="no_such_field"):
        document.restore(first, Change("bob", "console", "restored"))
    assert load_settings(document.path).log_level == "debug"


def test_versions_are_for_their_owner_alone(document: ConfigurationDocument) -> None:
    set_level(document, "debug")
    found = History(load_settings(document.path).root)
    assert found.folder.stat().st_mode & 0o77 == 0
    assert all(v.path.stat().st_mode & 0o77 == 0 for v in found.versions())


def _add_lines(path: Path, name: str) -> None:
    document = ConfigurationDocument(path)
    for number in range(5):
        document.edit(Change(name, "console", ""), lambda text, n=number: text + f"# {name} {n}\n")


def test_two_writers_lose_nothing(document: ConfigurationDocument) -> None:
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    writers = [context.Process(target=_add_lines, args=(document.path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert sorted(document.text().splitlines()[2:]) == [
        f"# {w} {n}" for w in "ab" for n in range(5)
    ]
    assert len(versions(document)) == 11


@pytest.mark.parametrize(
    "line",
    [
        'url = "postgresql+psycopg://m3lung:hunter22@db/ledger"',
        'url = "redis://:hunter22@127.0.0.1:6379/0"',
        'url = "redis://:hunter22/and@more@127.0.0.1:6379/0"',
        "password = 'hunter22'",
        'password = "h"  # hunter22',
        '# password = "hunter22"',
        'secret="hunter22"',
        'accepted_token = "hunter22,hunter22x"',
        'mail = {password = "hunter22", host = "x"}',
        '"password" = "hunter22"',
        "password = hunter22",
        'password = """\nhunter22\n"""',
        'password = """\nhunter22\n',
        'accepted_token = [\n"hunter22",\n',
        'url = "https://hook.example.org/x?token=hunter22&a=b"',
        'password = "hunter22"\nnote = "it is hunter22"',
    ],
)
def test_secrets_do_not_show(line: str) -> None:
    assert "hunter22" not in masked(line)
    for former, latter in (("", line), (line, ""), (line, line + "\n# more")):
        shown = " ".join(item.text for item in difference(former, latter).lines)
        assert "hunter22" not in shown


def test_what_is_no_secret_shows() -> None:
    text = 'key = "certs/m3lung.key"\nhost = "pacs"\nstow_url = "https://pacs/dicom-web/studies"\n'
    assert masked(text) == text


def test_a_changed_secret_shows_as_changed() -> None:
    found = difference('password = "one-secret"\n', 'password = "two-secret"\n')
    assert [line.kind for line in found.lines] == ["gone", "new"]
    assert all("secret" not in line.text for line in found.lines)


def test_a_difference_has_numbers_and_leaves_out_what_is_the_same() -> None:
    before = "".join(f"line {n}\n" for n in range(1, 31))
    found = difference(before, before.replace("line 20\n", "line twenty\nand more\n"))
    assert (found.gone, found.new) == (1, 2)
    assert [(line.kind, line.old, line.new) for line in found.lines[:6]] == [
        ("gap", None, None),
        ("same", 17, 17),
        ("same", 18, 18),
        ("same", 19, 19),
        ("gone", 20, None),
        ("new", None, 20),
    ]
    assert difference(before, before).lines == ()
