"""One analysis: claimed in the ledger, read, recorded with its deliveries in one transaction."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicom_node.crashpoints import crash_point
from dicom_node.domain import ObjectKind
from dicom_node.errors import LeaseLost, SeriesRejected
from dicom_node.ledger import AnalysisClaim, Ledger, NewObject, Plan
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.states import AnalysisEvent
from dicom_node.ledger.tallies import Tally
from dicom_node.logs import get_logger, pseudonym
from dicom_node.memos import Memos
from dicom_node.results.dicom_file import WrittenObject
from dicom_node.results.result_json import ResultDocument, write_document
from dicom_node.results.system_objects import system_of_slot
from dicom_node.settings import NodeSettings
from dicom_node.worker.assignment import Assignment
from dicom_node.worker.pipeline import Progress
from dicom_node.worker.reader import SeriesReader
from inference.errors import NotAChestCt, SeriesError

__all__ = ["AnalysisWorker"]

_log = get_logger(__name__)

RETRY_AFTER_S = 30.0


class AnalysisWorker:
    """Does analyses, one at a time.

    Parameters
    ----------
    settings : callable
        The settings in force.
    ledger : Ledger
    reader : SeriesReader
        The loaded model.
    tally : Tally, optional
        Counts readings made ahead that were of use, or of none.
    """

    def __init__(
        self,
        settings: Callable[[], NodeSettings],
        ledger: Ledger,
        reader: SeriesReader,
        tally: Tally | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._reader = reader
        self._tally = tally or Tally()
        self._owner = this_owner()

    def run(self) -> bool:
        """Do the analysis that stands first in the queue; return whether any waited.

        A nudge says that there is work. It need not be the one that was nudged: something urgent
        may have come since, and takes its turn with the nudge of the other.
        """
        settings = self._settings()
        claim = self._ledger.analyses.claim_next(
            self._owner,
            settings.analysis.lease_s,
            off_peak=settings.priorities.is_off_peak(self._ledger.database.now()),
        )
        if claim is None:
            return False
        analysis_id = claim.analysis_id
        crash_point("worker.after_claim")
        log = _log.bind(
            analysis_id=analysis_id,
            series=pseudonym(claim.series_instance_uid),
            attempt=claim.attempt,
        )
        try:
            self._read_and_record(claim, settings)
            log.info("analysis done")
        except LeaseLost as error:
            log.warning("analysis abandoned", reason=str(error))
        except NotAChestCt as error:
            self._ledger.analyses.set_aside(
                claim, AnalysisEvent.SKIP, error.reason, error=type(error).__name__
            )
            log.info("analysis skipped", reason=error.reason)
        except (SeriesError, SeriesRejected) as error:
            self._ledger.analyses.set_aside(
                claim, AnalysisEvent.REJECT, error.reason, error=type(error).__name__
            )
            log.warning("analysis rejected", reason=error.reason)
        except Exception as error:
            # The text of an unforeseen error may hold anything: only its class is kept.
            reason = f"the analysis failed unexpectedly ({type(error).__name__})"
            self._ledger.analyses.fail(
                claim,
                reason,
                settings.analysis.max_attempts,
                RETRY_AFTER_S,
                error=type(error).__name__,
            )
            log.exception("analysis failed")
        return True

    def _read_and_record(self, claim: AnalysisClaim, settings: NodeSettings) -> None:
        out_dir = _fresh_folder(settings.results_dir, claim)
        earlier = self._ledger.earlier.than(claim.analysis_id)
        assignment = Assignment.of_claim(claim, earlier, settings)
        progress = self._renewing(claim, settings.analysis.lease_s)
        document, objects = self._made_ahead(claim, assignment, settings, out_dir, progress) or (
            self._reader.read(assignment, settings, out_dir, progress)
        )
        document = document.model_copy(
            update={"rule": claim.plan.rule or None, "shadow": claim.plan.shadow}
        )
        write_document(document, out_dir / "result.json")
        crash_point("worker.before_commit")
        self._ledger.analyses.finish(
            claim,
            result=_summary(document),
            objects=_new_objects(objects, out_dir.relative_to(settings.results_dir)),
            destinations=_destinations(claim.plan, settings),
            withheld=_withheld(objects, settings),
        )

    def _made_ahead(
        self,
        claim: AnalysisClaim,
        assignment: Assignment,
        settings: NodeSettings,
        out_dir: Path,
        progress: Progress,
    ) -> tuple[ResultDocument, tuple[WrittenObject, ...]] | None:
        """Take the very same reading if it was made ahead of the evidence (ADR 0022)."""
        memos = Memos(settings.memos_dir)
        memo = memos.take(
            claim.series_id,
            self._reader.key(assignment),
            out_dir,
            lambda: progress("reading ahead", 0, 0),
        )
        unused = memos.forget(claim.series_id)
        if memo is not None:
            self._tally.count("speculations", "used")
        if unused:
            self._tally.count("speculations", "discarded", by=unused)
        return None if memo is None else (memo.document, memo.objects)

    def _renewing(self, claim: AnalysisClaim, lease_s: float) -> Progress:
        """Progress that renews the lease, a few times per lease at most."""
        written_at = 0.0
        last_stage = ""

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal written_at, last_stage
            now = time.monotonic()
            if stage != last_stage or now - written_at >= min(1.0, lease_s / 10):
                self._ledger.analyses.progress(claim, lease_s, stage, done, total)
                written_at, last_stage = now, stage

        return progress


def _destinations(plan: Plan, settings: NodeSettings) -> dict[str, list[ObjectKind]]:
    """Return who gets what of a reading: of a shadow nobody gets anything."""
    if plan.shadow:
        return {}
    return {
        peer.name: list(peer.outputs)
        for peer in settings.peers
        if peer.is_destination and (not plan.destinations or peer.name in plan.destinations)
    }


def _withheld(objects: Sequence[WrittenObject], settings: NodeSettings) -> dict[str, list[str]]:
    """Return the slots of systems that a destination does not want, by its name."""
    return {
        name: [item.slot for item in objects if system_of_slot(item.slot) not in wanted]
        for name, wanted in settings.analysis.models_to.items()
    }


def _fresh_folder(results_dir: Path, claim: AnalysisClaim) -> Path:
    """Return an empty folder of this very attempt; what killed attempts left is removed.

    A worker that lost its lease may still be writing, but only ever into its own folder.
    """
    folder = results_dir / f"{claim.analysis_id}"
    shutil.rmtree(folder, ignore_errors=True)
    attempt = folder / f"{claim.token}"
    attempt.mkdir(parents=True, mode=0o700)
    return attempt


def _new_objects(objects: Sequence[WrittenObject], folder: Path) -> list[NewObject]:
    return [
        NewObject(
            kind=ObjectKind(item.kind),
            slot=item.slot,
            rank=item.rank,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            series_instance_uid=item.series_instance_uid,
            path=str(folder / item.path),
            sha256=item.sha256,
            size_bytes=item.size_bytes,
        )
        for item in objects
    ]


def _summary(document: ResultDocument) -> dict[str, Any]:
    """Return result.json for the ledger, without what only its own page shows."""
    return document.model_dump(
        mode="json",
        exclude={
            "slices": True,
            "objects": True,
            "lesion": {"distribution": {"map"}},
            "outlines": {"slice_probability"},
        },
    )
