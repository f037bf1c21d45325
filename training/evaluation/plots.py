"""Plots of an evaluation as SVG: light ground, colour-blind-safe, nothing that says nothing.

Colours are those of Okabe and Ito ("Color Universal Design", 2008); lines differ in dash as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.evaluation.calibration import reliability
from training.evaluation.metrics import auc, roc_curve
from training.evaluation.predictions import Prediction
from training.evaluation.slice_table import SliceTable

__all__ = [
    "bland_altman_plot",
    "confusion_plot",
    "distribution_plot",
    "reliability_plot",
    "roc_plot",
]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_DASHES = ("solid", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
_GREY = "#8a9096"
_INK = "#22272b"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "m3lung",  # the same figures give the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "text.color": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

Curves = Sequence[tuple[str, NDArray[np.bool_], NDArray[np.floating]]]


def roc_plot(predictions: Sequence[Prediction], table: SliceTable) -> str:
    """ROC curves of patients and, where slice labels are known, of slices."""
    labels = np.array([int(p.label) for p in predictions])
    scores = np.stack([p.probabilities for p in predictions])
    panels: list[tuple[str, Curves]] = [
        ("Patients, one class against the rest", _one_against_rest(labels, scores))
    ]
    if len(table.truth):
        keep = table.as_trained()
        if keep.any():
            curves = _one_against_rest(table.disease[keep], table.probabilities[keep])
            panels.append(("Slices, one class against the rest", curves))
        panels.append(("Slices, lesion head", [("Lesion", table.truth == 1, table.lesion)]))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
        for axes, (title, curves) in zip(_row(figure, len(panels)), panels, strict=True):
            _draw_roc(axes, title, curves)
        return _svg(figure)


def confusion_plot(tables: Sequence[tuple[str, Sequence[Sequence[int]]]]) -> str:
    """Confusion matrices side by side, shaded by the share of the true class."""
    names = [disease.label for disease in DiseaseClass]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * len(tables), 3.3), layout="constrained")
        for axes, (title, table) in zip(_row(figure, len(tables)), tables, strict=True):
            counts = np.array(table, dtype=float)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            for (row, column), count in np.ndenumerate(counts):
                dark = shares[row, column] > 0.55
                colour = "white" if dark else _INK if count else _GREY
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
            axes.set(title=title, xlabel="predicted", ylabel="true")
            axes.set_xticks(range(4), names, rotation=30, ha="right")
            axes.set_yticks(range(4), names)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        return _svg(figure)


def reliability_plot(
    panels: Sequence[tuple[str, NDArray[np.integer], NDArray[np.floating]]],
) -> str:
    """How often the largest probability was right; the area of a mark is its share of cases."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
        for axes, (title, labels, probabilities) in zip(
            _row(figure, len(panels)), panels, strict=True
        ):
            table = reliability(labels, probabilities)
            filled = table.count > 0
            axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.plot(
                table.confidence[filled], table.accuracy[filled], color=_COLOURS[0], linewidth=1
            )
            size = 12 + 220 * table.count[filled] / table.count.sum()
            axes.scatter(
                table.confidence[filled], table.accuracy[filled], s=size, color=_COLOURS[0],
                alpha=0.8, linewidth=0, clip_on=False,
            )  # fmt: skip
            axes.set(title=title, xlabel="probability given", ylabel="share that was right")
            _unit_square(axes)
        return _svg(figure)


def bland_altman_plot(predictions: Sequence[Prediction]) -> str | None:
    """Estimated minus true percentage of lung over their mean; None without truth."""
    known = [
        p for p in predictions if p.percent_of_lung is not None and p.severity_percent is not None
    ]
    if not known:
        return None
    estimate = np.array([p.percent_of_lung for p in known], dtype=float)
    truth = np.array([p.severity_percent for p in known], dtype=float)
    difference = estimate - truth
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(known) > 1 else 0.0
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for disease in DiseaseClass:
            mine = np.array([p.label is disease for p in known])
            if mine.any():
                axes.scatter(
                    ((estimate + truth) / 2)[mine], difference[mine], s=16, linewidth=0,
                    color=_COLOURS[disease], marker="osD^"[disease], label=disease.label,
                )  # fmt: skip
        for value, words in (
            (bias, f"bias {bias:+.1f}"),
            (bias - reach, f"{bias - reach:+.1f}"),
            (bias + reach, f"{bias + reach:+.1f}"),
        ):
            axes.axhline(value, color=_GREY, linewidth=0.9, linestyle=(0, (4, 2)))
            axes.annotate(
                words, (1, value), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", va="center", color=_INK,
            )  # fmt: skip
        axes.set(
            xlabel="mean of estimated and true, % of lung", ylabel="estimated − true, % of lung"
        )
        axes.legend(loc="best", fontsize=8)
        return _svg(figure)


def distribution_plot(predictions: Sequence[Prediction]) -> str:
    """Mean coronal distribution of lesion, by true and by predicted class."""
    groups: tuple[tuple[str, Callable[[Prediction], DiseaseClass]], ...] = (
        ("true", lambda p: p.label),
        ("predicted", lambda p: p.predicted),
    )
    means = [
        [_mean_map([p for p in predictions if of(p) is disease]) for disease in DiseaseClass]
        for _, of in groups
    ]
    most = max((float(m.max()) for row in means for m, _ in row if m is not None), default=0.0)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 4.3), layout="constrained")
        grid = figure.subplots(2, 4)
        for axes_row, means_row, (word, _) in zip(grid, means, groups, strict=True):
            for axes, (mean, count), disease in zip(axes_row, means_row, DiseaseClass, strict=True):
                axes.set_title(f"{word} {disease.label}, {count}", fontsize=9)
                axes.set_xticks([4, 59], ["R", "L"])
                axes.set_yticks([])
                axes.tick_params(length=0)
                axes.spines[:].set_visible(False)
                empty = np.zeros((64, 64))
                drawn = axes.imshow(
                    empty if mean is None else mean, cmap="cividis", vmin=0, vmax=max(most, 1e-3)
                )
                if mean is None:
                    axes.text(32, 32, "none", color="white", ha="center", va="center")
        bar = figure.colorbar(drawn, ax=grid, shrink=0.7, format=lambda v, _: f"{100 * v:.0f} %")
        bar.outline.set_visible(False)
        bar.set_label("share of lung above threshold")
        return _svg(figure)


def _mean_map(predictions: list[Prediction]) -> tuple[NDArray[np.float32] | None, int]:
    if not predictions:
        return None, 0
    return np.mean([p.distribution for p in predictions], axis=0), len(predictions)


def _one_against_rest(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> Curves:
    return [(d.label, labels == int(d), scores[:, int(d)]) for d in DiseaseClass]


def _draw_roc(axes: Axes, title: str, curves: Curves) -> None:
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    for number, (name, positive, scores) in enumerate(curves):
        area = auc(positive, scores)
        if np.isnan(area):
            continue
        false, true, _ = roc_curve(positive, scores)
        axes.plot(
            false, true, color=_COLOURS[number], linestyle=_DASHES[number],
            label=f"{name} {area:.3f}", clip_on=False,
        )  # fmt: skip
    axes.set(title=title, xlabel="1 − specificity", ylabel="sensitivity")
    if len(axes.lines) > 1:
        axes.legend(loc="lower right", title="AUC", fontsize=8, title_fontsize=8, alignment="left")
    _unit_square(axes)


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _row(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :]
