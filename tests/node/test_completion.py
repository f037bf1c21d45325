"""When a series is whole: each rule, each wait, and the evidence of positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.completion import ClosingReason, Evidence, Verdict, judge, stack_evidence
from dicom_node.header import InstanceHeader
from dicom_node.settings import CompletionSettings

RULES = CompletionSettings(settle_s=5, quiet_period_s=60, maximum_wait_s=1800)
MIN_SLICES = 20


def ct(index: int, z: float | None, **other: Any) -> InstanceHeader:
    values: dict[str, Any] = {
        "sop_instance_uid": f"1.2.3.{index + 1}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.0",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "rows": 512,
        "columns": 512,
        "pixel_spacing": (0.8, 0.8),
        "image_position": None if z is None else (-200.0, -200.0, z),
        "image_orientation": None if z is None else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    }
    return InstanceHeader(**(values | other))


def stack(count: int, spacing: float = 2.0, first: int = 0, **other: Any) -> list[InstanceHeader]:
    return [ct(first + index, spacing * index, **other) for index in range(count)]


WHOLE = stack(148)
HOLED = [header for header in WHOLE if header.sop_instance_uid not in {"1.2.3.40", "1.2.3.41"}]


def verdict(now: float, headers: Sequence[InstanceHeader] = WHOLE, **evidence: Any) -> Verdict:
    """Judge a series whose first image came at 1000 s and whose last at 1020 s."""
    known: dict[str, Any] = {
        "received": len(headers),
        "first_arrival_at": 1000.0,
        "last_arrival_at": 1020.0,
        "associations_over": True,
    }
    return judge(
        Evidence(**(known | evidence)), lambda: stack_evidence(headers, MIN_SLICES), now, RULES
    )


def closed(reason: ClosingReason) -> Verdict:
    return Verdict(complete=True, reason=reason, waiting_for="")


# -- the count of the source ----------------------------------------------------------------------


def test_the_count_of_the_source_closes_at_once() -> None:
    expected = closed(ClosingReason.COUNT_MATCHES_SOURCE)
    assert verdict(1020.0, expected_count=148) == expected
    assert verdict(1020.0, expected_count=148, asked_at=1020.0) == expected
    assert verdict(1020.0, HOLED, expected_count=146) == expected


def test_an_answer_from_before_the_last_image_does_not_confirm() -> None:
    now = verdict(1021.0, expected_count=148, asked_at=1019.0)
    assert now.waiting_for == "waiting until nothing arrives for 5 s"


def test_the_count_does_not_close_while_the_association_is_open() -> None:
    now = verdict(1025.0, expected_count=148, associations_over=False)
    assert now.waiting_for == "the sender's association is still open"


def test_while_the_source_has_more_only_the_maximum_wait_closes() -> None:
    headers = WHOLE[:136]
    for now in (1026.0, 1081.0, 2799.0):
        assert verdict(now, headers, expected_count=148).waiting_for == (
            "12 of 148 images expected by the PACS are missing"
        )
    assert verdict(2800.0, headers, expected_count=148) == closed(ClosingReason.MAXIMUM_WAIT)


@pytest.mark.parametrize("expected_count", [0, 100], ids=["knows none", "knows fewer"])
def test_a_source_that_knows_less_than_arrived_says_nothing(expected_count: int) -> None:
    assert not verdict(1021.0, expected_count=expected_count).complete
    assert verdict(1026.0, expected_count=expected_count) == closed(
        ClosingReason.RELEASED_AND_GAP_FREE
    )


# -- released and gap-free ------------------------------------------------------------------------


def test_the_end_of_the_association_alone_closes_nothing() -> None:
    assert verdict(1020.0) == Verdict(False, None, "waiting until nothing arrives for 5 s")
    assert not verdict(1024.9).complete


def test_released_and_gap_free_closes_after_the_settling_time() -> None:
    assert verdict(1025.0) == closed(ClosingReason.RELEASED_AND_GAP_FREE)


def test_gaps_wait_for_the_quiet_period() -> None:
    assert verdict(1030.0, HOLED).waiting_for == (
        "distances between slices are irregular: 1 (up to 6.0 mm where 2.0 mm is usual); "
        "waiting until nothing arrives for 60 s"
    )
    assert verdict(1080.0, HOLED) == closed(ClosingReason.QUIET_PERIOD)


def test_an_aborted_association_may_be_resumed() -> None:
    assert "aborted" in verdict(1030.0, associations_aborted=True).waiting_for
    assert verdict(1080.0, associations_aborted=True) == closed(ClosingReason.QUIET_PERIOD)


def test_the_first_slices_of_a_stack_prove_nothing() -> None:
    assert verdict(1030.0, WHOLE[:19]).waiting_for == (
        "only 19 slice positions so far, 20 are needed; waiting until nothing arrives for 60 s"
    )


def test_headers_are_read_only_when_the_decision_hangs_on_them() -> None:
    def forbidden() -> Sequence[InstanceHeader]:
        raise AssertionError("headers were read")

    cases = [
        (1021, True, None),
        (1030, False, None),
        (1081, True, None),
        (1030, True, 200),
        (1020, True, 148),
        (9999, False, 200),
    ]
    for now, over, expected in cases:
        evidence = Evidence(148, 1000.0, 1020.0, over, expected_count=expected)
        judge(evidence, forbidden, now, RULES)


# -- time alone -----------------------------------------------------------------------------------


def test_the_quiet_period_closes_an_open_association_too() -> None:
    assert not verdict(1079.9, associations_over=False).complete
    assert verdict(1080.0, associations_over=False) == closed(ClosingReason.QUIET_PERIOD)


def test_the_maximum_wait_counts_from_the_first_image() -> None:
    streaming = {"associations_over": False, "last_arrival_at": 2799.5}
    assert not verdict(2799.9, **streaming).complete
    assert verdict(2800.0, **streaming) == closed(ClosingReason.MAXIMUM_WAIT)


def test_a_clock_that_went_back_closes_nothing() -> None:
    assert not verdict(500.0).complete


def test_nothing_received_is_nothing_to_close() -> None:
    assert verdict(9999.0, [], received=0).waiting_for == "no image has arrived"


@given(
    st.builds(
        Evidence,
        received=st.integers(0, 200),
        first_arrival_at=st.floats(0, 1000),
        last_arrival_at=st.floats(0, 4000),
        associations_over=st.booleans(),
        associations_aborted=st.booleans(),
        expected_count=st.none() | st.integers(0, 200),
        asked_at=st.none() | st.floats(0, 4000),
    ),
    st.floats(0, 6000),
    st.sampled_from([WHOLE, HOLED, [], stack(5)]),
)
def test_every_verdict_has_a_reason_or_a_sentence(
    evidence: Evidence, now: float, headers: list[InstanceHeader]
) -> None:
    result = judge(evidence, lambda: stack_evidence(headers, MIN_SLICES), now, RULES)
    assert result.complete == (result.reason is not None) == (result.waiting_for == "")
    if evidence.received and now - evidence.first_arrival_at >= RULES.maximum_wait_s:
        assert result.complete  # none is stuck beyond its deadline
    if result.complete and evidence.missing:
        assert result.reason is ClosingReason.MAXIMUM_WAIT


def test_every_reason_has_a_text_for_readers() -> None:
    texts = {reason.text for reason in ClosingReason}
    assert len(texts) == 4
    assert all(text[0].islower() and not text.endswith(".") for text in texts)
    assert ClosingReason("quiet_period").is_confirmed is False


# -- positions ------------------------------------------------------------------------------------


def whole(headers: Sequence[InstanceHeader]) -> bool:
    found = stack_evidence(headers, MIN_SLICES)
    assert found.gap_free == (not found.defect)
    return found.gap_free


@pytest.mark.parametrize(("deviation", "expected"), [(0.0, True), (0.09, True), (0.12, False)])
def test_a_gap_is_a_distance_ten_percent_off(deviation: float, expected: bool) -> None:
    headers = [*stack(30, 5.0), *(ct(100 + n, 150.0 + 5.0 * (n + deviation)) for n in range(20))]
    assert whole(headers) is expected


def test_order_of_arrival_does_not_matter() -> None:
    assert whole(WHOLE[::-1])
    assert whole(WHOLE[::2] + WHOLE[1::2])


def test_every_other_slice_so_far_looks_regular_and_the_rest_is_late() -> None:
    # Honest limit: nothing in the positions tells. The later ones open the next revision.
    assert whole(WHOLE[::2])


def test_two_reconstructions_in_one_series() -> None:
    both = stack(60) + stack(40, 5.0, first=60, convolution_kernel="B70f")
    assert whole(both)
    del both[80]
    assert not whole(both)


def test_phases_at_the_same_positions() -> None:
    both = stack(60) + stack(60, first=60)
    assert whole(both)
    assert "a phase of the series is incomplete" in stack_evidence(both[:-1], MIN_SLICES).defect


def test_a_localizer_in_the_series_is_passed_over() -> None:
    localizer = ct(200, 0.0, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), rows=800)
    assert whole([*WHOLE, localizer])


def test_objects_without_positions() -> None:
    reports = [ct(index, None) for index in range(30)]
    assert stack_evidence(reports, MIN_SLICES).defect == "the objects have no slice positions"
    assert whole(WHOLE + reports[:1])
    assert not whole([])


@pytest.mark.parametrize(("frames", "expected"), [(300, True), (19, False), (1, False)])
def test_a_multi_frame_instance_is_a_whole_stack(frames: int, expected: bool) -> None:
    enhanced = ct(0, None, sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1", number_of_frames=frames)
    assert whole([enhanced]) is expected


def test_a_tilted_gantry_is_measured_along_the_normal() -> None:
    tilted = (1.0, 0.0, 0.0, 0.0, 0.9483237, -0.3173047)
    headers = [
        ct(index, None).model_copy(
            update={
                "image_position": (-125.0, 0.3173047 * 4 * index, 0.9483237 * 4 * index),
                "image_orientation": tilted,
            }
        )
        for index in range(30)
    ]
    assert whole(headers)
    assert not whole(headers[:10] + headers[11:])
