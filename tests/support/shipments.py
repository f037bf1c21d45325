"""The delivering half of a node: ledger, results on disk, delivery worker, listener for reports."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import dcmread

from dicom_node.delivery.worker import DeliveryWorker
from dicom_node.domain import ObjectKind, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Ledger, NewObject, open_ledger, tables
from dicom_node.ledger.leases import this_owner
from dicom_node.settings import SettingsSource
from support.delivery_objects import overlay
from support.listening import ListeningNode
from support.ports import free_port

__all__ = ["DeliveringNode", "killed"]

ROOT = Path(__file__).resolve().parents[2]
_DELIVER_ONCE = """
import sys
from pathlib import Path
from dicom_node.delivery.worker import DeliveryWorker
from dicom_node.ledger import open_ledger
from dicom_node.settings import SettingsSource
source = SettingsSource(Path(sys.argv[1]))
with open_ledger(source().ledger_url) as ledger:
    for shipment_id in ledger.shipments.due(0.0):
        DeliveryWorker(source, ledger).run(shipment_id)
"""


class _Reporting(ListeningNode):
    """A listener over the configuration of a delivering node."""

    def __init__(self, node: DeliveringNode) -> None:
        self._node = node
        super().__init__(node.directory)

    def write_config(self, callers: object, **listener: Any) -> None:
        """The configuration is there already."""


class DeliveringNode:
    """Everything behind an analysis: results that wait in a ledger for one destination.

    Parameters
    ----------
    directory : Path
    peer : dict
        Fields of the destination, called ``pacs``.
    """

    def __init__(self, directory: Path, ledger_url: str = "", **sections: dict[str, Any]) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._sections: dict[str, dict[str, Any]] = {
            "listener": {"port": self.port, "min_free_bytes": 0},
            "ledger": {"url": ledger_url},
            "delivery": {"retry_first_s": 0.2, "retry_cap_s": 0.5, "response_timeout_s": 5.0},
            "commitment": {"report_within_s": 60.0, "linger_s": 0.0, "verify_after_s": 0.0},
        }
        self._peers: list[dict[str, Any]] = []
        self.configure(**sections)
        self.source = SettingsSource(self.config)
        self.listener = _Reporting(self)
        self.ledger: Ledger = open_ledger(self.source().ledger_url)
        self._series = 0

    @property
    def config(self) -> Path:
        return self.directory / "node.toml"

    def configure(self, *peers: dict[str, Any], **sections: dict[str, Any]) -> None:
        """Change settings; peers are added."""
        for name, fields in sections.items():
            self._sections.setdefault(name, {}).update(fields)
        self._peers += peers
        lines = [f'state_dir = "{self.directory / "state"}"', 'log_level = "debug"']
        for name, fields in self._sections.items():
            lines += [f"[{name}]", *_fields(fields)]
        for fields in self._peers:
            lines += ["[[peers]]", *_fields(fields)]
        fresh = self.config.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self.config)  # a running process reads it at any moment

    def change_peer(self, name: str, **fields: Any) -> None:
        """Change fields of a peer."""
        next(peer for peer in self._peers if peer["name"] == name).update(fields)
        self.configure()

    def close(self) -> None:
        self.listener.stop()
        self.ledger.close()

    # -- results --------------------------------------------------------------------------------

    def analysed(self, count: int = 4, destination: str = "pacs") -> list[str]:
        """Put `count` overlays of a new analysis into the ledger; return their UIDs."""
        self._series += 1
        claim = self.ledger.analyses.claim(self._selected(), this_owner(), 60)
        assert claim is not None
        folder = self.source().results_dir / str(claim.analysis_id)
        folder.mkdir(parents=True)
        made = []
        for number in range(1, count + 1):
            path = overlay(folder, number)
            header = dcmread(path, stop_before_pixels=True)
            made.append(
                NewObject(
                    ObjectKind.OVERLAY,
                    f"overlay/{number:03d}",
                    0,
                    str(header.SOPClassUID),
                    str(header.SOPInstanceUID),
                    str(header.SeriesInstanceUID),
                    str(path.relative_to(self.source().results_dir)),
                    hashlib.sha256(path.read_bytes()).hexdigest(),
                    path.stat().st_size,
                )
            )
        self.ledger.analyses.finish(
            claim,
            result={"ok": True},
            objects=made,
            destinations={destination: list(ObjectKind)},
        )
        return [item.sop_instance_uid for item in made]

    def _selected(self) -> int:
        """Return the analysis of a new series of one instance, whose study the overlays name."""
        from support.delivery_objects import ct_slice

        ledger, ct = self.ledger, ct_slice()
        series = f"2.25.{900 + self._series}"
        association = ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        header = InstanceHeader(
            sop_instance_uid=f"{series}.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid=str(ct.StudyInstanceUID),
            series_instance_uid=series,
        )
        stored = StoredInstance(f"{self._series:064x}", Path("instances/00/none.dcm"), 10)
        ledger.intake.record_instances([Arrival(association, header, stored)])
        ledger.intake.close_association(association, outcome="released", ignored={})
        [revision] = ledger.revisions.receiving(60)
        assert ledger.revisions.close(revision, "quiet_period")
        [completed] = ledger.revisions.completed()
        analysis_id = ledger.revisions.select(
            completed.revision_id, {"sop_instance_uids": [f"{series}.1"], "statements": []}
        )
        assert analysis_id is not None
        return analysis_id

    # -- delivering -----------------------------------------------------------------------------

    def deliver(self) -> None:
        """Work once on every shipment that is due, in this process."""
        self.ledger.shipments.return_expired()
        for shipment_id in self.ledger.shipments.due(0.0):
            DeliveryWorker(self.source, self.ledger).run(shipment_id)

    def deliver_in_child(self, crash_at: str = "") -> int:
        """Do the same in a process of its own, with a crash point armed; return its exit code."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if crash_at:
            environment["M3LUNG_CRASH_AT"] = crash_at
        command = [sys.executable, "-c", _DELIVER_ONCE, str(self.config)]
        return subprocess.run(command, env=environment, check=False, timeout=60).returncode

    def deliver_until(
        self, wanted: Callable[[Counter[str]], bool], timeout_s: float = 40.0
    ) -> Counter[str]:
        """Work until the states of all deliveries are as `wanted`; return them."""
        deadline = time.monotonic() + timeout_s
        while not wanted(self.states()):
            assert time.monotonic() < deadline, (self.states(), self.errors())
            self.deliver()
            time.sleep(0.05)
        return self.states()

    def ended(self, **states: int) -> Counter[str]:
        """Work until the deliveries are in just these `states` and no shipment is open."""
        expected = Counter(states)
        self.deliver_until(lambda found: found == expected and not self.open_shipments())
        return expected

    # -- looking --------------------------------------------------------------------------------

    def rows(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        with self.ledger.database.read() as connection:
            return list(connection.execute(query).all())

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.rows(sa.select(tables.deliveries.c.state)))

    def errors(self) -> set[str]:
        return {row.error for row in self.rows(sa.select(tables.deliveries.c.error))} - {""}

    def open_shipments(self) -> int:
        return len(
            self.rows(sa.select(tables.shipments.c.id).where(tables.shipments.c.open.is_(True)))
        )

    def transactions(self) -> list[str]:
        """States of the commitment transactions, oldest first."""
        c = tables.commitments.c
        return [row.state for row in self.rows(sa.select(c.state).order_by(c.id))]


def killed(code: int) -> bool:
    """Whether an exit code is that of a crash point."""
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL)


def _fields(fields: dict[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in fields.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
