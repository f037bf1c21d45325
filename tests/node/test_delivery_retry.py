"""What answers mean, how long to wait, when a destination is left alone: by hand-written tables."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.delivery.breaker import (
    BREAKER_TRANSITIONS,
    Breaker,
    BreakerEvent,
    BreakerState,
    Permission,
    after_failure,
    after_success,
    permission,
)
from dicom_node.delivery.dimse import c_echo_rq, c_store_rq, read_response
from dicom_node.delivery.retry import backoff_s, event_of_error, read_status, rejection
from dicom_node.errors import (
    DeliveryError,
    PermanentDelivery,
    TransientDelivery,
    UnsendableObject,
)

STATUSES = {
    "accepted": [0x0000, 0x0111, 0xB000, 0xB006, 0xB007, 0x0107, 0x0116, 0xB00A],
    "transient": [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0210, 0x0213],
    "permanent": [
        0xA900,
        0xA9FF,
        0xC000,
        0xC123,
        0xCFFF,
        0x0122,
        0x0124,
        0x0117,
        0x0211,
        0x0212,
        0x1234,
        0xFFFF,
        0xA800,
        0xA600,
    ],
}


@pytest.mark.parametrize(
    ("event", "status"),
    [(event, status) for event, statuses in STATUSES.items() for status in statuses],
)
def test_each_status_has_its_class(event: str, status: int) -> None:
    answer = read_status(status)
    assert answer.event.value == event
    assert (status == 0x0000) == (not answer.words)
    assert status == 0x0000 or f"0x{status:04X}" in answer.words


@given(st.integers(0, 0xFFFF))
def test_every_status_has_a_class(status: int) -> None:
    assert read_status(status).event.value in STATUSES


@pytest.mark.parametrize(
    ("result", "source", "reason", "kind", "words"),
    [
        (1, 1, 3, PermanentDelivery, "does not know our AE title M3LUNG: add it there"),
        (2, 1, 3, PermanentDelivery, "does not know our AE title M3LUNG"),
        (1, 1, 7, PermanentDelivery, "is not called ARCHIVE"),
        (1, 1, 2, PermanentDelivery, "application context"),
        (1, 1, 1, PermanentDelivery, "gives no reason"),
        (2, 1, 1, TransientDelivery, "gives no reason"),
        (1, 2, 2, PermanentDelivery, "another version"),
        (2, 2, 1, TransientDelivery, "gives no reason"),
        (1, 3, 1, TransientDelivery, "temporary congestion"),
        (2, 3, 2, TransientDelivery, "limit of associations"),
        (2, 9, 9, TransientDelivery, "does not define"),
        (1, 9, 9, PermanentDelivery, "does not define"),
    ],
)
def test_rejections_in_words(
    result: int, source: int, reason: int, kind: type[DeliveryError], words: str
) -> None:
    error = rejection(result, source, reason, us="M3LUNG", them="ARCHIVE")
    assert type(error) is kind
    assert words in str(error)


def test_errors_have_events() -> None:
    class Late(TransientDelivery):
        pass

    assert event_of_error(Late("x")).value == "transient"
    assert event_of_error(PermanentDelivery("x")).value == "permanent"
    assert event_of_error(UnsendableObject("x")).value == "bad_object"
    with pytest.raises(TypeError):
        event_of_error(DeliveryError("x"))


def test_backoff_doubles_to_the_cap() -> None:
    waits = [backoff_s(n, first_s=5, cap_s=600, uniform=0) for n in range(1, 10)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_in_its_bounds(attempts: int, uniform: float) -> None:
    assert 2.5 <= backoff_s(attempts, first_s=5, cap_s=600, uniform=uniform) <= 600


EXPECTED = {
    ("closed", "success"): "closed",
    ("closed", "failure"): "closed",
    ("closed", "limit"): "open",
    ("open", "due"): "half_open",
    ("open", "limit"): "open",
    ("open", "success"): "closed",
    ("half_open", "due"): "half_open",
    ("half_open", "limit"): "open",
    ("half_open", "success"): "closed",
}


def test_breaker_table_restated() -> None:
    pairs = itertools.product(BreakerState, BreakerEvent)
    built = {(s.value, e.value): BREAKER_TRANSITIONS.get((s, e)) for s, e in pairs}
    assert built == {pair: EXPECTED.get(pair) for pair in built}


def fail(breaker: Breaker, now: float) -> Breaker:
    return after_failure(breaker, now, limit=3, first_s=5, cap_s=600, uniform=0)


def test_breaker_opens_probes_and_closes() -> None:
    breaker = fail(fail(Breaker(), 0), 1)
    assert permission(breaker, 1, cap_s=600)[0] is Permission.SEND
    breaker = fail(breaker, 2)
    assert (breaker.state, breaker.retry_at) == (BreakerState.OPEN, 7)
    assert permission(breaker, 6.9, cap_s=600) == (Permission.WAIT, breaker)
    allowed, breaker = permission(breaker, 7, cap_s=600)
    assert (allowed, breaker.state) == (Permission.PROBE, BreakerState.HALF_OPEN)
    # one probe at a time; a prober that died is replaced
    assert permission(breaker, 8, cap_s=600)[0] is Permission.WAIT
    assert permission(breaker, 38, cap_s=600)[0] is Permission.PROBE
    again = fail(breaker, 8)
    assert (again.state, again.retry_at) == (BreakerState.OPEN, 18)  # 5 s, then 10 s
    assert after_success(breaker) == Breaker()


def test_breaker_survives_a_clock_set_back() -> None:
    breaker = Breaker(BreakerState.OPEN, 3, retry_at=1_000_000)
    assert permission(breaker, 10, cap_s=600)[0] is Permission.PROBE


def test_a_day_of_outage_is_a_bounded_number_of_probes() -> None:
    breaker, now, calls = Breaker(), 0.0, 0
    while now < 86400:
        allowed, breaker = permission(breaker, now, cap_s=600)
        if allowed is not Permission.WAIT:
            calls += 1
            breaker = fail(breaker, now)
        now += 1
    assert 144 <= calls <= 156  # one per ten minutes, and the steps up to there


def test_command_sets_are_read_by_pynetdicom() -> None:
    from io import BytesIO

    from pynetdicom.dsutils import decode

    command = decode(BytesIO(c_store_rq(7, "1.2.840.10008.5.1.4.1.1.7", "1.2.3")), True, True)
    assert command.CommandField == 1
    assert command.MessageID == 7
    assert command.AffectedSOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert command.AffectedSOPInstanceUID == "1.2.3"
    assert command.CommandDataSetType != 0x0101
    body = c_store_rq(7, "1.2.840.10008.5.1.4.1.1.7", "1.2.3")
    assert command.CommandGroupLength == len(body) - 12
    echo = decode(BytesIO(c_echo_rq(1)), True, True)
    assert (echo.CommandField, echo.CommandDataSetType) == (0x30, 0x0101)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_response_end_in_a_delivery_error(content: bytes) -> None:
    with pytest.raises(TransientDelivery):
        read_response(content)
