"""A rule of selection: for which series, and what is done with them."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.settings.daily_hours import DailyHours, hours_end
from dicom_node.settings.sections import Seconds, Section

__all__ = ["DEFAULT_RULE", "GLOBS", "RANGES", "Priority", "PrioritySettings", "Rule"]

_LONGEST_GLOB = 64


class Priority(enum.StrEnum):
    """How soon a series is read."""

    URGENT = "urgent"
    NORMAL = "normal"
    OFF_PEAK = "off_peak"


class PrioritySettings(Section):
    """How long the one waits for the other; so nothing waits for ever."""

    urgent_ahead_s: Annotated[float, Field(ge=0)] = 14400.0  # urgent ones pass what waits shorter
    off_peak_behind_s: Seconds = 43200.0  # off-peak ones are passed so long, then start at any hour
    off_peak_hours: tuple[DailyHours, ...] = ()  # when they may start, local time; empty: any hour

    def is_off_peak(self, now: float) -> bool:
        """Whether off-peak series may start, `now` in seconds since the epoch."""
        return not self.off_peak_hours or bool(hours_end(self.off_peak_hours, now))

    def behind_s(self, priority: Priority) -> float:
        """Return how much later than it is a series counts as queued; less than 0: ahead."""
        if priority is Priority.URGENT:
            return -self.urgent_ahead_s
        return self.off_peak_behind_s if priority is Priority.OFF_PEAK else 0.0


def _glob(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise ValueError("an empty pattern fits nothing; leave the field out")
    if len(stripped) > _LONGEST_GLOB:
        raise ValueError(f"a pattern has {_LONGEST_GLOB} characters at most")
    return stripped


Glob = Annotated[str, AfterValidator(_glob)]
"""``*`` any text, ``?`` any character, ``[ab]`` one of these; not case-sensitive, the whole value.

No regular expression: a glob has no pattern that takes for ever on some text.
"""
Globs = tuple[Glob, ...]
Millimetres = Annotated[float, Field(ge=0)]
Years = Annotated[float, Field(ge=0)]


class Rule(Section):
    """A rule of selection. Asked in order, the first whose conditions all hold decides.

    Attributes
    ----------
    name : str
        What status and console call it: lower case, digits, ``_`` and ``-``.
    source : tuple of str
        Names of peers that sent the series. Of a list, one has to fit, here and below.
    calling_ae : tuple of str
        Patterns (``*``, ``?``, ``[ab]``) of the sender's AE title.
    called_ae : tuple of str
        Patterns of the AE title it called.
    modality : tuple of str
        Patterns of Modality (0008,0060).
    manufacturer : tuple of str
        Patterns of Manufacturer (0008,0070).
    model : tuple of str
        Patterns of Manufacturer's Model Name (0008,1090).
    description : tuple of str
        Patterns of Series Description (0008,103E).
    protocol : tuple of str
        Patterns of Protocol Name (0018,1030).
    procedure : tuple of str
        Patterns of Study Description (0008,1030) or Requested Procedure Description (0032,1060).
    body_part : tuple of str
        Patterns of Body Part Examined (0018,0015).
    accession : tuple of str
        Patterns of Accession Number (0008,0050).
    kernel : tuple of str
        Patterns of Convolution Kernel (0018,1210).
    min_thickness_mm : float or None
        Least Slice Thickness (0018,0050).
    max_thickness_mm : float or None
        Greatest Slice Thickness.
    min_age_years : float or None
        Least Patient's Age (0010,1010).
    max_age_years : float or None
        Greatest Patient's Age.
    action : {"analyse", "skip"}
        Whether the series goes on to be analysed.
    reason : str
        With skip: why, for a radiologist.
    priority : Priority
        How soon it is read.
    destinations : tuple of str
        Names of peers that get the results; empty: all destinations.
    shadow : bool
        Analysed, and nothing is delivered: the results stay at the node.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    source: tuple[str, ...] = ()
    calling_ae: Globs = ()
    called_ae: Globs = ()
    modality: Globs = ()
    manufacturer: Globs = ()
    model: Globs = ()
    description: Globs = ()
    protocol: Globs = ()
    procedure: Globs = ()
    body_part: Globs = ()
    accession: Globs = ()
    kernel: Globs = ()
    min_thickness_mm: Millimetres | None = None
    max_thickness_mm: Millimetres | None = None
    min_age_years: Years | None = None
    max_age_years: Years | None = None
    action: Literal["analyse", "skip"] = "analyse"
    reason: Annotated[str, Field(max_length=300)] = ""
    priority: Priority = Priority.NORMAL
    destinations: tuple[str, ...] = ()
    shadow: bool = False

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Rule:
        if self.action == "skip":
            if not self.reason.strip():
                raise ValueError(
                    "reason: a skipped series needs one that a radiologist understands"
                )
            if self.shadow or self.destinations or self.priority is not Priority.NORMAL:
                raise ValueError("action: what is skipped has no priority, destinations or shadow")
        elif self.reason:
            raise ValueError('reason: is of use with action = "skip" only')
        if self.shadow and self.destinations:
            raise ValueError("destinations: nothing is delivered of a shadow reading")
        for low, high in RANGES.values():
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low}: is greater than {high}")
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions that are set, by field, in the order they are looked at."""
        names = ("source", *GLOBS, *(name for pair in RANGES.values() for name in pair))
        return {name: value for name in names if (value := getattr(self, name)) not in ((), None)}


GLOBS = (
    "calling_ae", "called_ae", "modality", "manufacturer", "model", "description", "protocol",
    "procedure", "body_part", "accession", "kernel",
)  # fmt: skip
"""Fields of a rule that hold patterns."""
RANGES = {
    "thickness_mm": ("min_thickness_mm", "max_thickness_mm"),
    "age_years": ("min_age_years", "max_age_years"),
}
"""Numbers that a rule limits, with the fields for the least and the greatest."""
DEFAULT_RULE = Rule(name="default")
"""What holds where no rule fits: analysed, in its turn, for all destinations."""
