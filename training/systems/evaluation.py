"""M²UNet and JCS on a cohort with pixel masks, through the functions of serving.

What is measured of each patient is kept in ``OUT/patients``, so an evaluation that was ended goes
on where it was. Intervals come from the bootstrap over patients of :mod:`training.evaluation`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dicom_node import __version__
from dicom_node.results.dicom_file import write_atomically
from inference.anatomy import require_chest
from inference.bundle_files import MANIFEST
from inference.domain import CtVolume, Lobe, ModelIdentity
from inference.engine import DeviceName, Precision
from inference.errors import BundleError, SeriesError
from inference.jcs.reader import LesionReader
from inference.lung_crop import crop_lungs
from inference.m2unet.reader import LobeReader
from inference.volume import load_volume
from training.cohort.drawn_masks import DrawnMasks, read_masks
from training.cohort.split import Part
from training.cohort.table import Cohort, read_cohort
from training.evaluation.bootstrap import REPLICATES, intervals
from training.evaluation.document import Figure
from training.evaluation.errors import EvaluationError
from training.evaluation.evaluate import METRICS, chosen_rows
from training.evaluation.metrics import auc
from training.evaluation.reading import Case, find_case
from training.systems.surface_distance import hausdorff95

__all__ = [
    "Row",
    "SystemDocument",
    "SystemName",
    "evaluate_system",
    "measured_lines",
    "measured_rows",
    "system_of",
]

FORMAT = 1  # raised whenever what is kept of a patient changes

SystemName = Literal["m3lung", "m2unet", "jcs"]
Progress = Callable[[str, int, int], None]
Row = dict[str, float | None]


class SystemDocument(BaseModel):
    """``metrics.json`` of one of the two other systems.

    Attributes
    ----------
    system : "m2unet" or "jcs"
    model, version, sha256, training : str
    cohort, cohort_sha256, split : str
    patients : int
    replicates, seed : int
        Of the bootstrap.
    figures : dict of str to Figure
        Dice and shares in [0, 1], ``hd95_mm`` in millimetres. Means are over the patients in
        whom the figure is defined.
    statements : list of str
        What a reader has to know about the figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal["1"] = "1"
    software_version: str = __version__
    system: Literal["m2unet", "jcs"]
    model: str
    version: str
    sha256: str
    training: str
    cohort: str
    cohort_sha256: str
    split: str
    patients: int
    replicates: int
    seed: int
    figures: dict[str, Figure]
    statements: list[str]


