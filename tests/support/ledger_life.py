"""Series in a ledger that come to every end, by the calls of the node's own parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dicom_node.completion import ClosingReason
from dicom_node.domain import ObjectKind, StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Ledger, NewObject
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.states import AnalysisEvent, DeliveryEvent

__all__ = ["CANARIES", "Clock", "LedgerLife"]

CANARIES = ("Canary^Patient", "CANARY-ID", "CANARY-ACC", "canary description", "2.25.777")
"""Parts of what identifies somebody: none of it may leave the node."""
_CT = "1.2.840.10008.5.1.4.1.1.2"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class LedgerLife:
    """Moves series through a ledger.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._numbers = itertools.count(1)

    def receive(self, images: int = 3, series: int = 0) -> int:
        """Receive images; return the number of their series."""
        series = series or next(self._numbers)
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        self.ledger.intake.record_instances(
            [self._arrival(association, series) for _ in range(images)]
        )
        self.ledger.intake.close_association(association, outcome="released", ignored={})
        return series

    def conflict(self, series: int) -> None:
        """Receive an image of `series` under a used UID."""
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        arrival = self._arrival(association, series)
        other = StoredInstance("f" * 64, Path("instances/ff/f.dcm"), 1000)
        self.ledger.intake.record_instances([arrival, Arrival(association, arrival.header, other)])

    def _arrival(self, association: int, series: int) -> Arrival:
        number = next(self._numbers)
        header = InstanceHeader(
            sop_instance_uid=f"2.25.777{series:06d}{number:06d}",
            sop_class_uid=_CT,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid=f"2.25.777{series:06d}",
            series_instance_uid=f"2.25.777{series:06d}1",
            accession_number="CANARY-ACC",
            patient_id="CANARY-ID",
            patient_name="Canary^Patient",
            series_description="canary description",
        )
        digest = f"{number:064x}"
        return Arrival(association, header, StoredInstance(digest, Path(f"{digest}.dcm"), 1000))

    def complete(self, reason: ClosingReason = ClosingReason.QUIET_PERIOD) -> int:
        """Close the one revision that receives; return its id."""
        [revision] = self.ledger.revisions.receiving(60)
        assert self.ledger.revisions.close(revision, reason)
        return revision.revision_id

    def selected(self) -> int:
        """Receive and select a series; return the id of its analysis."""
        self.receive()
        revision_id = self.complete()
        uids = [h.sop_instance_uid for h in self.ledger.revisions.headers(revision_id)]
        analysis = self.ledger.revisions.select(revision_id, {"sop_instance_uids": uids})
        assert analysis is not None
        return analysis

    def claimed(self) -> Any:
        """Receive, select and claim; return the claim."""
        claim = self.ledger.analyses.claim(self.selected(), this_owner(), 60)
        assert claim is not None
        return claim

    def set_aside(self, reason: str, *, skipped: bool) -> None:
        """Receive a series that selection sets aside."""
        self.receive()
        revision_id = self.complete()
        end = self.ledger.revisions.skip if skipped else self.ledger.revisions.reject
        assert end(revision_id, reason)

    def rejected_by_pixels(self, error: str = "UndecodablePixels") -> None:
        """Have an analysis reject its series."""
        claim = self.claimed()
        reason = "An image cannot be decoded."
        self.ledger.analyses.set_aside(claim, AnalysisEvent.REJECT, reason, error=error)

    def failed(self, attempts: int, *, most: int, error: str = "RuntimeError") -> None:
        """Have an analysis fail `attempts` times, of `most` that are allowed."""
        claim = self.claimed()
        for number in range(attempts):
            if number:
                claim = self.ledger.analyses.claim(claim.analysis_id, this_owner(), 60)
            self.ledger.analyses.fail(claim, "it failed", most, 0.0, error=error)

    def analysed(
        self, *destinations: str, result: dict[str, Any] | None = None, after_s: float = 0.0
    ) -> int:
        """Have a series read after `after_s` by the clock; return the id of the analysis."""
        claim = self.claimed()
        clock: Callable[[], float] = self.ledger.database.clock
        if isinstance(clock, Clock):
            clock.now += after_s
        tag = next(self._numbers)
        objects = [
            NewObject(ObjectKind.OVERLAY, f"overlay/{n}", 0, "1.7", f"2.25.7{tag}{n}", "2.25.9",
                      "p", "s", 1)
            for n in range(2)
        ]  # fmt: skip
        self.ledger.analyses.finish(
            claim,
            result=result or {},
            objects=objects,
            destinations={name: list(ObjectKind) for name in destinations},
        )
        return claim.analysis_id

    def deliver(self, *events: DeliveryEvent) -> None:
        """Have the next shipment that is due sent, its objects with these outcomes."""
        shipment = self.ledger.shipments.due(0.0)[0]
        claim = self.ledger.shipments.claim(shipment, this_owner(), 60)
        assert claim is not None
        for pending, event in zip(claim.pending, events, strict=True):
            self.ledger.shipments.record(claim, pending.delivery_id, event, lease_s=60)
        self.ledger.shipments.release(claim, retry_in_s=0.0)
