"""What the results say about how the reading came about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dicom_node.domain import EarlierReadings
from dicom_node.settings import ResultSettings as ResultOptions

__all__ = ["Completeness", "Predecessor", "ResultContext", "ResultOptions"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """Why the series was taken as whole.

    Attributes
    ----------
    reason : str
        What closed it, in words, such as "the source PACS reports the same number of images".
    instance_count : int
        Instances received.
    expected_count : int or None
        What the source said it has, None where nobody was asked.
    """

    reason: str
    instance_count: int
    expected_count: int | None = None

    @property
    def text(self) -> str:
        """One line for the reader."""
        known = self.expected_count is not None and self.expected_count != self.instance_count
        count = f"{self.instance_count} of {self.expected_count}" if known else self.instance_count
        return f"{count} images received; closed because: {self.reason}"


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A report of an earlier revision that this one takes the place of."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class ResultContext:
    """The circumstances of one reading.

    Attributes
    ----------
    instance_set_digest : str
        Hex digest over the instances that were read.
    configuration_digest : str
        Hex digest over every setting that changes what the objects hold.
    analysis_started_at : datetime
        When the analysis began: Content Date and Time of every object. Aware times are written in
        the source's time zone where the source states one, otherwise as they are.
    completeness : Completeness
    software_version : str
        Version of the node.
    ae_title : str
        AE title of the node.
    predecessors : tuple of Predecessor
        Reports of the superseded revision, one per SOP class.
    statements : tuple of str
        Further sentences for the reader, such as what selection left out.
    earlier : EarlierReadings or None
        What was read of the patient before; None where nobody could look, as without a ledger.
    """

    instance_set_digest: str
    configuration_digest: str
    analysis_started_at: datetime
    completeness: Completeness
    software_version: str
    ae_title: str
    predecessors: tuple[Predecessor, ...] = ()
    statements: tuple[str, ...] = ()
    earlier: EarlierReadings | None = None
