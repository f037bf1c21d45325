"""Reading ahead over a real ledger and a real model: never a result too many, early, or of less."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from dicom_node.completion import ClosingReason
from dicom_node.ledger import Standing, tables
from dicom_node.settings import NodeSettings
from dicom_node.status_words import in_words, right_now
from dicom_node.worker import speculation as speculation_module
from dicom_node.worker.assignment import Assignment
from dicom_node.worker.speculation import Speculation
from inference.analyzer import Analyzer
from inference.errors import UndecodablePixels
from inference.pixel_file import Plane, read_planes
from support.node_in_process import NodeInProcess
from support.synthetic_ct import SyntheticSeries, synthetic_series


class Pixels:
    """Reads pixels in this process, counts the files, and lets something happen meanwhile."""

    def __init__(self) -> None:
        self.files = 0
        self.meanwhile: Callable[[], None] | None = None

    def __call__(self, path: Path, planes: Sequence[Plane]) -> Iterator[NDArray[np.int16]]:
        self.files += 1
        event, self.meanwhile = self.meanwhile, None
        if event is not None:
            event()
        return read_planes(path, planes)


class Node(NodeInProcess):
    """Has a worker that reads ahead when it is idle."""

    pixels: Pixels

    def __init__(self, root: Path, analyzer: Analyzer, url: str = "", **settings: Any) -> None:
        self.pixels = Pixels()
        super().__init__(
            NodeSettings(
                state_dir=root, audit={"enabled": False}, listener={"min_free_bytes": 0}, **settings
            ),
            analyzer,
            self.pixels,
            ledger_url=url,
        )
        self.speculation = Speculation(
            lambda: self.settings, self.ledger, self.reader, lambda: self.stopping, self.tally
        )
        self.stopping = False
        self.made: dict[int, SyntheticSeries] = {}

    def receive(
        self, number: int, numbers: range, *, outcome: str = "released", **made_with: Any
    ) -> str:
        """Record some slices of series `number`, which has 24; return its UID."""
        if number not in self.made:
            self.made[number] = synthetic_series(
                self.settings.spool_dir / f"{number}", slices=24, matrix=128, seed=number,
                **{"patient_id": f"P{number}", "study": f"{number}", **made_with},
            )  # fmt: skip
        made = self.made[number]
        self.record([made.paths[index] for index in numbers], outcome=outcome)
        return made.series_instance_uid

    def read_ahead(self) -> None:
        """Let an idle worker take what it was nudged for."""
        revisions, self.broker.speculations = self.broker.speculations, []
        for revision_id in revisions:
            if not self.worker.run():
                self.speculation.run(revision_id)

    @property
    def fates(self) -> dict[str, int]:
        return {labels[0]: int(count) for (_, labels), count in self.tally.take().items()}

    @property
    def memos(self) -> list[Path]:
        folder = self.settings.memos_dir
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def results(self, uid: str) -> dict[str, Any]:
        """result.json as the ledger keeps it, and the objects' UIDs, of the newest reading."""
        a, r, s, o = tables.analyses.c, tables.revisions.c, tables.series.c, tables.objects.c
        with self.ledger.database.read() as connection:
            row = connection.execute(
                sa.select(a.id, a.result)
                .join(tables.revisions, r.id == a.revision_id)
                .join(tables.series, s.id == r.series_id)
                .where(s.series_instance_uid == uid)
                .order_by(a.id.desc())
            ).first()
            assert row is not None
            objects = connection.execute(
                sa.select(o.sop_instance_uid, o.slot, o.path, o.sha256)
                .where(o.analysis_id == row.id)
                .order_by(o.sop_instance_uid)
            ).all()
        return {"document": row.result, "objects": objects}


@pytest.fixture(scope="module")
def analyzer(small_bundle: Path) -> Analyzer:
    return Analyzer.load(small_bundle, threads=1)


Make = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(speculation_module, "LOOK_S", 0.0)
    made: list[Node] = []

    def one(**settings: Any) -> Node:
        made.append(Node(tmp_path / f"{len(made)}", analyzer, **settings))
        return made[-1]

    yield one
    for node in made:
        node.ledger.close()


