"""Tables II to V, ours and the paper's lines in pairs, as rows of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.domain import DiseaseClass
from training.ablation.figures import RowFigures
from training.ablation.published import COST, FIGURES
from training.ablation.row_result import RowResult
from training.ablation.rows import OURS, ROWS, TABLE_TITLES, TABLES, TableName
from training.evaluation.bootstrap import Interval

__all__ = ["Table", "make_table"]

ERRORS = {"accuracy": "Acc", "fpe": "FPE", "fne": "FNE", "fdpe": "FDPE"}
NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table ready to be written.

    Attributes
    ----------
    name : str
        "ii", "iii", "iv" or "v".
    title : str
    headings : tuple of str
    lines : tuple of (tuple of str)
    notes : tuple of str
    """

    name: str
    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def make_table(
    name: TableName, results: Mapping[str, RowResult], measured: Mapping[str, RowFigures]
) -> Table:
    """One table of the rows that are finished.

    Parameters
    ----------
    name : "ii", "iii", "iv" or "v"
    results : mapping of row keys to RowResult
    measured : mapping of row keys to RowFigures
    """
    keys = [key for key in TABLES[name] if key in results]
    if name == "iii":
        return _cost_table(keys, results)
    columns = dict(ERRORS)
    if name == "ii":
        columns = {
            f"{kind}.{disease.key}": f"{disease.label} {word}"
            for disease in DiseaseClass
            for kind, word in (("sensitivity", "Sen"), ("specificity", "Spec"), ("auc", "AUC"))
        } | columns
    lines = []
    for key in keys:
        lines.append(_measured_line(name, key, columns, measured[key]))
        published = FIGURES.get(key)
        cells = [NONE if published is None else f"{published[column]:.2f}" for column in columns]
        lines.append((_title(name, key), "paper", *cells, NONE))
    notes = [
        "All figures in per cent, [95 % interval] by bootstrap over patients; p: two-sided, of "
        "the difference in accuracy to the last row of the paper's table.",
        "The paper's figures are of its own private cohort: compare the order of rows.",
    ]
    if name in ("iv", "v"):
        notes.append(
            "Counting: Healthy if more than T = 0.99 of the slices are, else the disease with "
            "most slices; p0 = Pl0 + Pl1·Pm0, pk = Pl1·Pmk."
        )
    if name == "v":
        notes.append(
            "ResNet (paper: ResNet-50) has no lesion head: its slices are called by the class "
            "head alone, p = Pm."
        )
    if name == "iv":
        notes.append("The paper has one attention; its text and its Eq. 2 are read apart here.")
    headings = ("method", "", *columns.values(), "p")
    return Table(name, TABLE_TITLES[name], headings, tuple(lines), tuple(notes))


def _measured_line(
    table: TableName, key: str, columns: Mapping[str, str], found: RowFigures
) -> tuple[str, ...]:
    cells = [_share(found.figures[column], brief="." in column) for column in columns]
    p = NONE if found.p_accuracy is None else f"{found.p_accuracy:.3f}"
    return (_title(table, key), "here", *cells, p)


def _title(table: TableName, key: str) -> str:
    if table in ("ii", "iii") and key == OURS:
        return "M3Lung-Sys" if table == "ii" else "Patient-level"
    if table == "iii" and key == "slices-coordinates":
        return "Slice-level"
    if table == "iv" and key == "slices-coordinates":
        return "Non-parametric assessment"
    return ROWS[key].title


def _share(found: Interval, *, brief: bool) -> str:
    if found.value is None:
        return NONE
    value = f"{100 * found.value:.2f}"
    if brief or found.low is None or found.high is None:
        return value
    return f"{value} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _cost_table(keys: Sequence[str], results: Mapping[str, RowResult]) -> Table:
    headings = (
        "method", "", "input B×C×T×H×W", "epochs", "data", "devices", "time", "peak memory",
        "parameters",
    )  # fmt: skip
    lines = []
    for key in keys:
        cost = results[key].cost
        memory = NONE if cost.peak_mib is None else f"{cost.peak_mib:.0f} MiB"
        lines.append(
            (
                _title("iii", key), "here", cost.input_size, str(cost.epochs), cost.data,
                f"{cost.devices} ({cost.device})", duration(cost.seconds), memory,
                f"{cost.parameters / 1e6:.2f} M",
            )
        )  # fmt: skip
        paper = COST[key]
        lines.append(
            (
                _title("iii", key), "paper", paper.input_size, str(paper.epochs), paper.data,
                f"{paper.gpus} GPU" + ("s" if paper.gpus > 1 else ""), f"≈ {paper.hours:g} h",
                NONE, NONE,
            )
        )  # fmt: skip
    notes = [
        "Time of training with its validation, interrupted tries included. Peak memory: on CUDA "
        "what torch allocated there, on a CPU the resident memory of the process.",
        "Rivals go through the device one volume at a time, gradients summed up to a batch.",
    ]
    heads = [results[key] for key in keys if results[key].cost.feature_seconds]
    if heads:
        seconds = max(result.cost.feature_seconds for result in heads)
        notes.append(
            f"The patient network needs every patient's slice features: {duration(seconds)} more, "
            "once for all heads."
        )
    return Table("iii", TABLE_TITLES["iii"], headings, tuple(lines), tuple(notes))


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
