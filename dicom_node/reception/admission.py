"""Who may connect: caps on connections in all, per address, and on established associations.

A TCP connection without association costs a thread and nothing else; it takes no association's
place. Where there are too many, the oldest that has not associated makes room: somebody who
opens connections and says nothing shuts nobody out. A request by HTTP counts as an association.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Admission", "Visitor"]


@dataclass(slots=True, eq=False)
class Visitor:
    """One connection."""

    connection: socket.socket
    address: str
    associated: bool = False

    def interrupt(self, how: int) -> None:
        """Wake the thread that reads from the connection."""
        with contextlib.suppress(OSError):
            # Below TLS: SSLSocket's own method would drop the TLS state that its thread uses.
            socket.socket.shutdown(self.connection, how)


class Admission:
    """The register of open connections of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visitors: dict[int, Visitor] = {}  # in order of arrival

    def admit(
        self, connection: socket.socket, address: str, *, total: int, per_address: int
    ) -> Visitor | None:
        """Register a connection; None where every place is taken by an association."""
        visitor = Visitor(connection, address)
        with self._lock:
            same = [one for one in self._visitors.values() if one.address == address]
            if len(same) >= per_address and not self._evict(same):
                return None
            if len(self._visitors) >= total and not self._evict(list(self._visitors.values())):
                return None
            self._visitors[id(visitor)] = visitor
        return visitor

    def _evict(self, candidates: list[Visitor]) -> bool:
        for visitor in candidates:
            if not visitor.associated:
                del self._visitors[id(visitor)]
                visitor.interrupt(socket.SHUT_RDWR)
                return True
        return False

    def associate(self, visitor: Visitor, limit: int) -> bool:
        """Take a place among the established associations; False where there is none."""
        with self._lock:
            taken = sum(one.associated for one in self._visitors.values())
            # An evicted visitor has lost its connection: it cannot associate any more.
            if taken >= limit or id(visitor) not in self._visitors:
                return False
            visitor.associated = True
            return True

    def dissociate(self, visitor: Visitor) -> None:
        """Give the place among them back; the connection stays."""
        with self._lock:
            visitor.associated = False

    def leave(self, visitor: Visitor) -> None:
        """Give the place back."""
        with self._lock:
            self._visitors.pop(id(visitor), None)

    def visitors(self) -> Iterator[Visitor]:
        """Return those who are here now."""
        with self._lock:
            return iter(list(self._visitors.values()))