def test_what_was_read_ahead_is_what_would_have_been_read(make: Make) -> None:
    node, plain = make(), make(analysis={"speculative": False})
    for one in (node, plain):
        uid = one.receive(1, range(24))
        one.sweep(1.0)
        one.read_ahead()
    assert node.fates == {"made": 1}
    assert not plain.memos
    assert plain.pixels.files == 0
    assert node.status(uid).state == "receiving"
    assert node.status(uid).analysis_state is None
    assert node.pixels.files == 24
    for one in (node, plain):
        one.sweep(5.0, 3.0)
        assert one.worker.run()
        assert one.status(uid).analysis_state == "done"
        assert not one.worker.run()
    assert node.pixels.files == 24, "the images were read a second time"
    assert node.fates == {"used": 1}
    assert not node.memos
    found, expected = node.results(uid), plain.results(uid)
    for document in (found["document"], expected["document"]):
        for varies in ("started_at", "timing_s"):
            del document[varies]
    assert found["document"] == expected["document"]
    assert [(row.sop_instance_uid, row.slot) for row in found["objects"]] == [
        (row.sop_instance_uid, row.slot) for row in expected["objects"]
    ]
    for row in found["objects"]:
        assert (node.settings.results_dir / row.path).is_file()
    [attempt] = {Path(row.path).parent for row in found["objects"] if "/" not in row.slot}
    assert (node.settings.results_dir / attempt / "result.json").is_file()


@pytest.mark.parametrize("is_closed", [False, True])
def test_whoever_asks_meanwhile_is_told(make: Make, is_closed: bool) -> None:
    node = make()
    uid = node.receive(1, range(24))
    node.sweep(1.0)
    said: list[str] = []

    def ask() -> None:
        if is_closed:
            node.sweep(5.0, 3.0)
        said.append(in_words(node.status(uid), right_now(node.settings)))

    node.pixels.meanwhile = ask
    node.read_ahead()
    where, _, how_far = said[0].partition("; already being read: ")
    assert where.startswith("queued at position 1" if is_closed else "receiving: ")
    assert how_far in ("decode", "decode 0 of 24", "load 0 of 24")
    assert "being read" not in in_words(node.status(uid), right_now(node.settings))


def test_a_late_slice_makes_the_reading_worthless(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(23))
    node.sweep(1.0)
    node.read_ahead()
    assert node.fates == {"made": 1}
    node.receive(1, range(23, 24))
    node.sweep(1.0)
    node.read_ahead()  # the whole series, anew
    assert node.fates == {"made": 1}
    assert len(node.memos) == 2
    node.sweep(5.0, 3.0)
    node.worker.run()
    assert node.fates == {"used": 1, "discarded": 1}
    assert not node.memos
    document = node.results(uid)["document"]
    assert document["completeness"]["instance_count"] == 24


def test_a_slice_that_comes_meanwhile_ends_the_reading(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(23))
    node.sweep(1.0)
    node.pixels.meanwhile = lambda: (node.receive(1, range(23, 24)), None)[1]
    node.read_ahead()
    assert node.fates == {"late": 1}
    assert not node.memos
    node.sweep(6.0, 3.0)
    node.worker.run()
    assert node.fates == {}
    assert node.results(uid)["document"]["completeness"]["instance_count"] == 24


def test_a_slice_that_comes_after_closing_is_another_revision(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(23))
    node.sweep(1.0)
    node.read_ahead()
    node.sweep(5.0)
    assert node.status(uid).state == "complete"
    node.receive(1, range(23, 24))
    node.sweep(1.0, 6.0, 3.0)
    while node.worker.run():
        pass
    assert node.results(uid)["document"]["completeness"]["instance_count"] == 24
    assert "used" not in node.fates


def test_closed_work_comes_first(make: Make) -> None:
    node = make()
    closed = node.receive(1, range(24))
    node.sweep(6.0, 3.0)
    node.broker.speculations.clear()
    node.receive(2, range(24))
    node.sweep(1.0)
    assert not node.broker.speculations, "nobody reads ahead while an analysis waits"
    assert node.worker.run()
    node.sweep(1.0)
    assert len(node.broker.speculations) == 1
    assert node.status(closed).analysis_state == "done"


