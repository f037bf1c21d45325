"""What looks complete though the evidence is missing, and what will close it."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.anticipation import WORTH_S, looks_complete
from dicom_node.completion import Evidence, StackEvidence, foresee, judge
from dicom_node.settings import CompletionSettings

RULES = CompletionSettings(settle_s=5, quiet_period_s=60, maximum_wait_s=1800)
WHOLE, HOLED = StackEvidence(True, ""), StackEvidence(False, "a gap")


def evidence(**changes: Any) -> Evidence:
    known: dict[str, Any] = {
        "received": 148,
        "first_arrival_at": 1000.0,
        "last_arrival_at": 1020.0,
        "associations_over": True,
    }
    return Evidence(**(known | changes))


def looks(quiet_s: float, stacks: StackEvidence = WHOLE, **changes: Any) -> bool:
    return looks_complete(evidence(**changes), lambda: stacks, quiet_s, RULES)


@pytest.mark.parametrize("stacks", [WHOLE, HOLED])
@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("settle_s", [5.0, 60.0, 90.0])
def test_what_is_foreseen_comes_true_if_nothing_more_comes(
    stacks: StackEvidence, aborted: bool, settle_s: float
) -> None:
    rules = RULES.model_copy(update={"settle_s": settle_s})
    known = evidence(associations_aborted=aborted)
    foreseen = foresee(known, lambda: stacks, rules)
    assert foreseen is not None
    at = known.last_arrival_at + foreseen.quiet_s
    assert judge(known, lambda: stacks, at, rules).reason is foreseen.reason
    assert judge(known, lambda: stacks, at - 0.1, rules).reason is None


def test_nothing_is_foreseen_while_the_source_has_more() -> None:
    assert foresee(evidence(expected_count=150), lambda: WHOLE, RULES) is None
    assert foresee(evidence(received=0), lambda: WHOLE, RULES) is None


def test_a_whole_stack_looks_complete_a_moment_after_its_association() -> None:
    assert not looks(0.4)
    assert looks(0.5)
    assert looks(5.0 - WORTH_S - 0.1)
    assert not looks(5.0 - WORTH_S + 0.1), "not worth it any more"


def test_a_sender_that_pauses_is_given_a_little_longer() -> None:
    assert not looks(1.9, associations_over=False)
    assert looks(2.0, associations_over=False)
    assert looks(30.0, associations_over=False)
    assert not looks(60.0 - WORTH_S + 0.1, associations_over=False)


@pytest.mark.parametrize(
    "changes", [{"associations_aborted": True}, {"stacks": HOLED}], ids=["aborted", "holed"]
)
def test_what_only_time_closes_is_given_the_settling_time(changes: dict[str, Any]) -> None:
    assert not looks(4.9, **changes)
    assert looks(5.0, **changes)
    assert not looks(60.0 - WORTH_S + 0.1, **changes)


def test_positions_are_not_read_while_images_come() -> None:
    def read() -> StackEvidence:
        raise AssertionError("read")

    assert not looks_complete(evidence(associations_over=False), read, 1.0, RULES)
    assert not looks_complete(evidence(), read, 0.1, RULES)