def system_of(bundle: Path) -> SystemName:
    """Which system a bundle is of, by its manifest.

    Raises
    ------
    BundleError
        There is no manifest that can be read.
    """
    try:
        document = json.loads((bundle / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{MANIFEST} of {bundle} cannot be read: {error}") from error
    found = document.get("system", "m3lung") if isinstance(document, dict) else "m3lung"
    if found == "m2unet":
        return "m2unet"
    return "jcs" if found == "jcs" else "m3lung"


def evaluate_system(
    bundle: Path,
    cohort_file: Path,
    out: Path,
    *,
    split: Part | None = None,
    split_file: Path | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> SystemDocument:
    """Measure M²UNet or JCS and write ``metrics.json``.

    Raises
    ------
    CohortError, EvaluationError, inference.errors.BundleError
    """
    reader = _reader(bundle, device, precision)
    system: Literal["m2unet", "jcs"] = "m2unet" if isinstance(reader, LobeReader) else "jcs"
    identity = reader.bundle.identity
    cohort = read_cohort(cohort_file)
    rows = _measured_cohort(reader, cohort, out, split, split_file, progress)
    statistic = _lobe_statistic if system == "m2unet" else _lesion_statistic
    found = intervals(
        lambda counts: statistic(rows, counts), len(rows), replicates=replicates, seed=seed
    )
    document = SystemDocument(
        system=system,
        model=identity.name,
        version=identity.version,
        sha256=identity.sha256,
        training=identity.training.value,
        cohort=cohort.file.name,
        cohort_sha256=cohort.sha256,
        split=split or "all",
        patients=len(rows),
        replicates=replicates,
        seed=seed,
        figures={
            name: Figure(value=one.value, low=one.low, high=one.high) for name, one in found.items()
        },
        statements=_statements(rows, reader, cohort.sha256, split),
    )
    write_atomically(out / METRICS, (document.model_dump_json(indent=2) + "\n").encode())
    return document


def measured_rows(
    bundle: Path,
    cohort_file: Path,
    out: Path,
    *,
    split: Part | None = None,
    split_file: Path | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> list[Row]:
    """Return what is measured of each patient, for what is not an evaluation; kept in `out`, too.

    Raises
    ------
    CohortError, EvaluationError, inference.errors.BundleError
    """
    reader = _reader(bundle, device, precision)
    cohort = read_cohort(cohort_file)
    return _measured_cohort(reader, cohort, out, split, split_file, progress)


def _reader(bundle: Path, device: DeviceName, precision: Precision) -> LobeReader | LesionReader:
    system = system_of(bundle)
    if system == "m2unet":
        return LobeReader.load(bundle, device=device, precision=precision)
    if system == "jcs":
        return LesionReader.load(bundle, device=device, precision=precision)
    raise EvaluationError(f"{bundle} is a bundle of the main model")


def _measured_cohort(
    reader: LobeReader | LesionReader,
    cohort: Cohort,
    out: Path,
    split: Part | None,
    split_file: Path | None,
    progress: Progress,
) -> list[Row]:
    cases = [find_case(cohort, row) for row in chosen_rows(cohort, split, split_file)]
    rows = []
    for done, case in enumerate(cases, start=1):
        rows.append(_measured(case, reader, reader.bundle.identity, out))
        progress("patients", done, len(cases))
    return rows


class _Kept(BaseModel):
    format: int
    key: str
    figures: Row


def _measured(
    case: Case, reader: LobeReader | LesionReader, identity: ModelIdentity, out: Path
) -> Row:
    row = case.row
    key = hashlib.sha256(f"{identity.sha256}/{case.digest}/{row.severe}".encode()).hexdigest()
    path = out / "patients" / f"{quote(row.patient_id, safe=' ')}.json"
    try:
        kept = _Kept.model_validate_json(path.read_bytes())
        if (kept.format, kept.key) == (FORMAT, key):
            return kept.figures
    except (OSError, ValidationError):
        pass
    try:
        volume = load_volume(case.files.paths, frames=case.files.frames)
        crop = crop_lungs(
            volume.hu, volume.pixel_spacing_mm, reader.bundle.manifest.preprocessing.crop
        )
        require_chest(volume, crop)
    except SeriesError as error:
        raise case.error(f"{row.series_path}: {error.reason}") from error
    drawn = read_masks(row, volume)
    if isinstance(reader, LobeReader):
        read = reader.read(volume, crop, whole=True)
        figures = _lobe_figures(volume, drawn, read.labels, read.severe_probability, read.severe)
    else:
        product = reader.read(volume, crop, whole=True)
        everywhere = reader.read(volume, crop, whole=True, segment_all=True)
        manifest = reader.bundle.manifest
        side = dict.fromkeys(manifest.positive, 1.0) | dict.fromkeys(manifest.negative, 0.0)
        figures = {
            "positive": side.get(row.label.key),
            "probability": product.probability,
            "called": float(bool(product.positive)),
        }
        if drawn.lesion is not None and drawn.lesion.any():
            figures |= _overlap("product", product.mask, drawn.lesion)
            shown = drawn.lesion.any(axis=(1, 2))
            figures |= _overlap("slices", everywhere.mask[shown], drawn.lesion[shown])
            figures["hd95_mm"] = _distance(everywhere.mask, drawn.lesion, volume)
    kept = _Kept(format=FORMAT, key=key, figures=figures)
    write_atomically(path, kept.model_dump_json().encode())
    return kept.figures


def _lobe_figures(
    volume: CtVolume,
    drawn: DrawnMasks,
    labels: NDArray[np.uint8],
    probability: float | None,
    severe: bool | None,
) -> Row:
    figures: Row = {
        "severe": None if drawn.severe is None else float(drawn.severe),
        "probability": probability,
        "called": None if severe is None else float(severe),
    }
    if drawn.lobes is None:
        return figures
    for lobe in Lobe:
        said, true = labels == lobe, drawn.lobes == lobe
        if true.any():
            figures |= _overlap(lobe.key, said, true)
            figures[f"{lobe.key}.hd95_mm"] = _distance(said, true, volume)
    return figures


def _overlap(name: str, said: NDArray[np.bool_], true: NDArray[np.bool_]) -> Row:
    both = np.count_nonzero(said & true)
    total = np.count_nonzero(said) + np.count_nonzero(true)
    return {f"{name}.dice": 2 * both / total if total else None}


def _distance(said: NDArray[np.bool_], true: NDArray[np.bool_], volume: CtVolume) -> float | None:
    if volume.slice_spacing_mm is None:
        return None
    found = hausdorff95(said, true, (volume.slice_spacing_mm, *volume.pixel_spacing_mm))
    return found if np.isfinite(found) else None


def _lobe_statistic(rows: list[Row], counts: NDArray[np.float64]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind in ("dice", "hd95_mm"):
        each = {lobe.key: _mean(rows, counts, f"{lobe.key}.{kind}") for lobe in Lobe}
        figures |= {f"{kind}.{key}": value for key, value in each.items()}
        known = [value for value in each.values() if np.isfinite(value)]
        figures[f"{kind}.mean"] = float(np.mean(known)) if known else float("nan")
    return figures | _two_way(rows, counts, "severe", "severity")


def _lesion_statistic(rows: list[Row], counts: NDArray[np.float64]) -> dict[str, float]:
    return {
        "dice.lesion_slices": _mean(rows, counts, "slices.dice"),
        "dice.product": _mean(rows, counts, "product.dice"),
        "hd95_mm": _mean(rows, counts, "hd95_mm"),
    } | _two_way(rows, counts, "positive", "classification")


def _mean(rows: list[Row], counts: NDArray[np.float64], name: str) -> float:
    pairs = [
        (value, count)
        for row, count in zip(rows, counts, strict=True)
        if (value := row.get(name)) is not None
    ]
    weight = sum(count for _, count in pairs)
    return float(sum(v * c for v, c in pairs) / weight) if weight else float("nan")


def _two_way(
    rows: list[Row], counts: NDArray[np.float64], name: str, prefix: str
) -> dict[str, float]:
    """AUC, sensitivity, specificity and accuracy over the patients whose side is known."""
    used = [n for n, row in enumerate(rows) if None not in (row.get(name), row.get("probability"))]
    figures = dict.fromkeys(("auc", "sensitivity", "specificity", "accuracy"), float("nan"))
    if used:
        truth = np.array([rows[n][name] for n in used], dtype=np.float64) > 0.5
        score = np.array([rows[n]["probability"] for n in used], dtype=np.float64)
        called = np.array([rows[n]["called"] for n in used], dtype=np.float64) > 0.5
        weight = counts[used]
        figures["auc"] = auc(truth, score, weight)
        for kind, among in (
            ("sensitivity", truth),
            ("specificity", ~truth),
            ("accuracy", np.ones_like(truth)),
        ):
            total = float(weight[among].sum())
            right = float(weight[among & (called == truth)].sum())
            figures[kind] = right / total if total else float("nan")
    return {f"{prefix}.{kind}": value for kind, value in figures.items()}


def _statements(
    rows: list[Row], reader: LobeReader | LesionReader, cohort_sha256: str, split: Part | None
) -> list[str]:
    said = []
    name = "severe" if isinstance(reader, LobeReader) else "positive"
    unknown = sum(row.get(name) is None for row in rows)
    if unknown:
        words = "have no known severity" if name == "severe" else "are of neither class"
        said.append(f"{unknown} of {len(rows)} patients {words}; they count for masks only.")
    drawn = sum(any(key.endswith(".dice") for key in row) for row in rows)
    said.append(f"{drawn} of {len(rows)} patients have masks that were compared.")
    source = reader.bundle.manifest.training_data
    if source is not None and source.sha256 == cohort_sha256 and split not in (
        "test", "validation",
    ):  # fmt: skip
        said.append("The model was trained on patients of this cohort: the figures flatter it.")
    if split == "validation":
        said.append("Validation patients chose the model: the figures flatter it.")
    return said


def measured_lines(document: SystemDocument) -> list[tuple[str, str]]:
    """Figures as rows of a table: name, and value with its interval."""

    def words(figure: Figure, scale: float) -> str:
        if figure.value is None:
            return "–"
        text = f"{scale * figure.value:.2f}"
        if figure.low is not None and figure.high is not None:
            text += f" ({scale * figure.low:.1f} to {scale * figure.high:.1f})"
        return text

    return [
        (f"{name} %" if "hd95" not in name else name, words(one, 1 if "hd95" in name else 100))
        for name, one in document.figures.items()
    ]
