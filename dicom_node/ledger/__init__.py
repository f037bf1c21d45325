"""The ledger: the one truth about every series, analysis and delivery.

Rows change state by the tables in :mod:`~dicom_node.ledger.states` only. The broker carries ids
of these rows and may be lost at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from dicom_node.errors import LedgerError
from dicom_node.ledger.analyses import Analyses
from dicom_node.ledger.analysis_claim import AnalysisClaim, NewObject
from dicom_node.ledger.commitment_reports import CommitmentReports, TakenReport
from dicom_node.ledger.commitments import Commitments, Transaction, Unproven
from dicom_node.ledger.database import Database
from dicom_node.ledger.earlier import Earlier
from dicom_node.ledger.intake import Arrival, Intake
from dicom_node.ledger.outbox import Outbox
from dicom_node.ledger.plan import Plan
from dicom_node.ledger.presence import Presence, RunningProcess
from dicom_node.ledger.prospects import Prospect, Prospects, Standing
from dicom_node.ledger.retention import PurgeableInstance, Retention
from dicom_node.ledger.revisions import (
    CompletedRevision,
    OpenRevision,
    Revisions,
    instance_set_digest,
)
from dicom_node.ledger.shipments import Candidate, PendingDelivery, ShipmentClaim, Shipments
from dicom_node.ledger.tallies import Tallies, Tally
from dicom_node.ledger.traits import RecentSeries, Traits
from dicom_node.ledger.worklist import Worklist
from dicom_node.settings import SupersedePolicy

__all__ = [
    "Analyses",
    "AnalysisClaim",
    "Arrival",
    "Candidate",
    "CommitmentReports",
    "Commitments",
    "CompletedRevision",
    "Database",
    "Earlier",
    "Intake",
    "Ledger",
    "NewObject",
    "OpenRevision",
    "Outbox",
    "PendingDelivery",
    "Plan",
    "Presence",
    "Prospect",
    "Prospects",
    "PurgeableInstance",
    "RecentSeries",
    "Retention",
    "Revisions",
    "RunningProcess",
    "ShipmentClaim",
    "Shipments",
    "Standing",
    "TakenReport",
    "Tallies",
    "Tally",
    "Traits",
    "Transaction",
    "Unproven",
    "Worklist",
    "instance_set_digest",
    "open_ledger",
]


class Ledger:
    """The ledger's rooms, one per actor.

    Attributes
    ----------
    intake : Intake
        For the listener.
    revisions : Revisions
        For the reconciler: completion and selection.
    analyses : Analyses
        For the analysis workers.
    earlier : Earlier
        For the analysis workers: what was read of the patient before.
    shipments : Shipments
        For the delivery workers.
    commitments : Commitments
        For the delivery workers: proof that a destination holds what it accepted.
    commitment_reports : CommitmentReports
        For whoever gets a report: listener and delivery workers.
    worklist : Worklist
        For people: status, retry.
    retention : Retention
        For who tidies up: what may go, what nobody knows.
    tallies : Tallies
        For who counts, and for who reads the sums.
    presence : Presence
        Which processes run.
    outbox : Outbox
        Messages to people.
    traits : Traits
        What rules ask for.
    prospects : Prospects
        For analysis workers with nothing to do: series that nobody has selected yet.
    """

    def __init__(self, database: Database, supersede: SupersedePolicy) -> None:
        self.database = database
        self.intake = Intake(database, supersede)
        self.revisions = Revisions(database)
        self.analyses = Analyses(database)
        self.earlier = Earlier(database)
        self.shipments = Shipments(database)
        self.commitments = Commitments(database)
        self.commitment_reports = CommitmentReports(database)
        self.worklist = Worklist(database)
        self.retention = Retention(database)
        self.tallies = Tallies(database)
        self.presence = Presence(database)
        self.outbox = Outbox(database)
        self.traits = Traits(database)
        self.prospects = Prospects(database)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_ledger(
    url: str,
    *,
    supersede: SupersedePolicy = SupersedePolicy.ALWAYS,
    clock: Callable[[], float] = time.time,
    before_making: Callable[[], None] = lambda: None,
) -> Ledger:
    """Open the ledger at `url` and bring its schema up to date.

    Parameters
    ----------
    before_making : callable
        Called where there is no ledger yet; what it raises comes out, and none is made.

    Raises
    ------
    LedgerError
        The database cannot be reached, or was written by a newer version.
    """
    database = Database(url, clock)
    try:
        database.migrate(before_making)
    except LedgerError:
        database.close()
        raise
    return Ledger(database, supersede)
