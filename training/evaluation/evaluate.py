"""The whole evaluation: every patient through the product, then figures, report, pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node import __version__
from dicom_node.results.dicom_file import write_atomically
from inference.analyzer import Analyzer
from inference.bundle import MANIFEST, Calibration, Manifest
from inference.domain import DiseaseClass, ModelIdentity
from inference.engine import DeviceName, Precision
from training.cohort.split import Part, read_split
from training.cohort.table import Cohort, CohortRow, read_cohort
from training.evaluation import measures
from training.evaluation.bootstrap import REPLICATES
from training.evaluation.document import (
    CohortStatement,
    Comparison,
    EvaluationDocument,
    ModelStatement,
    Timing,
)
from training.evaluation.errors import EvaluationError
from training.evaluation.localisation import TOLERANCE_PX
from training.evaluation.pictures import figure_png, strip_jpeg
from training.evaluation.predictions import (
    Prediction,
    load_prediction,
    prediction_stem,
    save_prediction,
)
from training.evaluation.reading import Case, find_case, read_case
from training.evaluation.report import write_report
from training.evaluation.slice_table import slice_table

__all__ = ["METRICS", "REPORT", "chosen_rows", "evaluate", "predict"]

METRICS = "metrics.json"
REPORT = "report.html"
MODEL = "model.json"
WORST = 8

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Predicted:
    """A cohort's predictions by one model.

    Attributes
    ----------
    model : ModelStatement
    cases : tuple of Case
    predictions : tuple of Prediction
        In the order of `cases`.
    engine : str
    """

    model: ModelStatement
    cases: tuple[Case, ...]
    predictions: tuple[Prediction, ...]
    engine: str


def evaluate(
    bundle: Path,
    cohort_file: Path,
    out: Path,
    *,
    split: Part | None = None,
    split_file: Path | None = None,
    against: Path | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    figures_per_class: int = 1,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> EvaluationDocument:
    """Evaluate a bundle on a cohort and write ``metrics.json`` and ``report.html``.

    Parameters
    ----------
    bundle, cohort_file : Path
    out : Path
        Predictions stay in it: a run that was ended goes on where it was.
    split : "train", "validation", "test" or None
        Which part of the cohort's split; None takes everybody.
    split_file : Path or None
        Default: ``split.csv`` beside the cohort.
    against : Path or None
        Another bundle, or the folder of another evaluation of the same patients.
    replicates, seed : int
        Of the bootstrap.
    figures_per_class : int
        Of how many patients per class the paper's figure is drawn.
    device, precision
        As for :meth:`inference.analyzer.Analyzer.load`.
    progress : callable
        Called with (stage, done, total).

    Returns
    -------
    EvaluationDocument
        As in ``metrics.json``.

    Raises
    ------
    CohortError, EvaluationError, inference.errors.BundleError
    """
    cohort = read_cohort(cohort_file)
    rows = chosen_rows(cohort, split, split_file)
    predicted = predict(
        bundle, cohort, rows, out, figures_per_class=figures_per_class, device=device,
        precision=precision, progress=progress,
    )  # fmt: skip
    progress("figures", 0, 1)
    document = _document(predicted, cohort, split, replicates, seed)
    if against is not None:
        other = _others(against, predicted, cohort, rows, out, device, precision, progress)
        differences = measures.compare(predicted.predictions, other.predictions, replicates, seed)
        comparison = Comparison(against=other.model, differences=differences)
        document = document.model_copy(update={"comparison": comparison})
    text = document.model_dump_json(indent=2) + "\n"
    write_atomically(out / METRICS, text.encode())
    write_report(out / REPORT, document, predicted.predictions, out)
    progress("figures", 1, 1)
    return document


def chosen_rows(
    cohort: Cohort, split: Part | None, split_file: Path | None
) -> tuple[CohortRow, ...]:
    """Rows of one part of the split, or all.

    Raises
    ------
    CohortError, EvaluationError
        The split cannot be read or does not fit the cohort; the part is empty.
    """
    if split is None:
        return cohort.rows
    parts = read_split(split_file or cohort.file.parent / "split.csv", cohort).parts
    rows = tuple(row for row in cohort.rows if parts[row.patient_id] == split)
    if not rows:
        raise EvaluationError(f"{cohort.file}: the split has no {split} patient")
    return rows


def predict(
    bundle: Path,
    cohort: Cohort,
    rows: Sequence[CohortRow],
    out: Path,
    *,
    figures_per_class: int = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> Predicted:
    """Read patients by the product's own door, those that `out` does not hold already.

    Raises
    ------
    CohortError
        A row's series is missing, unreadable or unsuitable, or its truth does not fit: found for
        all rows by their headers before the first is read.
    EvaluationError
        `out` is of another model.
    inference.errors.BundleError
    """
    analyzer = Analyzer.load(bundle, device=device, precision=precision)
    model = _model(analyzer.manifest, analyzer.identity)
    _claim(out, model)
    cases = []
    for done, row in enumerate(rows, start=1):
        cases.append(find_case(cohort, row))
        progress("headers", done, len(rows))
    drawn = _first_of_each_class(rows, figures_per_class)
    predictions = []
    for done, case in enumerate(cases, start=1):
        predictions.append(_predicted(case, analyzer, out, draw=case.row.patient_id in drawn))
        progress("patients", done, len(cases))
    return Predicted(model, tuple(cases), tuple(predictions), analyzer.engine.description)


def _predicted(case: Case, analyzer: Analyzer, out: Path, *, draw: bool) -> Prediction:
    key = _key(analyzer.identity.sha256, case)
    patient = case.row.patient_id
    known = load_prediction(out / "predictions", patient, key)
    figure = prediction_stem(out / "figures", patient)
    figure = figure.with_name(f"{figure.name}.png")
    if known is not None and (figure.is_file() or not draw):
        return known
    reading = read_case(case, analyzer)
    strip = prediction_stem(out / "pictures", patient)
    write_atomically(strip.with_name(f"{strip.name}.jpg"), strip_jpeg(reading))
    if draw:
        write_atomically(figure, figure_png(case, reading))
    save_prediction(out / "predictions", reading.prediction, key)  # last: now it is whole
    return reading.prediction


def _others(
    against: Path,
    predicted: Predicted,
    cohort: Cohort,
    rows: Sequence[CohortRow],
    out: Path,
    device: DeviceName,
    precision: Precision,
    progress: Progress,
) -> Predicted:
    """Predictions of the other model: read now (a bundle), or those of its evaluation."""
    if (against / MANIFEST).is_file():
        folder = out / "against"
        return predict(
            against, cohort, rows, folder, device=device, precision=precision, progress=progress
        )
    model = _claimed(against)
    if model is None:
        raise EvaluationError(f"{against} is neither a bundle nor the folder of an evaluation")
    predictions = []
    for case in predicted.cases:
        patient = case.row.patient_id
        found = load_prediction(against / "predictions", patient, _key(model.sha256, case))
        if found is None:
            raise EvaluationError(
                f"{against} holds no prediction of patient {patient!r} on the same images: "
                "evaluate both models on one cohort"
            )
        predictions.append(found)
    return Predicted(model, predicted.cases, tuple(predictions), "")


def _document(
    predicted: Predicted, cohort: Cohort, split: Part | None, replicates: int, seed: int
) -> EvaluationDocument:
    predictions = predicted.predictions
    table = slice_table(predictions)
    four_way, two_way = measures.slice_calibration(table)
    labels = Counter(p.label for p in predictions)
    return EvaluationDocument(
        software_version=__version__,
        model=predicted.model,
        cohort=CohortStatement(
            file=cohort.file.name,
            sha256=cohort.sha256,
            split=split or "all",
            patients={disease.key: labels[disease] for disease in DiseaseClass},
            slices=sum(len(p.has_lung) for p in predictions),
            read_slices=sum(int(p.has_lung.sum()) for p in predictions),
        ),
        replicates=replicates,
        seed=seed,
        patient=measures.patient_figures(predictions, replicates, seed),
        nonparametric=measures.nonparametric_figures(predictions, replicates, seed),
        slices=measures.slice_figures(table, replicates, seed),
        calibration_patient=measures.patient_calibration(predictions),
        calibration_slice=four_way,
        calibration_lesion=two_way,
        artefacts=measures.artefact_figures(predictions),
        localisation=measures.localisation_figures(predictions),
        localisation_tolerance_px=TOLERANCE_PX,
        lesion_percentage=measures.agreement(predictions),
        worst=measures.worst_cases(predictions, WORST),
        statements=_statements(predicted, cohort, split),
        timing=Timing(
            seconds_per_series=sum(p.seconds for p in predictions) / len(predictions),
            engine=predicted.engine,
        ),
    )


def _statements(predicted: Predicted, cohort: Cohort, split: Part | None) -> list[str]:
    predictions = predicted.predictions
    said = []
    without = sum(not p.has_masks for p in predictions)
    if without == len(predictions):
        said.append(
            "No row has true masks: localisation, lesion percentage and artefacts are left out."
        )
    elif without:
        said.append(f"{without} of {len(predictions)} patients have no true masks.")
    unknown = sum(bool((p.slice_truth < 0).all()) for p in predictions)
    if unknown:
        said.append(f"{unknown} patients have no slice labels; their slices are left out.")
    absent = [d.label for d in DiseaseClass if not any(p.label is d for p in predictions)]
    if absent:
        said.append(f"No patient is {', '.join(absent)}: figures that need one are empty.")
    if predicted.model.trained_on_sha256 == cohort.sha256 and split not in ("test", "validation"):
        said.append("The model was trained on patients of this cohort: the figures flatter it.")
    if split == "validation":
        said.append("Validation patients chose the model: the figures flatter it.")
    return said


def _model(manifest: Manifest, identity: ModelIdentity) -> ModelStatement:
    source = manifest.training_data
    return ModelStatement(
        name=identity.name,
        version=identity.version,
        sha256=identity.sha256,
        training=identity.training.value,
        limits=manifest.limits,
        lesion_threshold=identity.lesion_threshold,
        trained_on=None if source is None else source.description,
        trained_on_sha256=None if source is None else source.sha256,
        calibrated=manifest.calibration != Calibration(),
    )


def _claim(out: Path, model: ModelStatement) -> None:
    """Make `out` the folder of `model`.

    Raises
    ------
    EvaluationError
        It is another model's.
    """
    known = _claimed(out)
    if known is not None and known.sha256 != model.sha256:
        raise EvaluationError(
            f"{out} holds the evaluation of {known.name} {known.version} "
            f"({known.sha256[:8]}), not of {model.name} {model.version} ({model.sha256[:8]})"
        )
    if known is None and out.exists() and any(out.iterdir()):
        raise EvaluationError(f"{out} is not empty and no evaluation")
    write_atomically(out / MODEL, (model.model_dump_json(indent=2) + "\n").encode())


def _claimed(folder: Path) -> ModelStatement | None:
    try:
        return ModelStatement.model_validate(json.loads((folder / MODEL).read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _key(model_sha256: str, case: Case) -> str:
    return f"{model_sha256}/{case.digest}"


def _first_of_each_class(rows: Sequence[CohortRow], count: int) -> set[str]:
    return {
        row.patient_id
        for disease in DiseaseClass
        for row in [row for row in rows if row.label is disease][:count]
    }
