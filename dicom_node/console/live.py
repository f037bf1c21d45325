"""Live updates: the ledger is looked at once a second for all browsers together, if any looks.

What changed is rendered once for each role and goes to everybody as server-sent events:
``series-<id>`` with the new row of the worklist, ``counts`` with the line above it, ``arrived``
when the list has new series. Nobody asks again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import LedgerError
from dicom_node.ledger.changes import Changes
from dicom_node.ledger.listing import Listing
from dicom_node.logs import get_logger

__all__ = ["Live", "Renderer"]

_log = get_logger(__name__)

Renderer = Callable[[str, dict[str, object]], str]
"""Renders the template of this name with these values."""

_INTERVAL_S = 1.0
_STILL_HERE_S = 20.0  # proxies close silent connections
_LASTS_S = 900.0  # then the browser connects again, and who is logged in is looked at again
_MOST_FRAMES = 50  # that a slow browser is behind; then it has to connect again
_MOST_ROWS = 200  # of one look; more, and browsers load the list again


class Live:
    """The stream of changes.

    Parameters
    ----------
    changes, listing
        The ledger's.
    render : Renderer
    ahead : callable
        Returns how far the readings ahead of the evidence are, by series id: no row of the ledger
        tells of them.
    """

    def __init__(
        self,
        changes: Changes,
        listing: Listing,
        render: Renderer,
        ahead: Callable[[], Mapping[int, str]] = dict,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self._changes = changes
        self._listing = listing
        self._render = render
        self._interval_s = interval_s
        self._ahead = ahead
        self._were_ahead: Mapping[int, str] = {}
        self._listeners: dict[asyncio.Queue[str | None], bool] = {}  # queue → is it an admin's
        self._task: asyncio.Task[None] | None = None
        self.looks = 0

    async def listen(self, *, is_admin: bool, again: bool) -> AsyncIterator[str]:
        """Yield events as text until the browser goes away or has been here for long.

        Parameters
        ----------
        again : bool
            The browser was connected before: what it missed is in a fresh list.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(_MOST_FRAMES)
        self._listeners[queue] = is_admin
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        until = time.monotonic() + _LASTS_S
        try:
            # The id makes a browser that connects again say so.
            yield "id: 1\nretry: 2000\n\n" + (_event("arrived", "") if again else "")
            while time.monotonic() < until:
                try:
                    text = await asyncio.wait_for(queue.get(), _STILL_HERE_S)
                except TimeoutError:
                    text = ": still here\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._listeners.pop(queue, None)

    def close(self) -> None:
        """End all streams."""
        for queue in list(self._listeners):
            self._drop(queue)

    def _drop(self, queue: asyncio.Queue[str | None]) -> None:
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
        self._listeners.pop(queue, None)

    async def _run(self) -> None:
        while self._listeners:
            roles = set(self._listeners.values())
            try:
                texts = await asyncio.to_thread(self._look, roles)
            except (LedgerError, SQLAlchemyError) as error:
                _log.warning("no live updates", error=type(error).__name__)
                texts = {}
            for queue, is_admin in list(self._listeners.items()):
                if not texts.get(is_admin):
                    continue
                try:
                    queue.put_nowait(texts[is_admin])
                except asyncio.QueueFull:
                    self._drop(queue)
            await asyncio.sleep(self._interval_s)

    def _look(self, roles: set[bool]) -> dict[bool, str]:
        self.looks += 1
        found = self._changes.look()
        ahead = self._ahead()
        changed = found.changed | {number for number, _ in ahead.items() ^ self._were_ahead.items()}
        self._were_ahead = ahead
        if not changed and not found.arrived:
            return {}
        rows = self._listing.rows(sorted(changed)[:_MOST_ROWS])
        counts = _event("counts", self._render("_counts.html", {"counts": self._listing.counts()}))
        arrived = found.arrived or len(changed) > _MOST_ROWS
        tail = counts + (_event("arrived", "") if arrived else "")
        return {
            is_admin: "".join(
                _event(
                    f"series-{row.status.series_id}",
                    self._render("_row.html", {"row": row, "is_admin": is_admin}),
                )
                for row in rows
            )
            + tail
            for is_admin in roles
        }


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