def test_a_nudge_to_read_ahead_is_taken_for_closed_work(make: Make) -> None:
    node = make()
    node.receive(2, range(24))
    node.sweep(1.0)
    closed = node.receive(1, range(24))
    node.sweep(1.0)
    nudged = node.broker.speculations[:1]
    node.sweep(3.0)  # the second is nudged for too
    node.sweep(6.0, 3.0)
    node.broker.speculations = nudged
    node.read_ahead()
    assert node.fates == {}
    assert "done" in {
        node.status(uid).analysis_state for uid in (closed, node.made[2].series_instance_uid)
    }


def test_reading_ahead_makes_room_for_closed_work(make: Make) -> None:
    node = make(selection={"series_per_study": "all"}, completion={"settle_s": 20.0})
    first = node.receive(1, range(24))
    node.sweep(17.0)
    ahead = node.receive(2, range(24))
    node.sweep(1.0)

    def first_is_closed() -> None:
        node.sweep(3.0, 0.5)  # … and nudged, and nobody takes it
        node.now += 1.0
        assert node.status(first).analysis_state == "waiting"

    [*_, revision_id] = node.broker.speculations
    node.pixels.meanwhile = first_is_closed
    node.speculation.run(revision_id)
    assert node.fates == {"preempted": 1}
    assert not node.memos
    assert node.worker.run()
    assert node.status(first).analysis_state == "done"
    # Idle again: it is begun anew.
    node.broker.speculations.clear()
    node.sweep(5.0)
    assert node.broker.speculations == [revision_id]
    node.read_ahead()
    assert node.fates == {"made": 1}
    node.sweep(20.0)
    assert node.worker.run()
    assert node.fates == {"used": 1}
    assert node.status(ahead).analysis_state == "done"


def test_a_reading_that_is_wanted_by_now_goes_on(make: Make) -> None:
    node = make(selection={"series_per_study": "all"})
    uid = node.receive(1, range(24))
    other = node.receive(2, range(24))
    node.sweep(1.0)

    def both_are_closed() -> None:
        node.sweep(5.0, 1.0)
        node.now += 1.0
        states = {node.status(one).analysis_state for one in (uid, other)}
        assert states == {"waiting"}

    [revision_id, _] = node.broker.speculations
    node.pixels.meanwhile = both_are_closed
    node.speculation.run(revision_id)
    assert node.fates == {"made": 1}
    assert node.worker.run()
    assert node.worker.run()
    assert node.fates == {"used": 1}
    assert node.pixels.files == 48


def test_a_worker_that_is_told_to_stop_stops(make: Make) -> None:
    node = make()
    node.receive(1, range(24))
    node.sweep(1.0)
    node.stopping = True
    node.read_ahead()
    assert node.fates == {"stopped": 1}
    assert not node.memos


def test_what_fails_is_left_to_the_analysis(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(24))
    node.sweep(1.0)

    def fail() -> None:
        raise UndecodablePixels("The pixels of the image 0001.dcm cannot be read.")

    node.pixels.meanwhile = fail
    node.read_ahead()
    assert node.fates == {"failed": 1}
    node.sweep(1.0)
    node.read_ahead()
    assert node.fates == {}, "what failed is begun once"
    node.sweep(5.0, 3.0)
    node.worker.run()
    assert node.status(uid).analysis_state == "done"
    assert node.status(uid).attempts == 1
    assert not node.memos


def test_an_altered_memo_costs_time_only(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(24))
    node.sweep(1.0)
    node.read_ahead()
    [memo] = node.memos
    (memo / "report-0.dcm").write_bytes(b"something else")
    node.sweep(5.0, 3.0)
    node.worker.run()
    assert node.status(uid).analysis_state == "done"
    assert node.pixels.files == 48
    assert node.fates == {"made": 1, "discarded": 1}
    assert not node.memos


def test_an_image_damaged_on_the_disk_is_not_read_ahead(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(24))
    path = node.made[1].paths[7]
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))
    node.sweep(1.0)
    node.read_ahead()
    assert node.fates == {"failed": 1}
    node.sweep(5.0, 3.0)
    node.worker.run()
    assert node.status(uid).analysis_state == "rejected"


def test_another_configuration_makes_another_reading(make: Make) -> None:
    node = make()
    node.receive(1, range(24))
    node.sweep(1.0)
    node.read_ahead()
    node.settings = node.settings.model_copy(
        update={"results": node.settings.results.model_copy(update={"banner": "TRIAL ONLY"})}
    )
    node.sweep(5.0, 3.0)
    node.worker.run()
    assert node.pixels.files == 48
    assert node.fates == {"made": 1, "discarded": 1}


