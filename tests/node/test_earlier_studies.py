"""What the ledger gives as earlier of the same patient: whose, from when, and for good."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from dicom_node.domain import EarlierReadings, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Database, Ledger, Plan, open_ledger
from dicom_node.ledger import tables as t
from dicom_node.ledger.earlier import MOST_EARLIER, _candidates, _of_analysis
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.schema import alembic_config
from dicom_node.settings import Priority

CT = "1.2.840.10008.5.1.4.1.1.2"


class Node:
    """A ledger into which studies of one patient come, a second after each other."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.count = 0

    def waiting(
        self,
        study_date: str,
        *,
        study: str = "",
        sender: str = "CT1",
        series: str = "",
        shadow: bool = False,
        **header: str,
    ) -> int:
        """Return the id of an analysis that waits."""
        self.count += 1
        clock.now += 1
        uid = series or f"2.25.7{self.count}"
        association = self.ledger.intake.open_association(
            calling_ae=sender, called_ae="M3LUNG", address="127.0.0.1"
        )
        fields = {"patient_id": "P1", "patient_name": "Doe^Jane"} | header
        one = InstanceHeader(
            sop_instance_uid=f"{uid}.{self.count}",
            sop_class_uid=CT,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid=study or f"2.25.8{self.count}",
            series_instance_uid=uid,
            study_date=study_date,
            **fields,
        )
        stored = StoredInstance(f"{self.count:064x}", Path("instances/none.dcm"), 10)
        self.ledger.intake.record_instances([Arrival(association, one, stored)])
        [revision] = self.ledger.revisions.receiving(60)
        assert self.ledger.revisions.close(revision, "quiet_period")
        [completed] = self.ledger.revisions.completed()
        plan = Plan("trial", Priority.NORMAL, shadow=shadow, destinations=())
        analysis = self.ledger.revisions.select(
            completed.revision_id,
            {"sop_instance_uids": [one.sop_instance_uid], "statements": []},
            plan,
        )
        assert analysis is not None
        return analysis

    def begin(self, analysis: int) -> Any:
        clock.now += 1
        claim = self.ledger.analyses.claim(analysis, this_owner(), 60)
        assert claim is not None
        return claim

    def read(self, study_date: str, **fields: Any) -> int:
        """Return the id of an analysis that is done; its result says which it is."""
        analysis = self.waiting(study_date, **fields)
        claim = self.begin(analysis)
        clock.now += 1
        self.ledger.analyses.finish(
            claim, result={"analysis": analysis}, objects=[], destinations={}
        )
        return analysis

    def earlier(self, analysis: int) -> EarlierReadings:
        return self.ledger.earlier.than(analysis)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


clock = Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def node(url: str) -> Iterator[Node]:
    with open_ledger(url, clock=clock) as ledger:
        yield Node(ledger)


def analyses(found: EarlierReadings) -> list[int]:
    return [one.result["analysis"] for one in found.readings]


def test_the_newest_study_comes_first(node: Node) -> None:
    old = node.read("20260102")
    older = node.read("20251224")  # came later, but is of an earlier day
    now = node.waiting("20260311")
    node.begin(now)
    found = node.earlier(now)
    assert analyses(found) == [old, older]
    assert found.reason == ""
    first = found.readings[0]
    assert first.study_date == dt.date(2026, 1, 2)
    assert (first.series_instance_uid, first.study_instance_uid) == ("2.25.71", "2.25.81")
    assert len(first.instance_set_digest) == 64


def test_nothing_of_before_has_a_reason(node: Node) -> None:
    def reason(**fields: Any) -> str:
        analysis = node.waiting(**({"study_date": "20260311"} | fields))
        node.begin(analysis)
        found = node.earlier(analysis)
        assert found.readings == ()
        return found.reason

    assert reason() == "this node has read no earlier study of the patient"
    node.read("20260401")
    assert "no earlier study" in reason()  # that one is later
    node.read("20260311")
    assert "same day" in reason()
    assert reason(patient_id="") == "the images name no patient"
    for text in ("", "2026", "2026.03.11", "20261341"):
        assert reason(study_date=text) == "the images have no study date"


def test_the_same_study_is_not_earlier(node: Node) -> None:
    node.read("20260102", study="2.25.9")
    now = node.waiting("20260102", study="2.25.9")
    node.begin(now)
    assert node.earlier(now) == EarlierReadings(
        reason="this node has read no earlier study of the patient"
    )


def test_what_is_not_read_does_not_count(node: Node) -> None:
    node.waiting("20260102")
    node.begin(node.waiting("20260103"))
    now = node.waiting("20260311")
    node.begin(now)
    assert node.earlier(now).readings == ()


