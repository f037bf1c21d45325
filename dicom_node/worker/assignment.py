"""What a reading is made from: a stack of images, and the circumstances that its objects tell.

A claimed analysis has one, and so has a series that is read before the evidence is there. Both are
the same reading exactly when their keys are the same (ADR 0022).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dicom_node import __version__
from dicom_node.completion import ClosingReason
from dicom_node.domain import EarlierReadings
from dicom_node.errors import SeriesRejected
from dicom_node.ledger import AnalysisClaim, Prospect
from dicom_node.results.context import Completeness, Predecessor, ResultContext
from dicom_node.selection import SelectedStack
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool
from inference.domain import ModelIdentity
from inference.errors import DiskFailed

__all__ = ["Assignment", "configuration_digest"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """The images of one reading, and what its objects say beside the findings.

    Attributes
    ----------
    instances : tuple of (sop_instance_uid, path)
        The selected stack; paths are relative to the spool.
    digests : mapping of SOP Instance UID to str
        Of the content that was acknowledged.
    frames : mapping of SOP Instance UID to frame numbers
        Of multi-frame instances of which only some frames belong to the stack.
    context : ResultContext
    """

    instances: tuple[tuple[str, str], ...]
    digests: Mapping[str, str]
    frames: Mapping[str, tuple[int, ...]]
    context: ResultContext

    @classmethod
    def of_claim(
        cls, claim: AnalysisClaim, earlier: EarlierReadings, settings: NodeSettings
    ) -> Assignment:
        """Return that of a claimed analysis."""
        context = _context(
            settings,
            claim.instance_set_digest,
            Completeness(
                reason=ClosingReason(claim.closing_reason).text,
                instance_count=claim.instance_count,
                expected_count=claim.expected_count,
            ),
            claim.predecessors,
            claim.statements,
            earlier,
        )
        return cls(claim.instances, claim.digests, claim.frames, context)

    @classmethod
    def of_prospect(
        cls,
        prospect: Prospect,
        stack: SelectedStack,
        closing_reason: ClosingReason,
        earlier: EarlierReadings,
        settings: NodeSettings,
    ) -> Assignment:
        """Return what the analysis of a series will have, if it is closed as foreseen."""
        held = {one.sop_instance_uid: one for one in prospect.instances}
        selected = [held[uid] for uid in stack.sop_instance_uids]
        context = _context(
            settings,
            prospect.instance_set_digest,
            Completeness(
                reason=closing_reason.text,
                instance_count=prospect.instance_count,
                expected_count=prospect.expected_count,
            ),
            prospect.predecessors,
            tuple(stack.statements),
            earlier,
        )
        return cls(
            tuple((one.sop_instance_uid, one.path) for one in selected),
            {one.sop_instance_uid: one.digest for one in selected},
            {uid: tuple(numbers) for uid, numbers in stack.frames.items()},
            context,
        )

    def key(self, models: Sequence[ModelIdentity]) -> str:
        """sha256 over all that decides about the reading, but for the time at which it began.

        Parameters
        ----------
        models : sequence of ModelIdentity
            Every model that reads.
        """
        context = asdict(self.context)  # whatever the objects tell, fields to come included
        del context["analysis_started_at"]
        parts = {
            "images": sorted(self.digests.items()),
            "frames": sorted((uid, list(numbers)) for uid, numbers in self.frames.items()),
            "models": [model.sha256 for model in models],
            "context": context,
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def require_unaltered(self, spool_dir: Path) -> None:
        """Read only what is, byte for byte, what was acknowledged: disks forget.

        Raises
        ------
        SeriesRejected
            An image is missing or has changed.
        DiskFailed
            The disk does not give one now.
        """
        spool = Spool(spool_dir)
        try:
            altered = sum(
                not spool.is_unaltered(path, self.digests[uid]) for uid, path in self.instances
            )
        except OSError as error:
            raise DiskFailed("the disk does not give an image") from error
        if altered:
            raise SeriesRejected(
                f"{altered} of {len(self.instances)} images lie incomplete or altered on the "
                "node's disk: send the series once more, then retry"
            )


def configuration_digest(settings: NodeSettings) -> str:
    """sha256 over the settings that shape the objects: other settings, other UIDs."""
    return hashlib.sha256(settings.results.model_dump_json().encode()).hexdigest()


def _context(
    settings: NodeSettings,
    instance_set_digest: str,
    completeness: Completeness,
    predecessors: Sequence[tuple[str, str, str]],
    statements: tuple[str, ...],
    earlier: EarlierReadings,
) -> ResultContext:
    return ResultContext(
        instance_set_digest=instance_set_digest,
        configuration_digest=configuration_digest(settings),
        analysis_started_at=dt.datetime.now(dt.UTC),
        completeness=completeness,
        software_version=__version__,
        ae_title=settings.ae_title,
        predecessors=tuple(Predecessor(*report) for report in predecessors),
        statements=statements,
        earlier=earlier,
    )
