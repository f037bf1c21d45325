"""The study written out: tables.json, tables.md and tables.html."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import torch

from inference.domain import DiseaseClass
from training.ablation.figures import RowFigures, measure_rows
from training.ablation.published import COST, FIGURES
from training.ablation.row_result import RowResult
from training.ablation.rows import TABLES, TableName
from training.ablation.settings import AblationSettings
from training.ablation.tables import Table, duration, make_table
from training.cohort.cache import CohortCache
from training.durable import write_durably
from training.evaluation.bootstrap import REPLICATES

__all__ = ["write_tables"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr.paper { color: #777; font-style: italic; }
p.note { color: #555; margin: .2rem 0; }
div.wide { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #161616; color: #ddd; } th, td { border-color: #333; }
  tr.paper, p.note { color: #999; }
}
"""


def write_tables(
    out: Path,
    tables: Sequence[TableName],
    results: Mapping[str, RowResult],
    cache: CohortCache,
    settings: AblationSettings,
    *,
    replicates: int = REPLICATES,
) -> tuple[Table, ...]:
    """Write the tables of finished rows into `out`.

    Parameters
    ----------
    out : Path
        ``tables.md``, ``tables.html`` and ``tables.json`` are replaced.
    tables : sequence of "ii", "iii", "iv", "v"
    results : mapping of row keys to RowResult
    cache : CohortCache
    settings : AblationSettings
    replicates : int
        Of the bootstrap.
    """
    made: list[Table] = []
    measured: dict[TableName, dict[str, RowFigures]] = {}
    for name in tables:
        chosen = {key: results[key] for key in TABLES[name] if key in results}
        if not chosen:
            continue
        # The paper compares each table's rows with its best: Table IV's is no extra reading.
        reference = {"v": "slices-coordinates"}.get(name, "head-refined")
        measured[name] = measure_rows(chosen, reference, replicates=replicates)
        made.append(make_table(name, chosen, measured[name]))
    words = what_was_run(results, cache, settings, replicates)
    write_durably(out / "tables.md", _markdown(made, words).encode())
    write_durably(out / "tables.html", _html(made, words).encode())
    document = _document(made, measured, results, cache, settings, words)
    write_durably(out / "tables.json", json.dumps(document, indent=1, ensure_ascii=False).encode())
    return tuple(made)


def what_was_run(
    results: Mapping[str, RowResult],
    cache: CohortCache,
    settings: AblationSettings,
    replicates: int,
) -> list[str]:
    """State what the tables are made from, and how far that is from the paper's work."""
    words = []
    for part in ("train", "validation", "test"):
        patients = [patient for patient in cache.patients if patient.split == part]
        by_class = ", ".join(
            f"{sum(p.label == disease for p in patients)} {disease.label}"
            for disease in DiseaseClass
        )
        slices = sum(patient.count for patient in patients)
        words.append(f"{part}: {len(patients)} patients ({by_class}), {slices} slices with lung")
    words.append(f"cohort {cache.cohort_digest}, crops of {cache.size} × {cache.size}")
    scale = ", ".join(f"{name} {value}" for name, value in asdict(settings).items())
    words.append(f"settings (0: the paper's): {scale}")
    for result in results.values():
        cost = result.cost
        words.append(
            f"{result.key}: {cost.epochs} epochs at {cost.input_size} on {cost.data}, "
            f"{duration(cost.seconds)}, read in {duration(cost.read_seconds)}"
        )
    seconds = sum(r.cost.seconds + r.cost.read_seconds for r in results.values())
    seconds += max((r.cost.feature_seconds for r in results.values()), default=0.0)
    devices = sorted({result.cost.device for result in results.values()})
    words.append(
        f"{duration(seconds)} in all; {', '.join(devices)}; torch {torch.__version__}; bootstrap "
        f"of {replicates}"
    )
    return words


def _markdown(tables: Iterable[Table], words: Iterable[str]) -> str:
    parts = ["# Ablation\n", "## What was run\n", *(f"- {line}" for line in words), ""]
    for table in tables:
        parts += [
            f"## {table.title}\n",
            _bar(table.headings),
            _bar(["---"] * len(table.headings)),
            *(_bar(line) for line in table.lines),
            "",
            *(f"{note}  " for note in table.notes),
            "",
        ]
    return "\n".join(parts)


def _bar(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html(tables: Iterable[Table], words: Iterable[str]) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>Ablation</title>",
        f"<style>{STYLE}</style><h1>Ablation</h1>",
    ]
    for table in tables:
        head = "".join(f"<th>{escape(heading)}</th>" for heading in table.headings)
        body = "".join(
            f"<tr class='{escape(line[1])}'>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in line)
            + "</tr>"
            for line in table.lines
        )
        parts.append(
            f"<h2>{escape(table.title)}</h2><div class='wide'><table><tr>{head}</tr>{body}</table>"
            "</div>"
        )
        parts += [f"<p class='note'>{escape(note)}</p>" for note in table.notes]
    parts.append("<h2>What was run</h2><ul>")
    parts += [f"<li>{escape(line)}</li>" for line in words]
    parts.append("</ul></html>")
    return "\n".join(parts)


def _document(
    tables: Iterable[Table],
    measured: Mapping[TableName, Mapping[str, RowFigures]],
    results: Mapping[str, RowResult],
    cache: CohortCache,
    settings: AblationSettings,
    words: Sequence[str],
) -> dict[str, Any]:
    return {
        "format_version": 1,
        "what_was_run": list(words),
        "settings": asdict(settings),
        "cohort_sha256": cache.cohort_digest,
        "cache_sha256": cache.digest,
        "tables": {
            table.name: {
                **asdict(table),
                "rows": {
                    key: {
                        "figures": {n: asdict(f) for n, f in found.figures.items()},
                        "p_accuracy": found.p_accuracy,
                        "paper_percent": dict(FIGURES[key]) if key in FIGURES else None,
                    }
                    for key, found in measured[table.name].items()  # type: ignore[index]
                },
            }
            for table in tables
        },
        "costs": {
            key: {
                "here": result.cost.model_dump(mode="json"),
                "paper": asdict(COST[key]) if key in COST else None,
            }
            for key, result in results.items()
        },
        "recipes": {key: result.recipe for key, result in results.items()},
    }
