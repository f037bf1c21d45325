"""When a series is whole: judged by evidence, never by the end of an association alone.

Pure functions of what is known; no clock, no database. The reason that closed a series is shown
to administrators and written into the report.

=========================  =====================================================================
reason                     holds when
=========================  =====================================================================
``count_matches_source``   C-FIND of the source PACS counts what was received, associations over
``released_and_gap_free``  associations released, regular stack without gaps, ``settle_s`` quiet
``quiet_period``           ``quiet_period_s`` quiet, and no source says that more is to come
``maximum_wait``           ``maximum_wait_s`` since the first image, whatever else
=========================  =====================================================================

Time counts only while the node listens: whoever could not speak was not silent.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicom_node.header import InstanceHeader
from dicom_node.settings import CompletionSettings
from dicom_node.slice_geometry import (
    SAME_HEIGHT_MM,
    distinct_heights,
    height_mm,
    slice_normal,
    stack_spacing,
)

__all__ = [
    "ClosingReason",
    "Evidence",
    "Foreseen",
    "StackEvidence",
    "Verdict",
    "foresee",
    "judge",
    "stack_evidence",
]


class ClosingReason(enum.StrEnum):
    """What closed a series revision."""

    COUNT_MATCHES_SOURCE = "count_matches_source"
    RELEASED_AND_GAP_FREE = "released_and_gap_free"
    QUIET_PERIOD = "quiet_period"
    MAXIMUM_WAIT = "maximum_wait"

    @property
    def text(self) -> str:
        """A clause for readers, to stand after "The series was closed because"."""
        return {
            ClosingReason.COUNT_MATCHES_SOURCE: (
                "the number of images received equals the number the source PACS states"
            ),
            ClosingReason.RELEASED_AND_GAP_FREE: (
                "the sender had finished and the images form a stack without gaps"
            ),
            ClosingReason.QUIET_PERIOD: (
                "no further image arrived for the quiet period; "
                "whether images are missing could not be confirmed"
            ),
            ClosingReason.MAXIMUM_WAIT: (
                "the maximum waiting time was over; images may be missing"
            ),
        }[self]

    @property
    def is_confirmed(self) -> bool:
        """Whether evidence says that the series is whole, rather than time alone."""
        return self in {ClosingReason.COUNT_MATCHES_SOURCE, ClosingReason.RELEASED_AND_GAP_FREE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger knows about a revision that still receives.

    Attributes
    ----------
    received : int
        Instances of the series.
    first_arrival_at, last_arrival_at : float
        Seconds on the ledger's clock.
    associations_over : bool
        No association that sent an image of the series is open.
    associations_aborted : bool
        One of them ended by abort or a lost connection: the sender may come again.
    expected_count : int or None
        Images in the series by C-FIND at the source; None when not asked or without an answer.
    asked_at : float or None
        When it was asked; an answer older than the last image cannot confirm the count.
    """

    received: int
    first_arrival_at: float
    last_arrival_at: float
    associations_over: bool
    associations_aborted: bool = False
    expected_count: int | None = None
    asked_at: float | None = None

    @property
    def missing(self) -> int:
        """Images that the source PACS has and the node has not; 0 when it was not asked."""
        return max(0, (self.expected_count or 0) - self.received)

    @property
    def count_is_confirmed(self) -> bool:
        """The source PACS, asked after the last image, counts what was received."""
        fresh = self.asked_at is None or self.asked_at >= self.last_arrival_at
        return fresh and self.received > 0 and self.expected_count == self.received


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a revision is whole.

    Attributes
    ----------
    complete : bool
    reason : ClosingReason or None
        Set exactly when complete.
    waiting_for : str
        One sentence for an administrator; empty when complete.
    """

    complete: bool
    reason: ClosingReason | None
    waiting_for: str


@dataclass(frozen=True, slots=True)
class StackEvidence:
    """What the positions say: whether they form whole stacks, and the defect if they do not."""

    gap_free: bool
    defect: str


def judge(
    evidence: Evidence,
    read_stacks: Callable[[], StackEvidence],
    now: float,
    settings: CompletionSettings,
) -> Verdict:
    """Say whether a series is whole, and why or why not.

    Parameters
    ----------
    read_stacks : callable
        Returns what :func:`stack_evidence` says of the revision; called only when the decision
        hangs on positions.
    now : float
        Seconds on the clock of `evidence`. A clock that went back counts as no time at all.
    """
    waited = max(0.0, now - evidence.first_arrival_at)
    quiet = max(0.0, now - evidence.last_arrival_at)
    if evidence.received <= 0:
        return _wait("no image has arrived")
    if evidence.count_is_confirmed and evidence.associations_over:
        return _close(ClosingReason.COUNT_MATCHES_SOURCE)
    if waited >= settings.maximum_wait_s:
        return _close(ClosingReason.MAXIMUM_WAIT)
    if evidence.missing:
        return _wait(
            f"{evidence.missing} of {evidence.expected_count} images expected by the PACS "
            "are missing"
        )
    if quiet >= settings.quiet_period_s:
        return _close(ClosingReason.QUIET_PERIOD)
    if not evidence.associations_over:
        return _wait("the sender's association is still open")
    otherwise = f"waiting until nothing arrives for {settings.quiet_period_s:g} s"
    if evidence.associations_aborted:
        return _wait(f"the sender's association was aborted; {otherwise}")
    if quiet < settings.settle_s:
        return _wait(f"waiting until nothing arrives for {settings.settle_s:g} s")
    stacks = read_stacks()
    if stacks.gap_free:
        return _close(ClosingReason.RELEASED_AND_GAP_FREE)
    return _wait(f"{stacks.defect}; {otherwise}")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What will close a series if nothing more comes, and after how much quiet time, in seconds."""

    reason: ClosingReason
    quiet_s: float


