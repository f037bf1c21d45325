"""Key Object Selection: the slices that a reader should look at first (PS3.3 A.35.4, TID 2010)."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.domain import ObjectKind
from dicom_node.results import content_items as sr
from dicom_node.results.codes import Concept
from dicom_node.results.document import evidence
from dicom_node.results.identity import device_uid
from dicom_node.results.key_slices import key_slices
from dicom_node.results.result_set import ResultSet
from inference.domain import Findings

__all__ = ["MOST_KEY_SLICES", "build_key_objects"]

MOST_KEY_SLICES = 5


def build_key_objects(findings: Findings, results: ResultSet) -> Dataset | None:
    """Return the key object document, None when no slice has lesion."""
    indices = key_slices(findings, MOST_KEY_SLICES)
    if not indices:
        return None
    references = [findings.slices[index].reference for index in indices]
    dataset = results.new_instance(
        ObjectKind.KEY_OBJECTS, str(KeyObjectSelectionDocumentStorage), "KO", is_image=False
    )
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.CurrentRequestedProcedureEvidenceSequence = evidence(results, references)
    requests = results.referenced_requests()
    if requests:
        dataset.ReferencedRequestSequence = requests
    numbers = ", ".join(str(index + 1) for index in indices)
    words = " ".join(filter(None, (results.options.banner + ".", results.training_words)))
    dataset.update(
        sr.container(
            Concept.OF_INTEREST,
            [
                sr.code(Concept.OBSERVER_TYPE, Concept.DEVICE, sr.HAS_OBS_CONTEXT),
                sr.uid_reference(Concept.DEVICE_OBSERVER_UID, device_uid(findings.model.sha256)),
                sr.text(
                    Concept.KEY_OBJECT_DESCRIPTION,
                    f"Slices {numbers} of {len(findings.slices)} (from the top) show the largest "
                    f"lesions. {words}",
                ),
                # TID 2010 wants its images without a concept name (PixelMed's validator says so).
                *(sr.image(reference) for reference in references),
            ],
            relationship=None,
            template="2010",
        )
    )
    return dataset
