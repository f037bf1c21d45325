"""Hours of every day, by the clock on the wall: ``07:00-09:30``, or ``22:00-06:00`` over midnight.

Asked for the present only: nothing that is kept anywhere depends on the answer, so that a clock
that is set, or summer time that begins, changes no more than when something is done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["DailyHours", "hours_begin", "hours_end", "leaves_no_time"]

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")
_DAY = 24 * 60


def _daily_hours(text: str) -> str:
    plain = "".join(text.split())
    if not _SPAN.fullmatch(plain):
        raise ValueError(f'{text!r} are no hours of a day such as "07:00-09:30"')
    begin, end = _minutes(plain)
    if begin == end:
        raise ValueError(f"{text!r} begins and ends at the same time")
    return plain


DailyHours = Annotated[str, AfterValidator(_daily_hours)]
"""``HH:MM-HH:MM``, local time of the node; the end does not belong to it."""


def hours_end(hours: Sequence[str], now: float) -> str:
    """Return when the hours that the present lies in end, as ``HH:MM``; empty outside of them.

    Parameters
    ----------
    hours : sequence of str
        As :data:`DailyHours` has them; those that touch count as one.
    now : float
        Seconds since the epoch, UTC; read in the local time of the node.
    """
    there = datetime.fromtimestamp(now).astimezone()
    minute = there.hour * 60 + there.minute
    end: int | None = None
    for _ in hours:  # each may be followed by another
        following = [_minutes(span)[1] for span in hours if _covers(span, minute)]
        if not following:
            break
        # The one that lasts longest from here on.
        end = minute = max(following, key=lambda at: (at - minute - 1) % _DAY) % _DAY
    return "" if end is None else f"{end // 60:02d}:{end % 60:02d}"


def hours_begin(hours: Sequence[str], now: float) -> str:
    """Return when the next of `hours` begin, as ``HH:MM``; empty where there are none.

    Parameters
    ----------
    now : float
        Seconds since the epoch, UTC.
    """
    if not hours:
        return ""
    there = datetime.fromtimestamp(now).astimezone()
    minute = there.hour * 60 + there.minute
    begin = min((_minutes(span)[0] for span in hours), key=lambda at: (at - minute - 1) % _DAY)
    return f"{begin // 60:02d}:{begin % 60:02d}"


def leaves_no_time(hours: Sequence[str]) -> bool:
    """Whether `hours` take the whole day."""
    return all(any(_covers(span, minute) for span in hours) for minute in range(_DAY))


def _minutes(span: str) -> tuple[int, int]:
    begin, end = (
        60 * int(hour) + int(minute)
        for hour, minute in (part.split(":") for part in span.split("-"))
    )
    return begin, end


def _covers(span: str, minute: int) -> bool:
    begin, end = _minutes(span)
    if begin < end:
        return begin <= minute < end
    return minute >= begin or minute < end
