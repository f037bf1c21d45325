"""Backup and restore as programs: what is taken, what is refused, what a copy forgets."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from dicom_node.audit import records
from dicom_node.backup import Images, check, restore, save
from dicom_node.cli.app import assemble
from dicom_node.errors import BackupUnusable, ConfigurationError, SchemaMismatch
from dicom_node.ledger import Ledger, open_ledger, tables
from dicom_node.ledger.database import Database
from dicom_node.ledger.journal import row_counts
from dicom_node.pulse import Pulse
from dicom_node.settings import NodeSettings, SupersedePolicy
from support.ledger_life import LedgerLife


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    """A node with a series that waits for a reading, one that was rejected, and their images."""
    settings = NodeSettings(state_dir=tmp_path / "state")
    with open_ledger(settings.ledger_url) as ledger:
        life = LedgerLife(ledger)
        life.set_aside("no axial images", skipped=False)
        life.selected()
        Pulse(ledger, "listen").beat()
        with ledger.database.read() as connection:
            paths = list(connection.scalars(sa.select(tables.instances.c.path)))
    assert len(paths) == 6
    for path in paths:
        settings.spool_dir.mkdir(exist_ok=True)
        (settings.spool_dir / path).write_bytes(path.encode())
    return settings


def saved(settings: NodeSettings, folder: Path, images: Images = Images.UNFINISHED) -> Path:
    with open_ledger(settings.ledger_url) as ledger:
        assert save(settings, ledger, folder, images=images).missing == []
    return folder


def elsewhere(tmp_path: Path, **fields: object) -> NodeSettings:
    return NodeSettings.model_validate({"state_dir": tmp_path / "elsewhere", **fields})


@pytest.mark.parametrize(
    ("images", "taken", "absent"),
    [(Images.UNFINISHED, 3, 3), (Images.ALL, 6, 0), (Images.NONE, 0, 6)],
)
def test_images_that_are_not_taken_count_as_removed(
    settings: NodeSettings, tmp_path: Path, images: Images, taken: int, absent: int
) -> None:
    folder = saved(settings, tmp_path / "backup", images)
    assert len(list((folder / "spool").rglob("*.dcm"))) == taken
    other = elsewhere(tmp_path)
    assert restore(other, folder).absent == absent
    with open_ledger(other.ledger_url) as ledger, ledger.database.read() as connection:
        purged = sa.select(sa.func.count(tables.instances.c.purged_at))
        assert connection.scalar(purged) == absent
        removed = sa.select(sa.func.count(tables.series.c.removed_at))
        assert connection.scalar(removed) == absent // 3
    for path in (folder / "spool").rglob("*.dcm"):
        assert (other.spool_dir / path.name).read_bytes() == path.read_bytes()


def test_every_row_comes_back_but_who_ran(settings: NodeSettings, tmp_path: Path) -> None:
    folder = saved(settings, tmp_path / "backup")
    restore(elsewhere(tmp_path), folder)
    with (
        open_ledger(settings.ledger_url) as old,
        open_ledger(elsewhere(tmp_path).ledger_url) as new,
    ):
        before, after = row_counts(old.database), row_counts(new.database)
    assert before["processes"] == 1
    assert after == before | {"processes": 0}


@pytest.mark.peer("postgresql")
def test_from_postgresql_and_back(
    settings: NodeSettings, tmp_path: Path, postgresql_url: str
) -> None:
    """SQLite to PostgreSQL to SQLite: the same rows, and ids go on behind them."""
    folder = saved(settings, tmp_path / "backup")
    big = elsewhere(tmp_path, ledger={"url": postgresql_url})
    restore(big, folder)
    with open_ledger(postgresql_url) as ledger:
        LedgerLife(ledger).receive(series=900)  # of a new series: the ids it gets are free
        expected = row_counts(ledger.database)
    again = saved(big, tmp_path / "again", Images.NONE)
    small = NodeSettings(state_dir=tmp_path / "small")
    restore(small, again)
    with open_ledger(small.ledger_url) as ledger:
        assert row_counts(ledger.database) == expected
    with pytest.raises(BackupUnusable, match="holds a ledger already"):
        restore(elsewhere(tmp_path / "third", ledger={"url": postgresql_url}), folder)


def test_a_backup_that_was_altered_is_refused_before_anything_is_written(
    settings: NodeSettings, tmp_path: Path
) -> None:
    folder = saved(settings, tmp_path / "backup")
    other = elsewhere(tmp_path)
    image = next((folder / "spool").rglob("*.dcm"))
    content = image.read_bytes()
    image.write_bytes(content + b".")
    with pytest.raises(BackupUnusable, match=f"{image.name} is not what was saved"):
        restore(other, folder)
    image.unlink()
    with pytest.raises(BackupUnusable, match="No such file"):
        restore(other, folder)
    image.write_bytes(content)
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{'0' * 64}  ../outside\n")
    with pytest.raises(BackupUnusable, match="is not the list"):
        restore(other, folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(BackupUnusable, match="no finished backup"):
        restore(other, folder)
    assert not other.root.exists()


def test_a_name_that_leads_outside_is_refused(settings: NodeSettings, tmp_path: Path) -> None:
    """Even where whoever altered the list made the manifest fit."""
    folder = saved(settings, tmp_path / "backup")
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text() + f"{'0' * 64}  ../outside\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sums_sha256"] = hashlib.sha256(sums.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackupUnusable, match="not a line of it"):
        check(folder)


def test_nothing_is_put_over_a_node(settings: NodeSettings, tmp_path: Path) -> None:
    folder = saved(settings, tmp_path / "backup")
    with pytest.raises(BackupUnusable, match="into an empty state directory"):
        restore(settings, folder)
    other = elsewhere(tmp_path, ledger={"url": f"sqlite:///{tmp_path / 'apart.sqlite3'}"})
    (tmp_path / "apart.sqlite3").touch()
    with pytest.raises(BackupUnusable, match="nothing is put over a ledger"):
        restore(other, folder)


def test_a_backup_of_a_later_version_is_refused(settings: NodeSettings, tmp_path: Path) -> None:
    with open_ledger(settings.ledger_url):
        pass
    with closing(sqlite3.connect(settings.root / "ledger.sqlite3")) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.commit()
    # As the later version would save it.
    with Ledger(Database(settings.ledger_url), SupersedePolicy.ALWAYS) as later:
        save(settings, later, tmp_path / "backup")
    other = elsewhere(tmp_path)
    with pytest.raises(SchemaMismatch, match="schema 9999, newer than this software"):
        restore(other, tmp_path / "backup")
    assert not (other.root / "ledger.sqlite3").exists()


def test_a_restore_that_was_cut_off_is_run_again(settings: NodeSettings, tmp_path: Path) -> None:
    folder = saved(settings, tmp_path / "backup")
    another = saved(settings, tmp_path / "another", Images.NONE)
    other = elsewhere(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dicom_node.backup.restoring._put_ledger", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            restore(other, folder)
    assert not (other.root / "ledger.sqlite3").exists()
    with pytest.raises(BackupUnusable, match="a restore from another backup"):
        restore(other, another)
    assert restore(other, folder).absent == 3
    assert sorted(path.name for path in other.root.iterdir()) == [
        "audit",
        "ledger.sqlite3",
        "spool",
    ]


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_lost_is_told(settings: NodeSettings, tmp_path: Path) -> None:
    waiting = max(settings.spool_dir.iterdir())
    waiting.unlink()
    config = tmp_path / "node.toml"
    config.write_text(f'state_dir = "{settings.root}"\n')
    done = _run("backup", "--out", tmp_path / "backup", "--config", config)
    assert done.exit_code == 1
    assert f"spool/{waiting.name}" in done.output.replace("\n", "")
    assert json.loads((tmp_path / "backup" / "manifest.json").read_text())["missing"] == 1


def _run(*words: object) -> Result:
    return CliRunner().invoke(assemble(), [str(word) for word in words])


def test_at_the_command_line(settings: NodeSettings, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'state_dir = "{settings.root}"\n')
    folder = tmp_path / "backup"
    assert _run("backup", "--out", folder, "--config", config).exit_code == 0
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*")} == {0}
    again = _run("backup", "--out", folder, "--config", config)
    assert isinstance(again.exception, ConfigurationError)
    whole = _run("restore", folder, "--check")
    assert "whole" in whole.output

    nowhere = tmp_path / "b" / "node.toml"
    nowhere.parent.mkdir()
    nowhere.write_text(f'state_dir = "{tmp_path / "elsewhere"}"\n')
    done = _run("restore", folder, "--config", nowhere, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["absent"] == 3
    # The trail goes on: what was saved, and that it came back.
    said = [
        record["EventIdentification"].get("EventOutcomeDescription", "")
        for record in records(tmp_path / "elsewhere" / "audit")
    ]
    assert said[-1].startswith("restored from a backup made at ")


def test_what_has_no_room_is_not_begun(
    settings: NodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.backup.saving._SPARE_BYTES", 1 << 60)
    with (
        open_ledger(settings.ledger_url) as ledger,
        pytest.raises(BackupUnusable, match="GB are free"),
    ):
        save(settings, ledger, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
