"""A ledger of the first version is upgraded with its rows; one of a later version is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydicom import dcmread

import dicom_node.ledger
from dicom_node.ledger import open_ledger
from support.held import assert_exactly_one_result_set
from support.node import Node
from support.orthanc import Orthanc
from support.peers import require_peer
from support.postgresql_cluster import PostgresqlCluster

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]

FIRST = "0001"


def configuration() -> Config:
    config = Config()
    folder = Path(dicom_node.ledger.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    return config


def make_first(url: str, rows_of: str) -> int:
    """Make a ledger of the first version at `url` with the rows of another; return their number.

    What later versions added is left behind, as it was not there.
    """
    source, target = sa.create_engine(rows_of), sa.create_engine(url)
    config = configuration()
    copied = 0
    with target.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, FIRST)
    old, new = sa.MetaData(), sa.MetaData()
    old.reflect(target)
    new.reflect(source)
    with source.connect() as reading, target.begin() as writing:
        for table in old.sorted_tables:
            if table.name == "alembic_version":
                continue
            shared = [new.tables[table.name].c[column.name] for column in table.columns]
            rows = [dict(row) for row in reading.execute(sa.select(*shared)).mappings()]
            if rows:
                writing.execute(table.insert(), rows)
            copied += len(rows)
            if rows and target.name == "postgresql" and "id" in table.c:
                writing.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                    f"(SELECT max(id) FROM {table.name}))"
                )
    source.dispose()
    target.dispose()
    return copied


def version_of(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Of two empty databases."""
    if request.param == "sqlite":
        for name in ("present", "first"):
            (tmp_path / name).mkdir()
        yield (
            f"sqlite:///{tmp_path / 'present' / 'ledger.sqlite3'}",
            f"sqlite:///{tmp_path / 'first' / 'ledger.sqlite3'}",
        )
        return
    require_peer("postgresql")
    cluster: PostgresqlCluster = request.getfixturevalue("postgresql_cluster")
    with cluster.database() as present, cluster.database() as first:
        yield present, first


def test_a_node_goes_on_with_the_ledger_of_the_first_version(
    tmp_path: Path,
    small_bundle: Path,
    orthanc: Orthanc,
    chest_series: list[Path],
    urls: tuple[str, str],
) -> None:
    """A series is received by one version and read and delivered by another."""
    present, first = urls
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc], ledger_url=present) as node:
        node.start("listen", "reconcile")
        assert node.send(chest_series).returncode == 0
        node.wait_for_state(uid, lambda found: found.analysis_state == "waiting", "waiting")
        node.stop()
        assert make_first(first, rows_of=present) > len(chest_series)
        assert version_of(first) == FIRST

        config = node.config.read_text()
        node.config.write_text(config.replace(present, first))
        node.ledger_url = first
        node.start()  # all four parts at once: one upgrades, the others wait for it
        status = node.wait_until_delivered(uid)
        assert (status.received, status.attempts) == (len(chest_series), 1)
        assert_exactly_one_result_set(orthanc, first, uid)
        node.stop()
    assert version_of(first) == ScriptDirectory.from_config(configuration()).get_current_head()


@pytest.mark.parametrize("verb", ["listen", "reconcile", "deliver", "serve", "status"])
def test_a_ledger_of_a_later_version_is_refused_and_left_alone(
    tmp_path: Path, small_bundle: Path, verb: str
) -> None:
    with Node(tmp_path / "node", small_bundle) as node:
        open_ledger(node.ledger_url).close()
        path = tmp_path / "node" / "state" / "ledger.sqlite3"
        with closing(sqlite3.connect(path)) as ledger:
            ledger.execute("UPDATE alembic_version SET version_num = '9999'")
            ledger.commit()
            before = list(ledger.iterdump())
        done = node.m3lung(verb)
        assert done.returncode == 1, done.stdout
        said = done.stdout + done.stderr
        assert "schema 9999" in said
        assert "newer than this software" in said
        assert "Traceback" not in said
        with closing(sqlite3.connect(path)) as ledger:
            assert list(ledger.iterdump()) == before