def test_an_identifier_means_one_patient_of_one_issuer(node: Node) -> None:
    node.read("20260101", issuer_of_patient_id="NORTH")
    same = node.read("20260102", issuer_of_patient_id="SOUTH", sender="CT2")
    unknown = node.read("20260103")
    now = node.waiting("20260311", issuer_of_patient_id="SOUTH")
    node.begin(now)
    # The sender stands for an issuer that is not stated.
    assert analyses(node.earlier(now)) == [unknown, same]
    elsewhere = node.waiting("20260311", sender="CT9", patient_id="P1")
    node.begin(elsewhere)
    found = node.earlier(elsewhere)
    assert found.readings == ()
    assert "another sender" in found.reason


def test_another_name_is_another_patient(node: Node) -> None:
    node.read("20260102", patient_name="Roe^Richard")
    now = node.waiting("20260311")
    node.begin(now)
    found = node.earlier(now)
    assert found.readings == ()
    assert "names another patient" in found.reason
    assert "Roe" not in found.reason
    spelled = node.read("20260103", patient_name="DOE^JANE^^")
    unnamed = node.read("20260104", patient_name="")
    later = node.waiting("20260312")
    node.begin(later)
    assert analyses(node.earlier(later)) == [unnamed, spelled]


def test_a_shadow_stays_in_the_shadow(node: Node) -> None:
    open_one = node.read("20260101")
    hidden = node.read("20260102", shadow=True)
    outside, inside = node.waiting("20260311"), node.waiting("20260311", shadow=True)
    node.begin(outside)
    node.begin(inside)
    assert analyses(node.earlier(outside)) == [open_one]
    assert analyses(node.earlier(inside)) == [hidden, open_one]


def test_of_a_series_the_last_revision_counts(node: Node) -> None:
    node.read("20260102", series="2.25.7", study="2.25.8")
    second = node.read("20260102", series="2.25.7", study="2.25.8")
    now = node.waiting("20260311")
    node.begin(now)
    assert analyses(node.earlier(now)) == [second]


def test_what_counts_as_earlier_is_fixed_when_the_analysis_first_begins(node: Node) -> None:
    """A repeated attempt says what the first one would have said."""
    first = node.read("20260101")
    now = node.waiting("20260311")
    claim = node.begin(now)
    assert analyses(node.earlier(now)) == [first]
    node.ledger.analyses.fail(claim, "killed", 5, 0.0)
    node.read("20260201")  # read meanwhile
    node.begin(now)
    assert analyses(node.earlier(now)) == [first]
    afterwards = node.waiting("20260311")
    node.begin(afterwards)
    assert len(node.earlier(afterwards).readings) == 2


def test_only_the_newest_are_looked_at(node: Node) -> None:
    for day in range(1, MOST_EARLIER + 3):
        node.read(f"202601{day:02d}")
    now = node.waiting("20260311")
    node.begin(now)
    found = node.earlier(now).readings
    assert len(found) == MOST_EARLIER
    assert found[0].study_date == dt.date(2026, 1, MOST_EARLIER + 2)


def test_the_question_walks_along_the_patients_index(tmp_path: Path) -> None:
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock=clock) as ledger:
        node = Node(ledger)
        node.read("20260101")
        now = node.waiting("20260311")
        with ledger.database.read() as connection:
            mine = connection.execute(_of_analysis(now)).one()
            query = _candidates(mine).compile(connection, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
    steps = [str(row[-1]) for row in plan]
    [series] = [step for step in steps if step.startswith("SEARCH series")]
    assert "ix_series_patient_id_study_date" in series
    assert not [step for step in steps if step.startswith("SCAN")], steps


def test_a_ledger_of_before_knows_its_studies(url: str) -> None:
    """The upgrade reads dates and issuers from the headers that are kept."""
    database = Database(url)
    config = alembic_config()
    with database._one_migration_at_a_time() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0013")
        text = sa.text
        connection.execute(
            text(
                "INSERT INTO associations (id, calling_ae, called_ae, address, opened_at, "
                "last_activity_at) VALUES (1, 'CT1', 'M3LUNG', '::1', 0, 0)"
            )
        )
        headers = ['{"study_date": "20260102", "issuer_of_patient_id": "NORTH"}', "{}"]
        for number, header in enumerate(headers, start=1):
            connection.execute(
                text(
                    "INSERT INTO series (id, series_instance_uid, study_instance_uid, "
                    "accession_number, patient_id, modality, description, source_ae, "
                    "first_arrival_at, last_arrival_at) "
                    f"VALUES ({number}, '2.25.{number}', '2.25', '', 'P', 'CT', '', 'CT1', 0, 0)"
                )
            )
            for index in range(2):
                connection.execute(
                    text(
                        "INSERT INTO instances (series_id, revision_number, sop_instance_uid, "
                        "digest, path, size_bytes, header, association_id, received_at) "
                        f"VALUES ({number}, 1, '2.25.{number}.{index}', 'd', 'p', 1, :header, 1, 0)"
                    ),
                    {"header": header},
                )
    database.close()
    with open_ledger(url) as upgraded, upgraded.database.read() as connection:
        s = t.series.c
        rows = connection.execute(sa.select(s.study_date, s.issuer_of_patient_id).order_by(s.id))
        assert [tuple(row) for row in rows] == [("20260102", "NORTH"), ("", "")]
