"""The place where faults are made: a node, its servers, a PACS, and what senders were told."""

from __future__ import annotations

import collections
import random
import time
from pathlib import Path

from chaos.oracle import Verdict, judge, unfinished
from chaos.senders import SENDERS
from chaos.sending import Sending
from chaos.topology import SINGLE, Topology
from support.node import Node
from support.orthanc import Orthanc
from support.ports import free_port
from support.postgresql_cluster import PostgresqlCluster
from support.redis_server import RedisServer
from support.synthetic_ct import synthetic_series

__all__ = ["Hospital"]

SLICES = 22
SETTLE_S = 240.0
_PEER = 'compress = "none"\ncommitment = "request"\nverify = "c-find"\nassociations = 3'
# Reports get lost together with those who wait for them: asked again soon, and often.
_SECTIONS = """
[commitment]
report_within_s = 5.0
linger_s = 0.5
max_requests = 30
max_resends = 10
verify_after_s = 1.0
"""
# One thread each: several workers share the machine. One series may be hit by several faults, which
# is no reason to take it for poison.
_ENVIRONMENT = {
    "M3LUNG_ANALYSIS__MAX_ATTEMPTS": "8",
    "M3LUNG_ANALYSIS__THREADS": "1",
    "M3LUNG_ANALYSIS__DECODERS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Hospital:
    """A node, its servers, a PACS, and what the senders were told.

    Attributes
    ----------
    acknowledged : dict of SOP Instance UID to Path
    made, missed : Counter of str
        Faults by name: those that happened, and those whose moment did not come.
    sendings : list of Sending
        Every series that was sent.
    fallen : Counter of str
        Parts that ended though nobody ended them, by name and exit status.
    """

    lease_s = 10.0

    def __init__(
        self, directory: Path, bundle: Path, seed: int, topology: Topology = SINGLE
    ) -> None:
        self.directory, self.topology = directory, topology
        self.redis: RedisServer | None = None
        self.database: PostgresqlCluster | None = None
        if topology.has_servers:
            self.redis = RedisServer(directory / "redis")
            self.database = PostgresqlCluster()
        port = free_port()
        self.pacs = Orthanc(
            directory / "orthanc", modalities={"m3lung": (Node.ae_title, "127.0.0.1", port)}
        )
        self._node: Node | None = None
        self._options = {
            "bundle": bundle, "port": port, "lease_s": self.lease_s, "peer_options": _PEER,
            "sections": _SECTIONS, "parts": topology.parts, "environment": _ENVIRONMENT,
        }  # fmt: skip
        self.acknowledged: dict[str, Path] = {}
        self.made: collections.Counter[str] = collections.Counter()
        self.missed: collections.Counter[str] = collections.Counter()
        self.fallen: collections.Counter[str] = collections.Counter()
        self.sendings: list[Sending] = []
        self._seed, self._series = seed, 0

    @property
    def node(self) -> Node:
        """The node, once it runs."""
        assert self._node is not None
        return self._node

    def __enter__(self) -> Hospital:
        try:
            self.pacs.start()
            ledger_url = broker_url = ""
            if self.redis is not None and self.database is not None:
                self.redis.start()
                self.database.start()
                ledger_url, broker_url = self.database.create(), self.redis.url
            self._node = Node(
                self.directory / "node", pacs=[self.pacs], ledger_url=ledger_url,
                broker_url=broker_url, **self._options,
            )  # fmt: skip
            self._node.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._node is not None:
            self._node.stop()
        self.pacs.stop()
        if self.redis is not None:
            self.redis.stop()
        if self.database is not None:
            self.database.remove()

    @property
    def ports(self) -> list[int]:
        """Of the listeners."""
        return [self.node.port, *self.node.ports.values()]

    def port_of(self, part: str) -> int:
        """Return the port of a listener."""
        return self.node.ports.get(part, self.node.port)

    def next_sending(self, dice: random.Random) -> Sending:
        """The next series, of a patient of its own."""
        self._series += 1
        name = f"CHAOS-{self._seed}-{self._series}"
        series = synthetic_series(
            self.directory / "series" / name, SLICES, matrix=128, seed=self._series,
            patient_id=name, study=name, lesion=dice.random() < 0.7,
        )  # fmt: skip
        ports = self.ports
        dice.shuffle(ports)
        self.sendings.append(Sending(series.paths, dice.choice(SENDERS), ports, self.acknowledged))
        return self.sendings[-1]

    def start_the_fallen(self) -> None:
        """Start parts that ended by themselves, as systemd and ``serve`` do, and count them."""
        for name in self.topology.parts:
            process = self.node.processes.get(name)
            if process is not None and process.poll() is not None:
                self.fallen[f"{name} ({process.returncode})"] += 1
                self.node.processes.pop(name)
            if name not in self.node.processes:
                self.node.start(name)

    def settle(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until every series has ended, or the time is up: the oracle names the others."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.start_the_fallen()
            if not unfinished(self.node):
                return
            time.sleep(0.5)

    def judge(self) -> Verdict:
        """Compare senders, spool, ledger and PACS."""
        verdict = judge(self.node, self.pacs, self.acknowledged)
        verdict.stuck += [
            f"{sending.series_instance_uid}: not acknowledged to its sender"
            for sending in self.sendings
            if not sending.is_acknowledged
        ]
        return verdict
