"""The reconciler over a real ledger: completion, selection, one series per study, nudges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.domain import StoredInstance
from dicom_node.errors import BrokerUnavailable
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Ledger, open_ledger
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.reconciler import RENUDGE_AFTER_S, Reconciler
from dicom_node.settings import NodeSettings

CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Nudges:
    """Takes nudges as a broker does, or is down."""

    def __init__(self) -> None:
        self.analyses: list[int] = []
        self.speculations: list[int] = []
        self.down = False

    def analysis(self, analysis_id: int) -> None:
        if self.down:
            raise BrokerUnavailable("down")
        self.analyses.append(analysis_id)

    def delivery(self, shipment_id: int) -> None:
        raise AssertionError("nothing is to be delivered here")

    def speculation(self, revision_id: int) -> None:
        if self.down:
            raise BrokerUnavailable("down")
        self.speculations.append(revision_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock=clock) as opened:
        yield opened


@pytest.fixture
def nudges() -> Nudges:
    return Nudges()


Make = Callable[..., Reconciler]


@pytest.fixture
def reconciler(tmp_path: Path, ledger: Ledger, nudges: Nudges, clock: Clock) -> Reconciler:
    settings = NodeSettings(state_dir=tmp_path)
    return Reconciler(lambda: settings, ledger, nudges, clock)  # type: ignore[arg-type]


def header(series: str, number: int, **changes: Any) -> InstanceHeader:
    values: dict[str, Any] = {
        "sop_instance_uid": f"{series}.{number}",
        "sop_class_uid": CT,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": series,
        "patient_id": "P",
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "rows": 512,
        "columns": 512,
        "slice_thickness_mm": 5.0,
        "image_position": (-200.0, -200.0, -5.0 * number),
        "image_orientation": AXIAL,
        "pixel_spacing": (0.8, 0.8),
        "instance_number": number,
        "has_pixel_data": True,
    }
    return InstanceHeader(**{**values, **changes})


def receive(
    ledger: Ledger, series: str, numbers: range, *, outcome: str = "released", **changes: Any
) -> None:
    association = ledger.intake.open_association(calling_ae="CT1", called_ae="M", address="::1")
    ledger.intake.record_instances(
        [
            Arrival(
                association,
                header(series, number, **changes),
                StoredInstance(f"{series}{number}", Path(f"{series}{number}"), 1),
            )
            for number in numbers
        ]
    )
    if outcome:
        ledger.intake.close_association(association, outcome=outcome, ignored={})


def status(ledger: Ledger, series: str) -> SeriesStatus:
    [found] = ledger.worklist.find(uid=series)
    return found


def sweep(reconciler: Reconciler, clock: Clock, *after_s: float) -> None:
    for seconds in after_s:
        clock.now += seconds
        reconciler.sweep()


def test_a_gap_free_stack_is_analysed_after_a_short_quiet(
    ledger: Ledger, reconciler: Reconciler, clock: Clock, nudges: Nudges
) -> None:
    receive(ledger, "1.2.3.4", range(40))
    sweep(reconciler, clock, 1.0)
    assert status(ledger, "1.2.3.4").state == "receiving"
    sweep(reconciler, clock, 5.0, 3.0)
    found = status(ledger, "1.2.3.4")
    assert (found.state, found.closing_reason) == ("selected", "released_and_gap_free")
    assert found.analysis_state == "waiting"
    assert len(nudges.analyses) == 1


def test_a_gap_waits_for_the_quiet_period_and_says_so(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.4", range(20))
    receive(ledger, "1.2.3.4", range(25, 45))
    sweep(reconciler, clock, 10.0)
    found = status(ledger, "1.2.3.4")
    assert found.state == "receiving"
    assert found.waiting_for
    sweep(reconciler, clock, 55.0, 3.0)
    assert status(ledger, "1.2.3.4").closing_reason == "quiet_period"


def test_an_open_association_keeps_a_series_open(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.4", range(40), outcome="")
    sweep(reconciler, clock, 20.0)
    found = status(ledger, "1.2.3.4")
    assert found.state == "receiving"
    assert "association" in found.waiting_for


@pytest.mark.parametrize("outcome", ["aborted", "released"])
def test_silence_while_the_node_was_down_closes_nothing(
    tmp_path: Path, ledger: Ledger, nudges: Nudges, clock: Clock, outcome: str
) -> None:
    """Half a series, then a power cut of hours: its sender gets the time to come again."""
    receive(ledger, "1.2.3.4", range(20), outcome=outcome)
    clock.now += 4 * 3600.0
    settings = NodeSettings(state_dir=tmp_path)
    restarted = Reconciler(lambda: settings, ledger, nudges, clock)  # type: ignore[arg-type]
    restarted.sweep()
    sweep(restarted, clock, 2.0, 2.0)
    assert status(ledger, "1.2.3.4").state == "receiving"
    receive(ledger, "1.2.3.4", range(20, 40))
    sweep(restarted, clock, 2.0, *[5.0] * 13)
    found = status(ledger, "1.2.3.4")
    assert (found.state, found.received, found.revision) == ("selected", 40, 1)


def test_silence_while_no_listener_ran_closes_nothing(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.4", range(20), outcome="aborted")
    sweep(reconciler, clock, 10.0, 10.0)
    # It was killed, and another has just begun.
    sweep(reconciler, clock, 30.0)
    ledger.presence.beat("listen", started_at=clock.now, turned_at=None, counts={})
    sweep(reconciler, clock, 5.0)
    for _ in range(5):
        ledger.presence.beat("listen", started_at=clock.now, turned_at=None, counts={})
        sweep(reconciler, clock, 10.0)
    assert status(ledger, "1.2.3.4").state == "receiving"
    ledger.presence.beat("listen", started_at=clock.now, turned_at=None, counts={})
    sweep(reconciler, clock, 10.0, 3.0)
    assert status(ledger, "1.2.3.4").closing_reason == "quiet_period"


def test_a_localizer_is_skipped_with_its_reason(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.5", range(2), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    sweep(reconciler, clock, 61.0, 3.0)
    found = status(ledger, "1.2.3.5")
    assert found.state == "skipped"
    assert "localizer" in found.reason.lower()
    assert ledger.worklist.retry(found.series_id) == ["selection is judged again"]


def test_mixed_patients_are_rejected(ledger: Ledger, reconciler: Reconciler, clock: Clock) -> None:
    receive(ledger, "1.2.3.4", range(20))
    receive(ledger, "1.2.3.4", range(20, 40), patient_id="SOMEBODY ELSE")
    sweep(reconciler, clock, 61.0, 3.0)
    found = status(ledger, "1.2.3.4")
    assert found.state == "rejected"
    assert "patient" in found.reason
    assert "SOMEBODY" not in found.reason


def test_late_slices_of_a_purged_series_ask_for_the_others(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.4", range(2), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    sweep(reconciler, clock, 61.0, 3.0)
    assert len(ledger.retention.purge(0.0)) == 2
    receive(ledger, "1.2.3.4", range(2, 42))
    sweep(reconciler, clock, 61.0, 3.0)
    found = status(ledger, "1.2.3.4")
    assert found.state == "rejected"
    assert found.reason.startswith("2 of the 42 images of this series were removed by retention")
    # The whole series comes again: nothing is missing any more.
    receive(ledger, "1.2.3.4", range(2), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    assert ledger.worklist.retry(found.series_id) == ["selection is judged again"]
    sweep(reconciler, clock, 3.0, 3.0)
    assert status(ledger, "1.2.3.4").state == "selected"


def test_a_sweep_reads_what_waits_once(
    ledger: Ledger, reconciler: Reconciler, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    headers = ledger.revisions.headers
    monkeypatch.setattr(
        ledger.revisions, "headers", lambda number: read.append(number) or headers(number)
    )
    receive(ledger, "1.2.3.4", range(40))  # whole, and waits for its sister
    receive(ledger, "1.2.3.5", range(19), outcome="")
    receive(ledger, "1.2.3.5", range(25, 45))  # has a gap, and waits for the quiet period
    sweep(reconciler, clock, 10.0, 1.0, 1.0)
    ledger.intake.close_association(2, outcome="released", ignored={})  # the one that was left open
    sweep(reconciler, clock, *[1.0] * 6)
    assert status(ledger, "1.2.3.4").state == "complete"
    assert status(ledger, "1.2.3.5").state == "receiving"
    assert len(read) == 3  # for the evidence of each, and for the selection of the first
    receive(ledger, "1.2.3.5", range(19, 25))
    sweep(reconciler, clock, 6.0, 3.0)
    assert {status(ledger, uid).state for uid in ("1.2.3.4", "1.2.3.5")} == {"selected", "skipped"}


def test_one_series_of_a_study_is_analysed_the_better_one(
    ledger: Ledger, reconciler: Reconciler, clock: Clock, nudges: Nudges
) -> None:
    receive(ledger, "1.2.3.4", range(40), slice_thickness_mm=5.0)
    receive(
        ledger, "1.2.3.5", range(40), slice_thickness_mm=2.0, convolution_kernel="STANDARD",
        manufacturer="GE MEDICAL SYSTEMS",
    )  # fmt: skip
    sweep(reconciler, clock, 6.0, 3.0)
    assert status(ledger, "1.2.3.5").state == "selected"
    loser = status(ledger, "1.2.3.4")
    assert loser.state == "skipped"
    assert "another series of the study" in loser.reason
    assert len(nudges.analyses) == 1
    # A third one that comes later does not make a second reading of the study.
    receive(ledger, "1.2.3.6", range(40))
    sweep(reconciler, clock, 61.0, 3.0)
    assert status(ledger, "1.2.3.6").state == "skipped"


def test_a_study_waits_for_a_sister_that_still_arrives(
    ledger: Ledger, reconciler: Reconciler, clock: Clock
) -> None:
    receive(ledger, "1.2.3.4", range(40))
    sweep(reconciler, clock, 6.0)
    receive(ledger, "1.2.3.5", range(40), outcome="")
    sweep(reconciler, clock, 3.0)
    assert status(ledger, "1.2.3.4").state == "complete"


def test_nudges_are_repeated_and_survive_a_broker_that_is_down(
    ledger: Ledger, reconciler: Reconciler, clock: Clock, nudges: Nudges
) -> None:
    nudges.down = True
    receive(ledger, "1.2.3.4", range(40))
    sweep(reconciler, clock, 6.0, 3.0, 1.0)
    assert status(ledger, "1.2.3.4").analysis_state == "waiting"
    assert nudges.analyses == []
    nudges.down = False
    sweep(reconciler, clock, RENUDGE_AFTER_S + 0.1, 1.0, RENUDGE_AFTER_S + 0.1)
    assert len(nudges.analyses) == 2