def test_another_evidence_makes_another_reading(make: Make) -> None:
    """Report and page say what closed the series: what was foreseen has to come true."""
    node = make()
    uid = node.receive(1, range(24), outcome="")  # the sender only pauses
    node.sweep(2.5)
    node.read_ahead()
    assert node.fates == {"made": 1}
    node.sweep(58.0, 3.0)  # its association stays open
    assert node.status(uid).closing_reason == "quiet_period"
    node.worker.run()
    assert node.fates == {"discarded": 1}
    assert node.status(uid).analysis_state == "done"


def test_an_aborted_association_waits_for_time_and_is_read_meanwhile(make: Make) -> None:
    node = make()
    uid = node.receive(1, range(24), outcome="aborted")
    node.sweep(1.0)
    assert not node.broker.speculations
    node.sweep(5.0)
    node.read_ahead()
    node.sweep(55.0, 3.0)
    assert node.status(uid).closing_reason == "quiet_period"
    node.worker.run()
    assert node.fates == {"made": 1, "used": 1}


def test_sisters_are_not_read_ahead_of_the_better_one(make: Make) -> None:
    node = make(completion={"study_settle_s": 30.0})
    folder = node.settings.spool_dir / "0"
    best = synthetic_series(folder, slices=30, matrix=128, seed=7, patient_id="P1", study="1")
    node.receive(1, range(24))
    node.made[0] = best
    uid = node.receive(0, range(30))
    assert node.made[1].study_instance_uid == best.study_instance_uid
    node.sweep(1.0)
    assert len(node.broker.speculations) == 2
    node.read_ahead()
    assert node.fates == {"made": 1}
    node.sweep(5.0, 31.0)
    node.worker.run()
    assert node.fates == {"used": 1}
    assert node.status(uid).analysis_state == "done"


def test_a_series_that_waits_for_its_sisters_is_read_meanwhile(make: Make) -> None:
    node = make(completion={"study_settle_s": 30.0})
    node.receive(1, range(24))
    node.sweep(6.0, 1.0)
    node.read_ahead()
    node.sweep(31.0)
    node.worker.run()
    assert node.fates == {"made": 1, "used": 1}


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "no", "calling_ae": ["CT1"], "action": "skip", "reason": "Not this one."},
        {"name": "trial", "calling_ae": ["CT1"], "shadow": True},
        {"name": "later", "calling_ae": ["CT1"], "priority": "off_peak"},
    ],
)
def test_what_nobody_waits_for_is_not_read_ahead(make: Make, rule: dict[str, Any]) -> None:
    # 1 700 000 000 s after the epoch it is 22:13 UTC.
    hours = ["02:00-02:01"]
    node = make(rules=[rule], priorities={"off_peak_hours": hours})
    node.receive(1, range(24))
    node.sweep(1.0)
    node.read_ahead()
    assert node.fates == {}
    assert not node.memos


def test_a_series_that_would_be_skipped_is_not_read_ahead(make: Make) -> None:
    node = make(selection={"min_coverage_mm": 900.0})
    node.receive(1, range(24))
    node.sweep(1.0)
    node.read_ahead()
    assert not node.memos


