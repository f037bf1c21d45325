"""The order of work: priorities that age, off-peak hours, quiet hours, rules in the reconciler."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node.domain import ObjectKind, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Database, Ledger, NewObject, Plan, open_ledger, tables
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.schema import alembic_config
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.reconciler import Reconciler
from dicom_node.rule_trial import try_rules
from dicom_node.settings import NodeSettings, Priority, QuietHours
from dicom_node.status_words import in_words, right_now
from dicom_node.worker.analysis import _destinations

NORMAL = Plan()
URGENT = Plan(rule="er", priority=Priority.URGENT, behind_s=-3600.0)
OFF_PEAK = Plan(rule="night", priority=Priority.OFF_PEAK, behind_s=7200.0)
CT = "1.2.840.10008.5.1.4.1.1.2"
NOON = time.mktime((2026, 3, 3, 12, 0, 0, 0, 0, -1))
HOUR_S = 3600.0
_numbers = itertools.count(1)


class Clock:
    now = NOON

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


def receive(ledger: Ledger, series: str, *, calling: str = "CT1", **changes: Any) -> None:
    """Receive forty images of a series that is a study of its own."""
    association = ledger.intake.open_association(
        calling_ae=calling, called_ae="M3LUNG", address="::1"
    )
    ledger.intake.record_instances(
        [
            Arrival(
                association,
                InstanceHeader(
                    **{
                        "sop_instance_uid": f"{series}.{number}",
                        "sop_class_uid": CT,
                        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                        "study_instance_uid": f"{series}.0",
                        "series_instance_uid": series,
                        "modality": "CT",
                        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
                        "rows": 512,
                        "columns": 512,
                        "slice_thickness_mm": 5.0,
                        "image_position": (-200.0, -200.0, -5.0 * number),
                        "image_orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
                        "pixel_spacing": (0.8, 0.8),
                        "has_pixel_data": True,
                        "patient_age": "045Y",
                        "study_description": "CT Thorax",
                        **changes,
                    }
                ),
                StoredInstance(f"{series}{number}", Path(f"{series}{number}"), 1),
            )
            for number in range(40)
        ]
    )
    ledger.intake.close_association(association, outcome="released", ignored={})


def queued(ledger: Ledger, plan: Plan = NORMAL) -> int:
    """Return an analysis that waits; every call makes another."""
    receive(ledger, f"1.2.3.{next(_numbers)}")
    [revision] = ledger.revisions.receiving(60)
    assert ledger.revisions.close(revision, "quiet_period")
    analysis = ledger.revisions.select(revision.revision_id, {"sop_instance_uids": []}, plan)
    assert analysis is not None
    return analysis


def taken(ledger: Ledger, *, off_peak: bool = True) -> int | None:
    claim = ledger.analyses.claim_next(this_owner(), 60, off_peak=off_peak)
    return None if claim is None else claim.analysis_id


def status(ledger: Ledger, series: str) -> SeriesStatus:
    [found] = ledger.worklist.find(uid=series)
    return found


# -- the order -------------------------------------------------------------------------------------


def test_urgent_first_then_as_they_came_then_off_peak(ledger: Ledger, clock: Clock) -> None:
    made = {}
    for name, plan in (("late", OFF_PEAK), ("a", Plan()), ("b", Plan()), ("er", URGENT)):
        made[name] = queued(ledger, plan)
        clock.now += 1
    found = ledger.worklist.find(limit=10)
    positions = {item.priority: item.queue_position for item in found}
    assert positions["urgent"] == 1
    assert positions["off_peak"] == 4
    # The same on the console, whose rows are read together.
    from dicom_node.ledger.listing import Listing

    rows = Listing(ledger.database).page().rows
    assert {row.status.series_id: row.status.queue_position for row in rows} == {
        item.series_id: item.queue_position for item in found
    }
    assert ledger.analyses.due(5.0) == [made[name] for name in ("er", "a", "b", "late")]
    assert [taken(ledger) for _ in range(5)] == [
        *(made[name] for name in ("er", "a", "b", "late")),
        None,
    ]


def test_what_waits_overtakes_what_is_fresh_after_a_stated_time(
    ledger: Ledger, clock: Clock
) -> None:
    off_peak = queued(ledger, OFF_PEAK)
    clock.now += 2 * HOUR_S + HOUR_S - 1  # what it stands back and what the urgent one is ahead
    just_before = queued(ledger, URGENT)
    clock.now += 2
    just_after = queued(ledger, URGENT)
    assert [taken(ledger) for _ in range(3)] == [just_before, off_peak, just_after]


def test_off_peak_work_waits_for_its_hours_or_until_it_is_old(ledger: Ledger, clock: Clock) -> None:
    analysis = queued(ledger, OFF_PEAK)
    assert ledger.analyses.due(5.0, off_peak=False) == []
    assert taken(ledger, off_peak=False) is None
    assert ledger.worklist.counts().oldest_waiting_analysis_s is None  # it is not late
    clock.now += 2 * HOUR_S - 1
    assert taken(ledger, off_peak=False) is None
    clock.now += 2
    assert ledger.analyses.due(5.0, off_peak=False) == [analysis]
    assert ledger.worklist.counts().oldest_waiting_analysis_s == pytest.approx(1.0)
    assert taken(ledger, off_peak=False) == analysis


def test_an_attempt_that_failed_keeps_its_place_and_waits(ledger: Ledger, clock: Clock) -> None:
    first, second = queued(ledger, URGENT), queued(ledger)
    claim = ledger.analyses.claim_next(this_owner(), 60)
    assert claim is not None
    assert (claim.analysis_id, claim.plan.priority) == (first, Priority.URGENT)
    ledger.analyses.fail(claim, "it failed", 3, 30.0)
    assert taken(ledger) == second  # nobody waits for the one that is to be tried again
    clock.now += 31
    assert taken(ledger) == first


def test_a_clock_that_was_set_back_lets_nothing_stand_last(ledger: Ledger, clock: Clock) -> None:
    clock.now += 365 * 24 * HOUR_S
    of_the_future = queued(ledger)
    clock.now -= 365 * 24 * HOUR_S
    before = queued(ledger)
    clock.now += 1
    assert ledger.analyses.due(5.0, off_peak=False) == [before]
    clock.now += 1
    after = queued(ledger)
    assert ledger.analyses.due(5.0, off_peak=False) == [of_the_future, after]
    order = [taken(ledger, off_peak=False) for _ in range(3)]
    assert order == [before, of_the_future, after]


def test_two_workers_never_take_the_same(ledger: Ledger) -> None:
    made = {queued(ledger, plan) for plan in (URGENT, Plan(), OFF_PEAK)}
    assert {taken(ledger) for _ in range(3)} == made


# -- quiet hours -----------------------------------------------------------------------------------

UNTIL = QuietHours("09:30", let_urgent=False)


def shipped(ledger: Ledger, plan: Plan, *destinations: str) -> None:
    analysis = queued(ledger, plan)
    claim = ledger.analyses.claim(analysis, this_owner(), 60)
    assert claim is not None
    made = NewObject(ObjectKind.REPORT, "report", 0, "1", f"2.25.{analysis}", "2", "p", "s", 1)
    names = {name: [ObjectKind.REPORT] for name in destinations}
    ledger.analyses.finish(claim, result={}, objects=[made], destinations=names)


def test_a_quiet_destination_gets_nothing_and_the_others_do(ledger: Ledger, clock: Clock) -> None:
    shipped(ledger, Plan(), "archive", "pacs")
    archive, pacs = 1, 2
    quiet = {"pacs": UNTIL}
    assert ledger.shipments.due(5.0, quiet=quiet) == [archive]
    # A nudge that lies in the broker since before changes nothing.
    assert ledger.shipments.claim(pacs, this_owner(), 60, quiet=quiet) is None
    # Whatever the clock did meanwhile: without quiet hours it goes.
    for jump in (-365 * 24 * HOUR_S, 365 * 24 * HOUR_S, 0.0):
        clock.now = NOON + jump
        assert ledger.shipments.due(0.0, quiet=quiet) == [archive]
    assert ledger.shipments.due(0.0) == [archive, pacs]
    assert ledger.shipments.claim(pacs, this_owner(), 60) is not None


def test_urgent_results_go_through_where_the_peer_says_so(ledger: Ledger) -> None:
    shipped(ledger, URGENT, "pacs")
    shipped(ledger, Plan(), "pacs")
    assert ledger.shipments.due(5.0, quiet={"pacs": UNTIL}) == []
    lets = {"pacs": QuietHours("09:30", let_urgent=True)}
    assert ledger.shipments.due(5.0, quiet=lets) == [1]
    assert ledger.shipments.claim(2, this_owner(), 60, quiet=lets) is None
    assert ledger.shipments.claim(1, this_owner(), 60, quiet=lets) is not None


def test_what_is_held_back_is_not_late(ledger: Ledger, clock: Clock) -> None:
    from dicom_node.ledger.quiet import note_held
    from dicom_node.metrics.reading import Reader

    shipped(ledger, Plan(), "pacs")
    for _ in range(10):
        clock.now += 600
        note_held(ledger.database, {"pacs": UNTIL})
    assert ledger.worklist.counts().oldest_open_shipment_s == pytest.approx(0.0)
    clock.now += 30
    reading = Reader(ledger).read(0.0)
    assert reading is not None
    assert reading.ready["delivery"].oldest_s == pytest.approx(30.0)


def test_quiet_hours_in_words(ledger: Ledger) -> None:
    shipped(ledger, Plan(), "pacs")
    peer = {"name": "pacs", "ae_title": "P", "quiet_hours": ["11:00-12:30"]}
    settings = NodeSettings(peers=[peer])
    [item] = ledger.worklist.find()
    words = in_words(item, right_now(settings, NOON))
    assert words == (
        "analysed; pacs: 0 of 1 objects sent, waits for the end of the quiet hours of pacs, 12:30"
    )
    assert "quiet" not in in_words(item, right_now(settings, NOON + HOUR_S))


@pytest.mark.parametrize(
    ("wait_s", "words"),
    [(0, "next in turn"), (30.4, "next attempt in 30 s"), (300, "next attempt in 5 min"),
     (36_000, "next attempt in 10 h")],
)  # fmt: skip
def test_the_next_attempt_in_words(
    tmp_path: Path, wait_s: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.status_words.time.time", lambda: NOON)
    with open_ledger(f"sqlite:///{tmp_path / 'l'}", clock=lambda: NOON + wait_s) as ledger:
        shipped(ledger, Plan(), "pacs")
        [item] = ledger.worklist.find()
    assert in_words(item) == f"analysed; pacs: 0 of 1 objects sent, {words}"


def test_nobody_is_told_of_a_shadow(ledger: Ledger, tmp_path: Path) -> None:
    from dicom_node.ledger.outbox import JournalRow
    from dicom_node.notifications.occasions import _positive

    settings = NodeSettings(state_dir=tmp_path)
    result = {
        "patient": {"probabilities": {"covid19": 0.9}, "predicted": "covid19"},
        "model": {"training": "site"},
    }
    told = []
    for plan in (NORMAL, Plan(shadow=True)):
        claim = ledger.analyses.claim(queued(ledger, plan), this_owner(), 60)
        assert claim is not None
        ledger.analyses.finish(claim, result=result, objects=[], destinations={})
        row = JournalRow(1, NOON, "analysis_done", None, {"analysis_id": claim.analysis_id})
        told.append(_positive(row, ledger, settings) is not None)
    assert told == [True, False]


# -- rules in the reconciler -----------------------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {"name": "heads", "description": ["*head*"], "action": "skip", "reason": "No heads here."},
    {"name": "er", "calling_ae": ["ER*"], "priority": "urgent"},
    {"name": "trial", "protocol": ["study*"], "shadow": True},
    {"name": "thin", "max_thickness_mm": 2, "priority": "off_peak", "destinations": ["viewer"]},
]
PEERS = [{"name": "pacs", "ae_title": "P"}, {"name": "viewer", "ae_title": "V"}]


class Nudges:
    def __init__(self) -> None:
        self.analyses: list[int] = []

    def analysis(self, analysis_id: int) -> None:
        self.analyses.append(analysis_id)

    def delivery(self, shipment_id: int) -> None:
        raise AssertionError(shipment_id)

    def speculation(self, revision_id: int) -> None:
        """Nobody is idle."""


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(
        state_dir=tmp_path,
        peers=PEERS,
        rules=RULES,
        priorities={"off_peak_hours": ["19:00-07:00"]},
        completion={"study_settle_s": 0.0},
    )


@pytest.fixture
def nudges() -> Nudges:
    return Nudges()


@pytest.fixture
def sweep(
    ledger: Ledger, settings: NodeSettings, clock: Clock, nudges: Nudges
) -> Callable[[float], None]:
    reconciler = Reconciler(lambda: settings, ledger, nudges, clock)  # type: ignore[arg-type]

    def after(seconds: float) -> None:
        reconciler.sweep()
        clock.now += seconds
        reconciler.sweep()

    return after


def test_rules_decide_and_are_shown(
    ledger: Ledger,
    settings: NodeSettings,
    clock: Clock,
    nudges: Nudges,
    sweep: Callable[[float], None],
) -> None:
    receive(ledger, "2.1", series_description="Thin", slice_thickness_mm=1.0)
    receive(ledger, "2.2", series_description="Head 5.0")
    receive(ledger, "2.3", protocol_name="Study A")
    receive(ledger, "2.4")
    receive(ledger, "2.5", calling="ER1")
    sweep(30.0)
    sweep(1.0)
    rules = {uid: status(ledger, uid).rule for uid in ("2.1", "2.2", "2.3", "2.4", "2.5")}
    assert rules == {"2.1": "thin", "2.2": "heads", "2.3": "trial", "2.4": "default", "2.5": "er"}
    head = status(ledger, "2.2")
    assert in_words(head) == "not analysed: No heads here. (rule heads)"
    hour = right_now(settings, clock.now)
    words = {uid: in_words(status(ledger, uid), hour) for uid in ("2.1", "2.5")}
    assert words == {
        "2.1": "queued at position 4, off-peak from 19:00",
        "2.5": "queued at position 1, urgent",
    }
    # At noon the off-peak one is not nudged.
    assert len(nudges.analyses) == 3
    plans = {}
    while (claim := ledger.analyses.claim_next(this_owner(), 60)) is not None:
        plans[claim.series_instance_uid] = claim.plan
    assert list(plans) == ["2.5", "2.3", "2.4", "2.1"]
    gets = {uid: list(_destinations(plan, settings)) for uid, plan in plans.items()}
    assert gets == {"2.5": ["pacs", "viewer"], "2.3": [], "2.4": ["pacs", "viewer"],
                    "2.1": ["viewer"]}  # fmt: skip


def test_a_shadow_takes_no_sisters_place(ledger: Ledger, sweep: Callable[[float], None]) -> None:
    study = {"study_instance_uid": "1.3"}
    receive(ledger, "3.1", protocol_name="Study A", **study)
    receive(ledger, "3.2", **study)
    receive(ledger, "3.3", slice_thickness_mm=3.0, **study)
    sweep(30.0)
    sweep(1.0)
    found = {uid: status(ledger, uid) for uid in ("3.1", "3.2", "3.3")}
    assert {uid: item.state for uid, item in found.items()} == {
        "3.1": "selected", "3.2": "skipped", "3.3": "selected",
    }  # fmt: skip
    assert (found["3.1"].shadow, found["3.3"].shadow) == (True, False)


def test_a_retry_is_judged_by_the_rules_of_now(
    ledger: Ledger, tmp_path: Path, clock: Clock, nudges: Nudges
) -> None:
    settings = [NodeSettings(state_dir=tmp_path, rules=RULES[:1])]
    reconciler = Reconciler(lambda: settings[-1], ledger, nudges, clock)  # type: ignore[arg-type]
    receive(ledger, "4.1", series_description="Head")
    for seconds in (0.0, 30.0, 5.0):
        clock.now += seconds
        reconciler.sweep()
    assert status(ledger, "4.1").state == "skipped"
    settings.append(NodeSettings(state_dir=tmp_path))
    assert ledger.worklist.retry(status(ledger, "4.1").series_id)
    for seconds in (0.0, 5.0):
        clock.now += seconds
        reconciler.sweep()
    assert (status(ledger, "4.1").state, status(ledger, "4.1").rule) == ("selected", "default")


def test_a_trial_says_the_same_and_changes_nothing(
    ledger: Ledger, settings: NodeSettings, sweep: Callable[[float], None]
) -> None:
    receive(ledger, "5.1", series_description="Head")
    receive(ledger, "5.2", patient_age="070Y")
    sweep(30.0)
    sweep(1.0)
    events = ledger.database.engine.connect().scalar(sa.select(sa.func.count(tables.events.c.id)))
    trials = {trial.series.series_instance_uid: trial for trial in try_rules(ledger, settings, 10)}
    for uid, trial in trials.items():
        assert trial.judgement.rule.name == status(ledger, uid).rule
        assert not trial.differs
    drafts = [settings.rules[2].model_copy(update={"name": "old", "min_age_years": 65.0,
                                                   "protocol": ()})]  # fmt: skip
    drafted = {
        trial.series.series_instance_uid: trial for trial in try_rules(ledger, settings, 10, drafts)
    }
    assert drafted["5.2"].judgement.rule.name == "old"
    assert drafted["5.2"].differs
    assert drafted["5.1"].document()["why_not"] == {
        "old": "the patient's age is 45 years, less than 65 years"
    }
    with ledger.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count(tables.events.c.id))) == events


def test_kernel_and_thickness_are_those_of_most_images(ledger: Ledger) -> None:
    receive(ledger, "6.1", convolution_kernel="B31f")
    [revision] = ledger.revisions.receiving(60)
    headers = ledger.revisions.headers(revision.revision_id)
    mixed = [headers[0].model_copy(update={"slice_thickness_mm": 1.0}), *headers[1:]]
    settled = ledger.traits.settle(revision.series_id, mixed)
    assert (settled.thickness_mm, settled.kernel, settled.age_years) == (5.0, "B31f", 45.0)
    assert settled.procedure == ("CT Thorax",)
    [recent] = ledger.traits.recent(5)
    assert recent.traits == settled
    # Neither age nor procedure is kept with each image.
    with ledger.database.read() as connection:
        header = connection.scalar(sa.select(tables.instances.c.header).limit(1))
    assert not {"patient_age", "study_description"} & set(header)


# -- the upgrade -----------------------------------------------------------------------------------


def test_waiting_work_keeps_its_order_after_the_upgrade(url: str, clock: Clock) -> None:
    database = Database(url)
    config = alembic_config()
    with database._one_migration_at_a_time() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0012")
        header = (
            '{"sop_instance_uid": "2.25.1.1", "sop_class_uid": "1", "transfer_syntax_uid": "1", '
            '"study_instance_uid": "2.25", "series_instance_uid": "2.25.1", '
            '"convolution_kernel": "B31f", "slice_thickness_mm": 3.0}'
        )
        for statement in (
            "INSERT INTO associations (id, calling_ae, called_ae, address, opened_at, "
            "last_activity_at) VALUES (1, 'CT1', 'M3LUNG', '::1', 0, 0)",
            "INSERT INTO series (id, series_instance_uid, study_instance_uid, accession_number, "
            "patient_id, modality, description, source_ae, first_arrival_at, last_arrival_at) "
            "VALUES (1, '2.25.1', '2.25', '', '', 'CT', 'Thorax', 'CT1', 0, 0)",
            "INSERT INTO instances (id, series_id, revision_number, sop_instance_uid, digest, "
            "path, size_bytes, header, association_id, received_at) "
            f"VALUES (1, 1, 1, '2.25.1.1', 'd', 'p', 1, '{header}', 1, 0)",
            "INSERT INTO revisions (id, series_id, number, state, instance_count, opened_at, "
            "last_arrival_at, instance_set_digest, closing_reason) "
            "VALUES (1, 1, 1, 'selected', 1, 0, 0, 'd', 'quiet_period')",
            "INSERT INTO analyses (id, revision_id, run, state, ready_at, created_at) VALUES "
            "(1, 1, 1, 'waiting', 20, 20), (2, 1, 2, 'waiting', 10, 10)",
        ):
            connection.exec_driver_sql(statement)
    database.close()
    with open_ledger(url, clock=clock) as upgraded:
        with upgraded.database.read() as connection:
            context = MigrationContext.configure(connection)
            assert compare_metadata(context, tables.metadata) == []
        [recent] = upgraded.traits.recent(5)
        assert (recent.traits.kernel, recent.traits.thickness_mm) == ("B31f", 3.0)
        assert (recent.traits.called_ae, recent.rule) == ("M3LUNG", "")
        assert [taken(upgraded, off_peak=False) for _ in range(3)] == [2, 1, None]
