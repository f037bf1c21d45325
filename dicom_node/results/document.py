"""Modules that structured reports and key object documents share (PS3.3 C.17)."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset

from dicom_node.results.result_set import ResultSet
from inference.domain import SliceReference

__all__ = ["evidence", "referenced_series"]


def evidence(results: ResultSet, references: Iterable[SliceReference]) -> list[Dataset]:
    """Items of the Current Requested Procedure Evidence Sequence (PS3.3 C.17.2.3).

    Every instance that the content tree names stands here once, whatever its frames.
    """
    study = Dataset()
    study.StudyInstanceUID = results.source.study_instance_uid
    study.ReferencedSeriesSequence = [
        referenced_series(
            results.source.series_instance_uid,
            [(item.sop_class_uid, item.sop_instance_uid) for item in references],
        )
    ]
    return [study]


def referenced_series(series_instance_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """Return one item of a Referenced Series Sequence of documents.

    Parameters
    ----------
    instances : iterable of (SOP class UID, SOP instance UID)
    """
    series = Dataset()
    series.SeriesInstanceUID = series_instance_uid
    items = []
    for sop_class_uid, sop_instance_uid in dict.fromkeys(instances):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        items.append(item)
    series.ReferencedSOPSequence = items
    return series