def test_little_room_on_the_disk_is_left_to_what_is_needed(make: Make) -> None:
    node = make()
    free = shutil.disk_usage(node.settings.root).free
    node.settings = node.settings.model_copy(
        update={"listener": node.settings.listener.model_copy(update={"min_free_bytes": free // 2})}
    )
    node.receive(1, range(24))
    node.sweep(1.0)
    node.read_ahead()
    assert not node.memos


def test_whatever_decides_about_a_reading_is_in_its_key(make: Make) -> None:
    node = make()
    node.receive(1, range(24))
    node.sweep(6.0, 3.0)
    claim = node.ledger.analyses.claim_next("somebody", 60.0)
    assert claim is not None
    earlier = node.ledger.earlier.than(claim.analysis_id)
    assignment = Assignment.of_claim(claim, earlier, node.settings)
    assert assignment.key([]) == Assignment.of_claim(claim, earlier, node.settings).key([])
    uid = claim.instances[0][0]
    changed = {
        "images": dataclasses.replace(assignment, digests={**assignment.digests, uid: "0" * 64}),
        "frames": dataclasses.replace(assignment, frames={uid: (1,)}),
    }
    context = assignment.context
    completeness = context.completeness
    for name, value in {
        "instance_set_digest": "0" * 64,
        "configuration_digest": "0" * 64,
        "software_version": "9.9.9",
        "ae_title": "OTHER",
        "statements": ("something",),
        "earlier": dataclasses.replace(earlier, reason="another one"),
        "completeness": dataclasses.replace(completeness, reason="of something else"),
    }.items():
        changed[name] = dataclasses.replace(
            assignment, context=dataclasses.replace(context, **{name: value})
        )
    counted = dataclasses.replace(completeness, expected_count=24)
    changed["expected_count"] = dataclasses.replace(
        assignment, context=dataclasses.replace(context, completeness=counted)
    )
    keys = {name: one.key([]) for name, one in changed.items()}
    assert len({assignment.key([]), *keys.values()}) == len(keys) + 1
    later = dataclasses.replace(
        context, analysis_started_at=context.analysis_started_at.replace(year=2001)
    )
    assert dataclasses.replace(assignment, context=later).key([]) == assignment.key([])


def test_what_is_read_ahead_is_compared_with_the_patients_earlier_study(make: Make) -> None:
    node = make()
    first = node.receive(1, range(24), patient_id="P", study_date="20260105")
    node.sweep(6.0, 3.0)
    assert node.worker.run()
    second = node.receive(2, range(24), patient_id="P", study_date="20260301")
    node.sweep(1.0)
    node.read_ahead()
    node.sweep(6.0, 3.0)
    assert node.worker.run()
    assert node.fates == {"made": 1, "used": 1}
    progress = node.results(second)["document"]["progress"]
    assert progress["study_date"] == "2026-01-05"
    assert progress["series_instance_uid"] == first


def test_what_was_read_ahead_without_an_earlier_study_is_read_anew(make: Make) -> None:
    """The study before came while the one after waited: the report must speak of it."""
    node = make()
    second = node.receive(2, range(24), outcome="aborted", patient_id="P", study_date="20260301")
    node.sweep(1.0, 6.0)
    node.read_ahead()
    first = node.receive(1, range(24), patient_id="P", study_date="20260105")
    node.sweep(6.0, 3.0)
    assert node.worker.run()
    assert node.status(first).analysis_state == "done"
    node.sweep(60.0, 3.0)
    assert node.worker.run()
    assert node.fates == {"made": 1, "discarded": 1}
    assert node.results(second)["document"]["progress"]["study_date"] == "2026-01-05"


@pytest.mark.peer("postgresql")
def test_the_same_on_postgresql(tmp_path: Path, analyzer: Analyzer, postgresql_url: str) -> None:
    node = Node(tmp_path, analyzer, postgresql_url)
    uid = node.receive(1, range(23))
    node.sweep(1.0)
    [revision_id] = node.broker.speculations
    prospect = node.ledger.prospects.read(revision_id, 65.0)
    assert prospect is not None
    assert prospect.instance_count == len(prospect.instances) == 23
    assert node.ledger.prospects.unselected(prospect.study_instance_uid) == [revision_id]
    reason = ClosingReason.RELEASED_AND_GAP_FREE
    assert node.ledger.prospects.standing(prospect, reason) is Standing.OPEN
    node.receive(1, range(23, 24))
    assert node.ledger.prospects.standing(prospect, reason) is Standing.GONE
    node.sweep(1.0)
    node.read_ahead()
    prospect = node.ledger.prospects.read(revision_id, 65.0)
    assert prospect is not None
    node.sweep(5.0)
    assert node.ledger.prospects.standing(prospect, reason) is Standing.OPEN
    assert node.ledger.prospects.standing(prospect, ClosingReason.QUIET_PERIOD) is Standing.GONE
    node.sweep(3.0)
    assert node.ledger.prospects.standing(prospect, reason) is Standing.WANTED
    assert node.worker.run()
    assert node.ledger.prospects.standing(prospect, reason) is Standing.GONE
    assert node.ledger.prospects.read(revision_id, 65.0) is None
    assert node.fates == {"made": 1, "used": 1}
    assert node.status(uid).analysis_state == "done"
    node.ledger.close()