def foresee(
    evidence: Evidence, read_stacks: Callable[[], StackEvidence], settings: CompletionSettings
) -> Foreseen | None:
    """Say what will close a series that looks complete; None where more is known to come.

    Takes for granted that senders who pause have finished and that no source is asked. Being wrong
    costs time only: whoever reads ahead compares with what did close the series (ADR 0022).

    Parameters
    ----------
    read_stacks : callable
        As of :func:`judge`.
    """
    if evidence.received <= 0 or evidence.missing:
        return None
    may_settle = settings.settle_s < settings.quiet_period_s and not evidence.associations_aborted
    if may_settle and read_stacks().gap_free:
        return Foreseen(ClosingReason.RELEASED_AND_GAP_FREE, settings.settle_s)
    return Foreseen(ClosingReason.QUIET_PERIOD, settings.quiet_period_s)


def _close(reason: ClosingReason) -> Verdict:
    return Verdict(complete=True, reason=reason, waiting_for="")


def _wait(waiting_for: str) -> Verdict:
    return Verdict(complete=False, reason=None, waiting_for=waiting_for)


def stack_evidence(headers: Sequence[InstanceHeader], min_slices: int) -> StackEvidence:
    """Whether the images form one or more regular stacks without gaps.

    Images are grouped by orientation, matrix, spacing, kernel, thickness and image type, since
    one series may hold several reconstructions. Within a group a position may occur several
    times (phases), but then all must occur equally often: a phase under way is a gap too.
    A multi-frame instance is a whole stack by itself (PS3.3 A.38). Objects without a position
    (reports, captures) say nothing and are passed over, as are localizers of one or two images.

    Parameters
    ----------
    min_slices : int
        Positions that at least one stack must have. Fewer prove nothing: the start of a stack is
        gap-free too.
    """
    frames = max((header.number_of_frames or 0 for header in headers), default=0)
    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for header in headers:
        height = _height(header)
        if height is not None:
            groups[_group_key(header)].append(height)
    largest = max((len(distinct_heights(heights)) for heights in groups.values()), default=0)
    if max(largest, frames) < min_slices:
        if not largest and not frames:
            return StackEvidence(False, "the objects have no slice positions")
        return StackEvidence(
            False, f"only {max(largest, frames)} slice positions so far, {min_slices} are needed"
        )
    for heights in groups.values():
        defect = _defect(heights) if len(heights) > 2 else ""
        if defect:
            return StackEvidence(False, defect)
    return StackEvidence(True, "")


def _defect(heights: list[float]) -> str:
    spacing = stack_spacing(heights)
    if spacing.gaps and spacing.spacing_mm is not None:
        return (
            f"distances between slices are irregular: {spacing.gaps} "
            f"(up to {spacing.largest_mm:.1f} mm where {spacing.spacing_mm:.1f} mm is usual)"
        )
    repeats = Counter(_repeats(heights))
    if len(repeats) > 1:
        return (
            f"positions occur {min(repeats)} to {max(repeats)} times: "
            "a phase of the series is incomplete"
        )
    return ""


def _repeats(heights: list[float]) -> list[int]:
    """How often each distinct position occurs."""
    counts: list[int] = []
    last: float | None = None
    for height in sorted(heights):
        if last is None or height - last > SAME_HEIGHT_MM:
            counts.append(1)
            last = height
        else:
            counts[-1] += 1
    return counts


def _height(header: InstanceHeader) -> float | None:
    if header.image_position is None or header.image_orientation is None:
        return None
    normal = slice_normal(header.image_orientation)
    return None if normal is None else height_mm(header.image_position, normal)


def _group_key(header: InstanceHeader) -> tuple[object, ...]:
    orientation = header.image_orientation or ()
    spacing = header.pixel_spacing or ()
    return (
        # Two decimals: gantry tilts differ by more, rounding in DS values by less.
        tuple(round(cosine, 2) + 0.0 for cosine in orientation),
        header.rows,
        header.columns,
        tuple(round(value, 2) for value in spacing),
        header.convolution_kernel,
        header.slice_thickness_mm,
        header.image_type[2:],
    )
