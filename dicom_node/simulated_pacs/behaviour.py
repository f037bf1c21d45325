"""How the simulated PACS behaves: well by default, and badly as ordered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["NEVER_ENDS", "Behaviour", "CommitmentBehaviour", "StoreRequest"]

NEVER_ENDS = 1 << 30
"""For counts: always."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request about to be answered.

    Attributes
    ----------
    number : int
        How many requests came before it, to this PACS.
    abort : callable
        Aborts the association in place of an answer.
    """

    number: int
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    abort: Callable[[], None]


def _stored(_request: StoreRequest) -> int:
    return 0x0000


@dataclass(frozen=True, slots=True)
class CommitmentBehaviour:
    """How storage commitment is answered. Counts are of requests since the start.

    Attributes
    ----------
    offered : bool
        Whether the presentation context is accepted.
    status : int
        Of the N-ACTION; anything but 0 and no report follows.
    refused_first : int
        So many requests get `status`, the rest 0x0000.
    via : {"same", "later", "new"}
        Where the report is sent: on the association that asked, on the next one that the asking
        AE title opens, or on a new one to its address in ``Behaviour.move_destinations``. A report
        to an association that is gone goes the other ways.
    delay_s : float
        Before the report.
    copies : int
        How often each report is sent.
    unknown : bool
        Report on a transaction that nobody asked for, before the true one.
    silent_first, fail_first, half_first, partial_first : int
        So many requests get no report; one that fails every object (0x0110); every second object;
        one that names only the first half.
    """

    offered: bool = True
    status: int = 0x0000
    refused_first: int = NEVER_ENDS
    via: Literal["same", "later", "new"] = "same"
    delay_s: float = 0.0
    copies: int = 1
    unknown: bool = False
    silent_first: int = 0
    fail_first: int = 0
    half_first: int = 0
    partial_first: int = 0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the PACS behaves; by default, well.

    Attributes
    ----------
    answers : callable
        Status for each C-STORE. An instance is kept when the status is a success or a warning.
        It may sleep first, or call ``request.abort()``.
    loses : callable
        Whether an instance that was answered with success is thrown away.
    abort_in_object : int
        Hang up in the middle of the data set with this number, once; negative: never.
    rejection : (int, int, int) or None
        Result, source and reason of the A-ASSOCIATE-RJ that associations get (PS3.8 Table 9-21).
    reject_first : int
        So many associations get it, the rest are accepted.
    known_ae_titles : tuple of str
        Calling AE titles that are let in, empty: all.
    check_called_ae_title : bool
    sop_classes, transfer_syntaxes : tuple of str
        Storage SOP classes and transfer syntaxes that are accepted, empty: all.
    queries : bool
        Whether C-FIND, C-GET and C-MOVE are offered.
    image_level : bool
        Whether C-FIND is answered at image level.
    move_destinations : dict of str to (str, int)
        AE title -> host and port, for C-MOVE and for commitment reports.
    commitment : CommitmentBehaviour
    """

    answers: Callable[[StoreRequest], int] = _stored
    loses: Callable[[StoreRequest], bool] = lambda _request: False
    abort_in_object: int = -1
    rejection: tuple[int, int, int] | None = None
    reject_first: int = NEVER_ENDS
    known_ae_titles: tuple[str, ...] = ()
    check_called_ae_title: bool = False
    sop_classes: tuple[str, ...] = ()
    transfer_syntaxes: tuple[str, ...] = ()
    queries: bool = True
    image_level: bool = True
    move_destinations: dict[str, tuple[str, int]] = field(default_factory=dict)
    commitment: CommitmentBehaviour = CommitmentBehaviour()
