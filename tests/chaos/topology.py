"""What runs: one of each part on embedded defaults, or two of everything on shared servers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLUSTER", "SINGLE", "TOPOLOGIES", "Topology", "role_of"]


@dataclass(frozen=True, slots=True)
class Topology:
    """The parts of a node.

    Attributes
    ----------
    parts : tuple of str
        ``listen``, ``listen-2``, …: the verb, and a number where there are several.
    has_servers : bool
        PostgreSQL and Redis, in place of SQLite and the embedded broker.
    """

    name: str
    parts: tuple[str, ...]
    has_servers: bool
    words: str

    def parts_of(self, verb: str) -> tuple[str, ...]:
        """Return the parts that run `verb`."""
        return tuple(name for name in self.parts if name.partition("-")[0] == verb)


SINGLE = Topology(
    "single",
    ("listen", "reconcile", "work", "deliver"),
    has_servers=False,
    words="one of each part on SQLite and the embedded broker",
)
CLUSTER = Topology(
    "cluster",
    (
        "listen", "listen-2", "reconcile", "reconcile-2", "work", "work-2", "work-3", "deliver",
        "deliver-2",
    ),
    has_servers=True,
    words="two listeners, two reconcilers, three workers and two deliveries on PostgreSQL, Redis "
    "and one spool",
)  # fmt: skip
TOPOLOGIES = {topology.name: topology for topology in (SINGLE, CLUSTER)}

_VERBS = {
    "listener": "listen", "reconciler": "reconcile", "worker": "work", "delivery": "deliver"
}  # fmt: skip


def role_of(crash_point: str) -> str:
    """Return the verb in whose process a crash point lies."""
    return _VERBS[crash_point.partition(".")[0]]
