"""The structured report in three SOP classes: one slot, the destination takes the first it can."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from dicom_node.domain import ObjectKind
from dicom_node.results.codes import coding_scheme_identification
from dicom_node.results.document import evidence, referenced_series
from dicom_node.results.report_content import measurement_report
from dicom_node.results.result_set import ResultSet
from inference.domain import CtVolume, Findings

__all__ = ["REPORT_SOP_CLASSES", "build_reports"]

REPORT_SOP_CLASSES = (
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(EnhancedSRStorage),
)
"""In the order of preference. The same content tree is legal in all of them."""


def build_reports(findings: Findings, volume: CtVolume, results: ResultSet) -> list[Dataset]:
    """Return the report once per SOP class of :data:`REPORT_SOP_CLASSES`."""
    root = measurement_report(findings, volume, results)
    return [_document(root, volume, results, sop_class) for sop_class in REPORT_SOP_CLASSES]


def _document(root: Dataset, volume: CtVolume, results: ResultSet, sop_class_uid: str) -> Dataset:
    """SR Document Series, SR Document General and Content modules (PS3.3 C.17.1 to C.17.3)."""
    dataset = results.new_instance(ObjectKind.REPORT, sop_class_uid, "SR", is_image=False)
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.PerformedProcedureCodeSequence = []
    dataset.CurrentRequestedProcedureEvidenceSequence = evidence(results, volume.slices)
    requests = results.referenced_requests()
    if requests:
        dataset.ReferencedRequestSequence = requests
    predecessors = _predecessors(results, sop_class_uid)
    if predecessors:
        dataset.PredecessorDocumentsSequence = predecessors
    dataset.CodingSchemeIdentificationSequence = [coding_scheme_identification()]
    dataset.update(root)  # shared between the three: it is written, never changed
    return dataset


def _predecessors(results: ResultSet, sop_class_uid: str) -> list[Dataset]:
    """Refer to the superseded report of the same SOP class, else to the preferred one.

    A destination takes the same class every time, so that is the one that lies there.
    """
    known = results.context.predecessors
    same = [item for item in known if item.sop_class_uid == sop_class_uid] or list(known[:1])
    if not same:
        return []
    study = Dataset()
    study.StudyInstanceUID = results.source.study_instance_uid
    study.ReferencedSeriesSequence = [
        referenced_series(item.series_instance_uid, [(item.sop_class_uid, item.sop_instance_uid)])
        for item in same
    ]
    return [study]
