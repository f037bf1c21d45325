"""The reference of a bundle, from its evaluation: what its readings look like when all is well."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from inference.domain import DiseaseClass
from inference.reference import MEASURES, Histogram, Reference, histogram
from training.evaluation.document import EvaluationDocument
from training.evaluation.errors import EvaluationError
from training.evaluation.evaluate import METRICS
from training.evaluation.predictions import Prediction, load_prediction

__all__ = ["make_reference"]


def make_reference(evaluation: Path, model_sha256: str) -> Reference:
    """Return the reference that the predictions of an evaluation give.

    Scanner, kernel and thickness are those of the cohort's files, which an evaluation does not
    keep: a node compares them with its own past.

    Parameters
    ----------
    evaluation : Path
        Folder of ``m3lung evaluate``.
    model_sha256 : str
        Identity of the bundle that it is for.

    Raises
    ------
    EvaluationError
        It is none, another model's, or has no predictions.
    """
    try:
        document = EvaluationDocument.model_validate_json((evaluation / METRICS).read_bytes())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{evaluation} is no evaluation: {METRICS}") from error
    if document.model.sha256 != model_sha256:
        raise EvaluationError(
            f"{evaluation} is the evaluation of {document.model.name} {document.model.version} "
            f"({document.model.sha256[:8]}), not of this bundle ({model_sha256[:8]})"
        )
    folder = evaluation / "predictions"
    read = [load_prediction(folder, unquote(path.stem)) for path in sorted(folder.glob("*.json"))]
    found = [prediction for prediction in read if prediction is not None]
    if not found:
        raise EvaluationError(f"{folder} holds no predictions")
    cohort = document.cohort
    return Reference(
        model_sha256=model_sha256,
        description=f"{cohort.file}, {cohort.split}: {len(found)} patients",
        series=len(found),
        measures={key: _measured(found, key, edges) for key, edges in MEASURES.items()},
    )


def _measured(found: list[Prediction], key: str, edges: tuple[float, ...]) -> Histogram:
    kind, _, disease = key.partition(".")
    values: list[float] = []
    for prediction in found:
        if kind == "probability":
            index = [one.key for one in DiseaseClass].index(disease)
            values.append(float(prediction.probabilities[index]))
        elif kind == "lesion_probability":
            slices = prediction.slice_lesion[prediction.has_lung]
            values += [float(slices.max())] if slices.size else []
        elif prediction.percent_of_lung is not None:
            values.append(prediction.percent_of_lung)
    return histogram(values, edges)
