"""The names by which misbehaviour is ordered: ``slow:2,half-a700,commit-late:30``.

One table, which the command line prints and the tests walk through.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dicom_node.errors import ConfigurationError
from dicom_node.simulated_pacs.behaviour import (
    NEVER_ENDS,
    Behaviour,
    CommitmentBehaviour,
    StoreRequest,
)

__all__ = ["MISBEHAVIOURS", "Misbehaviour", "behaviour_from"]


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """One row of the table.

    Attributes
    ----------
    name : str
    argument : str
        What may follow the colon, empty: nothing.
    default : float or None
        Without argument; None: it has to be given.
    words : str
        What the PACS does.
    """

    name: str
    argument: str
    default: float | None
    words: str


_REJECTIONS = {
    "reject-no-reason": ((1, 1, 1), "rejects associations, no reason given (1,1,1)"),
    "reject-context": ((1, 1, 2), "rejects: application context not supported (1,1,2)"),
    "reject-calling": ((1, 1, 3), "rejects: calling AE title not recognised (1,1,3)"),
    "reject-called": ((1, 1, 7), "rejects: called AE title not recognised (1,1,7)"),
    "reject-acse": ((1, 2, 1), "rejects: ACSE, no reason given (1,2,1)"),
    "reject-protocol": ((1, 2, 2), "rejects: protocol version not supported (1,2,2)"),
    "reject-congestion": ((2, 3, 1), "rejects for now: temporary congestion (2,3,1)"),
    "reject-limit": ((2, 3, 2), "rejects for now: local limit exceeded (2,3,2)"),
}
_STATUSES = {
    "a700": "out of resources",
    "a900": "data set does not match SOP class",
    "b000": "stored, with a warning: data elements coerced",
    "b006": "stored, with a warning: elements discarded",
    "b007": "stored, with a warning: data set does not match SOP class",
    "c000": "cannot understand",
    "0110": "processing failure",
    "0122": "SOP class not supported",
    "0124": "not authorised",
}
_FIRST = "first N, default all"

MISBEHAVIOURS: tuple[Misbehaviour, ...] = (
    *(Misbehaviour(name, _FIRST, NEVER_ENDS, words) for name, (_, words) in _REJECTIONS.items()),
    Misbehaviour("slow", "SECONDS", None, "waits before each C-STORE answer"),
    *(
        Misbehaviour(name, _FIRST, NEVER_ENDS, f"answers C-STORE by 0x{name.upper()}: {words}")
        for name, words in _STATUSES.items()
    ),
    *(
        Misbehaviour(f"half-{name}", "", 0, f"… every second C-STORE by 0x{name.upper()}")
        for name in _STATUSES
    ),
    Misbehaviour(
        "abort", "N, default 1", 1, "keeps object number N and aborts in place of the answer"
    ),
    Misbehaviour("abort-always", "", 0, "aborts in place of every C-STORE answer"),
    Misbehaviour("abort-in-object", "N, default 1", 1, "hangs up inside the data set number N"),
    Misbehaviour("lose", "N, default 1", 1, "says 0x0000 to the first N objects and forgets them"),
    Misbehaviour("lose-all", "", 0, "… to all"),
    Misbehaviour("no-queries", "", 0, "offers no C-FIND, C-GET, C-MOVE"),
    Misbehaviour("no-image-level", "", 0, "answers no C-FIND at image level"),
    Misbehaviour("commit-none", "", 0, "does not offer storage commitment"),
    Misbehaviour("commit-refuse", _FIRST, NEVER_ENDS, "refuses commitment requests, 0x0110"),
    Misbehaviour("commit-forbid", "", 0, "refuses commitment requests for good, 0x0124"),
    Misbehaviour("commit-fail", _FIRST, NEVER_ENDS, "reports that it holds nothing, 0x0110"),
    Misbehaviour("commit-half", _FIRST, NEVER_ENDS, "reports every second object as failed"),
    Misbehaviour("commit-partial", _FIRST, NEVER_ENDS, "reports on the first half of the objects"),
    Misbehaviour("commit-silent", _FIRST, NEVER_ENDS, "accepts requests and never reports"),
    Misbehaviour("commit-late", "SECONDS", None, "reports so much later"),
    Misbehaviour("commit-double", "", 0, "sends each report twice"),
    Misbehaviour("commit-unknown", "", 0, "reports on a transaction nobody asked for, too"),
    Misbehaviour("commit-later", "", 0, "reports on the next association that it is offered"),
    Misbehaviour("commit-new", "", 0, "reports on an association of its own (needs --peer)"),
)
_BY_NAME = {row.name: row for row in MISBEHAVIOURS}
_ORDER = re.compile(r"(?P<name>[a-z0-9-]+)(:(?P<value>\d+(\.\d+)?))?")


def behaviour_from(
    orders: str | Iterable[str], *, peers: dict[str, tuple[str, int]] | None = None
) -> Behaviour:
    """Return the behaviour that `orders` name.

    Parameters
    ----------
    orders : str or iterable of str
        Comma-separated names of :data:`MISBEHAVIOURS`, each with ``:ARGUMENT`` where it takes one.
    peers : dict of str to (str, int), optional
        AE title -> host and port, for C-MOVE and for reports on an association of its own.

    Raises
    ------
    ConfigurationError
        The text names the order that is wrong.
    """
    listed = orders.split(",") if isinstance(orders, str) else list(orders)
    given = dict(_parsed(order.strip()) for order in listed if order.strip())
    if "commit-new" in given and not peers:
        raise ConfigurationError("commit-new: say where the peer listens: --peer AE=HOST:PORT")
    behaviour = Behaviour(
        answers=_answers(given),
        loses=_loses(given),
        abort_in_object=int(given.get("abort-in-object", 0)) - 1,
        queries="no-queries" not in given,
        image_level="no-image-level" not in given,
        move_destinations=dict(peers or {}),
        commitment=_commitment(given),
    )
    for name, (rejection, _) in _REJECTIONS.items():
        if name in given:
            behaviour = replace(behaviour, rejection=rejection, reject_first=int(given[name]))
    return behaviour


def _parsed(order: str) -> tuple[str, float]:
    found = _ORDER.fullmatch(order)
    row = _BY_NAME.get(found["name"]) if found else None
    if found is None or row is None:
        raise ConfigurationError(f"{order}: no such misbehaviour; see m3lung simulate-pacs --list")
    if found["value"] is not None:
        if not row.argument:
            raise ConfigurationError(f"{order}: {row.name} takes no argument")
        return row.name, float(found["value"])
    if row.default is None:
        raise ConfigurationError(f"{order}: say {row.name}:{row.argument}")
    return row.name, row.default


def _answers(given: dict[str, float]) -> Callable[[StoreRequest], int]:
    slow_s = given.get("slow", 0.0)
    always = "abort-always" in given
    abort_at = int(given.get("abort", 0)) - 1
    whole = [(int(name, 16), int(given[name])) for name in _STATUSES if name in given]
    half = [int(name, 16) for name in _STATUSES if f"half-{name}" in given]

    def answer(request: StoreRequest) -> int:
        if slow_s:
            time.sleep(slow_s)
        if always or request.number == abort_at:
            request.abort()
        for status, first in whole:
            if request.number < first:
                return status
        return half[request.number // 2 % len(half)] if half and request.number % 2 else 0x0000

    return answer


def _loses(given: dict[str, float]) -> Callable[[StoreRequest], bool]:
    first = NEVER_ENDS if "lose-all" in given else int(given.get("lose", 0))
    return lambda request: request.number < first


def _commitment(given: dict[str, float]) -> CommitmentBehaviour:
    values: dict[str, Any] = {"offered": "commit-none" not in given}
    if "commit-refuse" in given:
        values |= {"status": 0x0110, "refused_first": int(given["commit-refuse"])}
    if "commit-forbid" in given:
        values |= {"status": 0x0124}
    for name in ("fail", "half", "partial", "silent"):
        values[f"{name}_first"] = int(given.get(f"commit-{name}", 0))
    for via in ("later", "new"):
        if f"commit-{via}" in given:
            values["via"] = via
    return CommitmentBehaviour(
        delay_s=given.get("commit-late", 0.0),
        copies=2 if "commit-double" in given else 1,
        unknown="commit-unknown" in given,
        **values,
    )
