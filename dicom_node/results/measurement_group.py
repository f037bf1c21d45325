"""A measurement group of the report: TID 1501 with TID 4019 Algorithm Identification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from dicom_node.results import content_items as sr
from dicom_node.results.codes import Concept
from dicom_node.results.result_set import ResultSet
from inference.domain import ModelIdentity

__all__ = ["measurement_group"]


def measurement_group(
    models: Sequence[ModelIdentity],
    results: ResultSet,
    *,
    tracking: str,
    label: str,
    finding: Concept,
    site: tuple[Concept, Concept | None],
    content: Iterable[Dataset],
) -> Dataset:
    """Return one group.

    Parameters
    ----------
    models : sequence of ModelIdentity
        Whose numbers these are; the first one is the algorithm, all are named.
    tracking : str
        Name of the finding, for its Tracking UID.
    label : str
        For readers.
    finding : Concept
    site : (Concept, Concept or None)
        Finding site, and its side.
    """
    place, side = site
    children = [] if side is None else [sr.code(Concept.LATERALITY, side, sr.HAS_CONCEPT_MOD)]
    first = models[0]
    names = " with ".join(dict.fromkeys(model.name for model in models))
    versions = " with ".join(dict.fromkeys(model.version for model in models))
    parameters = f"{first.training} model; lesion threshold {first.lesion_threshold:g}"
    return sr.container(
        Concept.MEASUREMENT_GROUP,
        [
            sr.text(Concept.TRACKING_IDENTIFIER, label, sr.HAS_OBS_CONTEXT),
            sr.uid_reference(
                Concept.TRACKING_UNIQUE_IDENTIFIER, results.identity.tracking_uid(tracking)
            ),
            sr.code(Concept.FINDING, finding),
            sr.code(Concept.FINDING_SITE, place, sr.HAS_CONCEPT_MOD, children=children),
            sr.text(Concept.ALGORITHM_NAME, names, sr.HAS_CONCEPT_MOD),
            sr.text(Concept.ALGORITHM_VERSION, versions, sr.HAS_CONCEPT_MOD),
            sr.text(Concept.ALGORITHM_PARAMETERS, parameters, sr.HAS_CONCEPT_MOD),
            *content,
        ],
        template="1501",
    )
