"""The state machines, restated by hand; every pair of state and event is tried."""

from __future__ import annotations

import itertools

import pytest

from dicom_node.errors import IllegalTransition
from dicom_node.ledger.states import (
    ANALYSIS_TRANSITIONS,
    DELIVERY_TRANSITIONS,
    REVISION_TRANSITIONS,
    AnalysisEvent,
    AnalysisState,
    DeliveryEvent,
    DeliveryState,
    RevisionEvent,
    RevisionState,
    step,
)

# One line a state: event → next state. What is not written here must be refused.
REVISION = """
receiving   evidence→complete
complete    select→selected  skip→skipped  reject→rejected  late_slices→superseded
selected    late_slices→superseded
skipped     late_slices→superseded  reopen→complete
rejected    late_slices→superseded  reopen→complete
superseded
"""
ANALYSIS = """
waiting      claim→running  supersede→superseded
running      finish→done  skip→skipped  reject→rejected  fail→waiting  lease_expired→waiting  \
exhausted→quarantined  supersede→superseded
done
skipped      retry→waiting
rejected     retry→waiting
quarantined  retry→waiting
superseded
"""
DELIVERY = """
waiting           accepted→sent  transient→waiting  permanent→parked  bad_object→quarantined  \
give_up→expired
sent              commit_asked→commit_requested  commit_success→committed  commit_failure→waiting  \
commit_exhausted→commit_failed  found→verified
commit_requested  commit_success→committed  commit_failure→waiting  commit_unanswered→sent  \
commit_exhausted→commit_failed
committed
verified          commit_success→committed
commit_failed     commit_success→committed  retry→waiting
parked            retry→waiting
quarantined       retry→waiting
expired           retry→waiting
"""
MACHINES = [
    (REVISION_TRANSITIONS, RevisionState, RevisionEvent, REVISION),
    (ANALYSIS_TRANSITIONS, AnalysisState, AnalysisEvent, ANALYSIS),
    (DELIVERY_TRANSITIONS, DeliveryState, DeliveryEvent, DELIVERY),
]


def by_hand(text: str) -> dict[str, dict[str, str]]:
    table = {}
    for line in text.strip().splitlines():
        state, *pairs = line.split()
        table[state] = dict(pair.split("→") for pair in pairs)
    return table


PAIRS = [
    pytest.param(table, state, event, by_hand(text)[state].get(event), id=f"{state}-{event}")
    for table, states, events, text in MACHINES
    for state, event in itertools.product(states, events)
]


@pytest.mark.parametrize(("table", "state", "event", "expected"), PAIRS)
def test_every_pair(table, state, event, expected) -> None:
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"{state} does not allow {event}"):
            step(table, state, event)
    else:
        assert step(table, state, event) == expected


def test_the_hand_written_tables_name_every_state_and_no_other() -> None:
    for _, states, events, text in MACHINES:
        table = by_hand(text)
        assert set(table) == set(states)
        assert {event for row in table.values() for event in row} == set(events)


def test_all_pairs_were_tried() -> None:
    assert len(PAIRS) == 6 * 6 + 7 * 9 + 9 * 12
