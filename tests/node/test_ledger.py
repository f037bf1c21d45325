"""The ledger's promises, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dicom_node.domain import ObjectKind, Receipt, StoredInstance
from dicom_node.errors import (
    IllegalTransition,
    LeaseLost,
    LedgerError,
    OutOfResources,
    SchemaMismatch,
)
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Database, Ledger, NewObject, open_ledger, tables
from dicom_node.ledger.leases import owner_is_gone, this_owner
from dicom_node.ledger.schema import HEAD, alembic_config
from dicom_node.ledger.states import AnalysisEvent, DeliveryEvent
from dicom_node.settings import SupersedePolicy

CT = "1.2.840.10008.5.1.4.1.1.2"
SERIES = "1.2.826.0.1.3680043.10.1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(url, clock=clock) as opened:
        yield opened


def arrival(
    association: int, number: int, *, digest: str = "a", series: str = SERIES, own: bool = False
) -> Arrival:
    header = InstanceHeader(
        sop_instance_uid=f"{series}.{number}",
        sop_class_uid=CT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid="1.2.826.0.1.3680043.10",
        series_instance_uid=series,
        accession_number="A17",
        from_this_node=own,
    )
    name = f"{digest}{number}"
    return Arrival(association, header, StoredInstance(name, Path(f"instances/{name}.dcm"), 10))


def associate(ledger: Ledger) -> int:
    return ledger.intake.open_association(calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1")


def receive(ledger: Ledger, count: int = 3) -> int:
    association = associate(ledger)
    ledger.intake.record_instances([arrival(association, n) for n in range(count)])
    ledger.intake.close_association(association, outcome="released", ignored={})
    return association


def selected(ledger: Ledger, count: int = 3) -> int:
    receive(ledger, count)
    return select_open_revision(ledger)


def select_open_revision(ledger: Ledger) -> int:
    [revision] = ledger.revisions.receiving(60)
    assert ledger.revisions.close(revision, "quiet_period")
    [completed] = ledger.revisions.completed()
    uids = [header.sop_instance_uid for header in ledger.revisions.headers(completed.revision_id)]
    analysis = ledger.revisions.select(
        completed.revision_id, {"sop_instance_uids": uids, "statements": ["all"]}
    )
    assert analysis is not None
    return analysis


def reports(tag: str, count: int = 3) -> list[NewObject]:
    return [
        NewObject(
            ObjectKind.REPORT, "report", n, f"1.2.{n}", f"2.25.{tag}{n}", "2.25.8", "p", "s", 1
        )
        for n in range(count)
    ]


def analysed(ledger: Ledger, *destinations: str) -> int:
    """Return the id of an analysis with two overlays and one report in three alternatives."""
    claim = ledger.analyses.claim(selected(ledger), this_owner(), 60)
    assert claim is not None
    overlays = [
        NewObject(ObjectKind.OVERLAY, f"overlay/{n}", 0, "1.7", f"2.25.7{n}", "2.25.9", "p", "s", 1)
        for n in range(2)
    ]
    ledger.analyses.finish(
        claim,
        result={"ok": True},
        objects=[*reports("1"), *overlays],
        destinations={name: list(ObjectKind) for name in destinations},
    )
    return claim.analysis_id


# -- intake -------------------------------------------------------------------------------------


def test_receipts(ledger: Ledger) -> None:
    association = associate(ledger)
    batch = [arrival(association, 1), arrival(association, 2), arrival(association, 1)]
    assert ledger.intake.record_instances(batch) == [
        Receipt.STORED,
        Receipt.STORED,
        Receipt.DUPLICATE,
    ]
    again = [arrival(association, 2), arrival(association, 2, digest="b")]
    assert ledger.intake.record_instances(again) == [Receipt.DUPLICATE, Receipt.CONFLICT]
    assert ledger.worklist.counts().conflicts == 1
    [status] = ledger.worklist.find(accession="A17")
    assert status.received == 2
    # The same SOP Instance UID under another series is a conflict, too, whatever its bytes.
    stranger = arrival(association, 2)
    stranger = Arrival(
        association,
        stranger.header.model_copy(update={"series_instance_uid": SERIES + "9"}),
        stranger.stored,
    )
    assert ledger.intake.record_instances([stranger]) == [Receipt.CONFLICT]


def test_own_output_never_becomes_a_series(ledger: Ledger) -> None:
    analysed(ledger, "pacs")
    association = associate(ledger)
    returned = arrival(association, 0)
    returned = Arrival(
        association,
        returned.header.model_copy(update={"sop_instance_uid": "2.25.70"}),
        returned.stored,
    )
    marked = arrival(association, 5, series="1.9", own=True)
    assert ledger.intake.record_instances([returned, marked]) == [Receipt.OWN_OUTPUT] * 2
    assert ledger.worklist.find(uid="1.9") == []


def test_a_closed_ledger_refuses_whole_batches(ledger: Ledger) -> None:
    association = associate(ledger)
    with ledger.database.write() as connection:
        connection.execute(sa.text("DROP TABLE events"))
    with pytest.raises(sa.exc.SQLAlchemyError):
        ledger.intake.record_instances([arrival(association, 1)])
    with ledger.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.instances)) == 0


# -- completion ---------------------------------------------------------------------------------


def test_an_open_association_is_seen_and_forgotten_after_the_idle_timeout(
    ledger: Ledger, clock: Clock
) -> None:
    association = associate(ledger)
    ledger.intake.record_instances([arrival(association, 1)])
    assert not ledger.revisions.receiving(60)[0].associations_over
    clock.now += 61
    assert ledger.revisions.receiving(60)[0].associations_over
    ledger.intake.record_instances([arrival(association, 2)])
    assert not ledger.revisions.receiving(60)[0].associations_over
    ledger.intake.close_association(association, outcome="aborted", ignored={"1.2": 3})
    assert ledger.revisions.receiving(60)[0].associations_over


def test_close_refuses_when_an_image_arrived_meanwhile(ledger: Ledger) -> None:
    receive(ledger)
    [seen] = ledger.revisions.receiving(60)
    ledger.intake.record_instances([arrival(associate(ledger), 99)])
    assert not ledger.revisions.close(seen, "quiet_period")
    [seen] = ledger.revisions.receiving(60)
    assert ledger.revisions.close(seen, "quiet_period")
    assert not ledger.revisions.close(seen, "quiet_period")


def test_the_instance_set_digest_does_not_depend_on_order(url: str, tmp_path: Path) -> None:
    digests = []
    for run, order in enumerate(([0, 1, 2], [2, 0, 1])):
        with open_ledger(f"sqlite:///{tmp_path / f'{run}.sqlite3'}") as ledger:
            association = associate(ledger)
            for number in order:
                ledger.intake.record_instances([arrival(association, number)])
            analysis = select_open_revision(ledger)
            claim = ledger.analyses.claim(analysis, "x", 60)
            assert claim is not None
            digests.append(claim.instance_set_digest)
    assert digests[0] == digests[1]


def test_late_slices_open_the_next_revision(ledger: Ledger) -> None:
    analysed(ledger, "pacs")
    assert ledger.intake.record_instances([arrival(associate(ledger), 50)]) == [Receipt.STORED]
    [status] = ledger.worklist.find(uid=SERIES)
    assert (status.revision, status.received, status.state) == (2, 4, "receiving")
    claim = ledger.analyses.claim(select_open_revision(ledger), "x", 60)
    assert claim is not None
    assert len(claim.instances) == 4
    assert [uid for _, uid, _ in claim.predecessors] == ["2.25.10", "2.25.11", "2.25.12"]


def test_late_slices_stop_a_running_analysis(ledger: Ledger) -> None:
    claim = ledger.analyses.claim(selected(ledger), "x", 60)
    assert claim is not None
    ledger.intake.record_instances([arrival(associate(ledger), 50)])
    with pytest.raises(LeaseLost):
        ledger.analyses.progress(claim, 60, "network", 1, 2)
    with pytest.raises(LeaseLost):
        ledger.analyses.finish(claim, result={}, objects=reports("5"), destinations={})
    with ledger.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.objects)) == 0


def test_late_slices_can_be_kept_aside_by_policy(url: str) -> None:
    with open_ledger(url, supersede=SupersedePolicy.NEVER) as ledger:
        analysed(ledger, "pacs")
        assert ledger.intake.record_instances([arrival(associate(ledger), 50)]) == [Receipt.STORED]
        [status] = ledger.worklist.find(uid=SERIES)
        assert (status.revision, status.received, status.analysis_state) == (1, 3, "done")
        assert ledger.revisions.receiving(60) == []


# -- leases -------------------------------------------------------------------------------------


def test_only_one_claim_wins_and_the_old_token_is_fenced(ledger: Ledger, clock: Clock) -> None:
    analysis = selected(ledger)
    first = ledger.analyses.claim(analysis, "elsewhere|b|n|1|1", 60)
    assert first is not None
    assert ledger.analyses.claim(analysis, "other", 60) is None
    assert ledger.analyses.return_expired(3) == []
    clock.now += 61
    assert ledger.analyses.return_expired(3) == [analysis]
    second = ledger.analyses.claim(analysis, "other", 60)
    assert second is not None
    assert second.attempt == 2
    with pytest.raises(LeaseLost):
        ledger.analyses.finish(first, result={}, objects=reports("1"), destinations={})
    ledger.analyses.finish(
        second, result={}, objects=reports("1"), destinations={"pacs": ["report"]}
    )
    with pytest.raises(LeaseLost):
        ledger.analyses.set_aside(second, AnalysisEvent.SKIP, "no")


def test_a_dead_owner_on_this_machine_loses_its_lease_at_once(ledger: Ledger) -> None:
    analysis = selected(ledger)
    child = os.fork()
    if child == 0:
        os.execvp("sleep", ["sleep", "30"])
    owner = this_owner().split("|")
    started = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[19]
    name = "|".join([*owner[:3], str(child), started])
    assert not owner_is_gone(name)
    assert ledger.analyses.claim(analysis, name, 3600) is not None
    assert ledger.analyses.return_expired(3) == []
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert ledger.analyses.return_expired(3) == [analysis]
    assert not owner_is_gone(this_owner())
    assert not owner_is_gone("another-host|b|n|1|1")


def test_poison_is_quarantined_after_three_attempts(ledger: Ledger, clock: Clock) -> None:
    analysis = selected(ledger)
    for _ in range(3):
        assert ledger.analyses.claim(analysis, "elsewhere|b|n|1|1", 60) is not None
        clock.now += 61
        assert ledger.analyses.return_expired(3) == [analysis]
    assert ledger.analyses.claim(analysis, "x", 60) is None
    [status] = ledger.worklist.find()
    assert status.analysis_state == "quarantined"
    assert "set aside" in status.reason
    assert ledger.worklist.retry(status.series_id) == ["the analysis is queued again"]
    assert ledger.analyses.claim(analysis, "x", 60) is not None


def test_failures_wait_before_the_next_try(ledger: Ledger, clock: Clock) -> None:
    analysis = selected(ledger)
    claim = ledger.analyses.claim(analysis, "x", 60)
    assert claim is not None
    ledger.analyses.fail(claim, "the GPU is out of memory", 3, retry_in_s=30)
    assert ledger.analyses.due(5) == []
    clock.now += 31
    assert ledger.analyses.due(5) == [analysis]
    assert ledger.analyses.due(5) == []
    clock.now += 6
    assert ledger.analyses.due(5) == [analysis]


# -- deliveries ---------------------------------------------------------------------------------


def test_only_what_failed_is_sent_again(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs", "archive")
    first, second = ledger.shipments.due(5)
    claim = ledger.shipments.claim(first, "x", 60)
    assert claim is not None
    assert ledger.shipments.claim(first, "y", 60) is None
    assert [item.slot for item in claim.pending] == ["overlay/0", "overlay/1", "report"]
    good, bad, report = claim.pending
    ledger.shipments.choose(claim, report.delivery_id, report.candidates[1].object_id)
    ledger.shipments.record(claim, good.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60, status=0)
    ledger.shipments.record(
        claim, bad.delivery_id, DeliveryEvent.TRANSIENT, lease_s=60, status=0xA700, error="full"
    )
    assert not ledger.shipments.release(claim, retry_in_s=10, error="full")
    assert ledger.shipments.claim(first, "y", 60) is None  # not ready yet
    clock.now += 11
    again = ledger.shipments.claim(first, "y", 60)
    assert again is not None
    assert [item.slot for item in again.pending] == ["overlay/1", "report"]
    assert [c.rank for c in again.pending[1].candidates] == [1]  # the choice stays
    with pytest.raises(LeaseLost):
        ledger.shipments.record(claim, bad.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60)
    ledger.shipments.record(again, bad.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60)
    ledger.shipments.record(again, report.delivery_id, DeliveryEvent.PERMANENT, lease_s=60)
    with pytest.raises(IllegalTransition):
        ledger.shipments.record(again, report.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60)
    assert ledger.shipments.release(again, retry_in_s=0)
    assert ledger.shipments.due(5) == [second] or second in ledger.shipments.due(0)
    [status] = ledger.worklist.find()
    states = {item.destination: item.states for item in status.deliveries}
    assert states["archive"] == {"waiting": 3}
    # 'first' may be either destination: the ledger promises no order between them
    assert sum(states["pacs"].values()) == 3
    assert any("tried again" in words for words in ledger.worklist.retry(status.series_id))


def test_a_dead_sender_loses_its_shipment(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs")
    [shipment] = ledger.shipments.due(5)
    assert ledger.shipments.claim(shipment, "elsewhere|b|n|1|1", 60) is not None
    assert ledger.shipments.return_expired() == []
    clock.now += 61
    assert ledger.shipments.return_expired() == [shipment]
    assert ledger.shipments.claim(shipment, "x", 60) is not None


def test_nothing_is_purged_before_it_is_delivered(ledger: Ledger, clock: Clock) -> None:
    analysed(ledger, "pacs")
    clock.now += 100
    assert ledger.retention.purgeable(50, without_proof_s=0.0) == []
    [shipment] = ledger.shipments.due(5)
    claim = ledger.shipments.claim(shipment, "x", 60)
    assert claim is not None
    for item in claim.pending:
        ledger.shipments.record(claim, item.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60)
    ledger.shipments.release(claim, retry_in_s=0)
    assert ledger.retention.purgeable(500, without_proof_s=0.0) == []
    assert ledger.retention.purgeable(50) == []  # sent, and nothing proves that it is held
    purgeable = ledger.retention.purgeable(50, without_proof_s=0.0)
    assert len(purgeable) == 3
    assert ledger.retention.unknown({item.digest for item in purgeable} | {"f" * 64}) == {"f" * 64}
    assert ledger.retention.purge(50, without_proof_s=0.0) == purgeable
    assert ledger.retention.purge(50, without_proof_s=0.0) == []
    assert len(ledger.retention.unknown({item.digest for item in purgeable})) == 3


def purged(ledger: Ledger, clock: Clock) -> list[str]:
    """Return the digests of a series that was sent, and went by policy."""
    analysed(ledger, "pacs")
    [shipment] = ledger.shipments.due(5)
    claim = ledger.shipments.claim(shipment, "x", 60)
    assert claim is not None
    for item in claim.pending:
        ledger.shipments.record(claim, item.delivery_id, DeliveryEvent.ACCEPTED, lease_s=60)
    ledger.shipments.release(claim, retry_in_s=0)
    clock.now += 100
    return [item.digest for item in ledger.retention.purge(50, without_proof_s=0.0)]


def test_what_was_purged_is_held_again_when_it_comes_again(ledger: Ledger, clock: Clock) -> None:
    digests = purged(ledger, clock)
    again = [arrival(associate(ledger), 1)]
    assert ledger.intake.record_instances(again) == [Receipt.DUPLICATE]
    assert ledger.retention.unknown(digests) == set(digests) - {"a1"}
    # … for as long as if it came for the first time.
    clock.now += 49
    assert ledger.retention.purge(50, without_proof_s=0.0) == []
    clock.now += 2
    assert [item.digest for item in ledger.retention.purge(50, without_proof_s=0.0)] == ["a1"]
    [status] = ledger.worklist.find(uid=SERIES)
    assert (status.revision, status.analysis_state) == (1, "done")


def test_a_file_that_is_gone_again_is_not_acknowledged(ledger: Ledger, clock: Clock) -> None:
    digests = purged(ledger, clock)
    association = associate(ledger)
    batch = [arrival(association, 1), arrival(association, 50)]
    with pytest.raises(OutOfResources, match="send it again"):
        ledger.intake.record_instances(batch, is_kept=lambda stored: stored.digest != "a1")
    assert ledger.retention.unknown([*digests, "a50"]) == {*digests, "a50"}


def test_files_are_removed_only_where_nobody_refers_to_them(ledger: Ledger, clock: Clock) -> None:
    digests = purged(ledger, clock)
    with ledger.database.read() as connection:
        assert connection.scalar(sa.select(tables.series.c.removed_at)) == clock.now
    ledger.intake.record_instances([arrival(associate(ledger), 1)])
    # One of three is held again: the sweep looks at the series once more.
    with ledger.database.read() as connection:
        assert connection.scalar(sa.select(tables.series.c.removed_at)) is None
    removed: list[str] = []
    ledger.retention.remove([*digests, "f" * 64], removed.append)
    assert removed == ["a0", "a2", "f" * 64]


def test_a_revision_tells_what_it_lacks(ledger: Ledger, clock: Clock) -> None:
    purged(ledger, clock)
    association = associate(ledger)
    ledger.intake.record_instances([arrival(association, 1), arrival(association, 50)])
    [revision] = ledger.revisions.receiving(60)
    assert ledger.revisions.removed(revision.revision_id) == 2
    assert len(ledger.revisions.headers(revision.revision_id)) == 4


# -- schema -------------------------------------------------------------------------------------


def test_the_migrations_make_the_schema_that_the_code_uses(ledger: Ledger) -> None:
    with ledger.database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []


def test_series_without_images_are_known_after_the_upgrade(url: str) -> None:
    _as_of_0002(url, {"2.25.1": [5.0, 7.0], "2.25.2": [5.0, None], "2.25.3": [None]})
    with open_ledger(url) as upgraded, upgraded.database.read() as connection:
        s = tables.series.c
        rows = connection.execute(sa.select(s.series_instance_uid, s.removed_at).order_by(s.id))
        assert [tuple(row) for row in rows] == [("2.25.1", 7.0), ("2.25.2", None), ("2.25.3", None)]
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []


def test_the_schema_that_the_code_asks_for_is_the_newest() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def _as_of_0002(url: str, series: dict[str, list[float | None]]) -> None:
    """Make a ledger as that version left it: {series: when each of its instances was purged}."""
    database = Database(url)
    config = alembic_config()
    with database._one_migration_at_a_time() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(
            sa.text(
                "INSERT INTO associations (id, calling_ae, called_ae, address, opened_at, "
                "last_activity_at) VALUES (1, 'CT1', 'M3LUNG', '::1', 0, 0)"
            )
        )
        for number, (uid, purged) in enumerate(series.items(), start=1):
            connection.execute(
                sa.text(
                    "INSERT INTO series (id, series_instance_uid, study_instance_uid, "
                    "accession_number, patient_id, modality, description, source_ae, "
                    "first_arrival_at, last_arrival_at) "
                    f"VALUES ({number}, '{uid}', '2.25', '', '', 'CT', '', 'CT1', 0, 0)"
                )
            )
            for index, purged_at in enumerate(purged):
                connection.execute(
                    sa.text(
                        "INSERT INTO instances (series_id, revision_number, sop_instance_uid, "
                        "digest, path, size_bytes, header, association_id, received_at, purged_at) "
                        f"VALUES ({number}, 1, '{uid}.{index}', 'd', 'p', 1, '{{}}', 1, 0, :purged)"
                    ),
                    {"purged": purged_at},
                )
    database.close()


def test_a_newer_schema_is_refused(url: str, ledger: Ledger) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="9999"):
        open_ledger(url)


def test_an_unreachable_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_ledger(f"sqlite:///{tmp_path / 'file' / 'ledger.sqlite3'}")
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_ledger("postgresql+psycopg://nobody@127.0.0.1:1/none")
