"""What the demo prints at its end, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from dicom_node.demo.comparison import Comparison
from dicom_node.demo.following import Timing
from dicom_node.demo.retrieval import FoundSeries
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.status_words import in_words

__all__ = ["Account", "Reading", "as_document", "in_tables"]

_OK_DELIVERIES = {"sent", "commit_requested", "committed", "verified"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one series that was sent.

    Attributes
    ----------
    status : SeriesStatus
    timing : Timing
    comparisons : list of Comparison
        One per object that the ledger calls sent; empty for a series that was not analysed.
    """

    status: SeriesStatus
    timing: Timing
    comparisons: list[Comparison]

    @property
    def is_analysed(self) -> bool:
        """Whether there is a result."""
        return self.status.analysis_state == "done"

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        if not self.is_analysed:
            return ""
        if not self.comparisons or any(
            state not in _OK_DELIVERIES
            for delivery in self.status.deliveries
            for state in delivery.states
        ):
            return f"not everything was sent: {in_words(self.status)}"
        broken = [item for item in self.comparisons if not item.is_whole]
        if broken:
            first = f"{broken[0].sent.kind}: {'; '.join(broken[0].differences[:3])}"
            return (
                f"{len(broken)} of {len(self.comparisons)} objects did not come back whole, {first}"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Account:
    """The whole demo.

    Attributes
    ----------
    pacs : str
        Which one.
    sources : frozenset of str
        SeriesInstanceUIDs that were sent.
    held : list of FoundSeries
        What the PACS lists.
    readings : list of Reading
    pictures : list of Path
    """

    pacs: str
    sources: frozenset[str]
    held: list[FoundSeries]
    readings: list[Reading]
    pictures: list[Path] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """Why the demo failed; empty if it did not."""
        for reading in self.readings:
            if reading.problem:
                return reading.problem
        if not any(reading.is_analysed for reading in self.readings):
            words = "; ".join(in_words(reading.status) for reading in self.readings)
            return f"no series was analysed: {words}"
        return ""


def in_tables(account: Account) -> Group:
    """Return the tables of the demo."""
    parts: list[Any] = [f"[bold]What the {account.pacs} holds now[/]", _objects_table(account)]
    for reading in account.readings:
        parts += ["", _reading_table(reading)]
    return Group(*parts)


def _objects_table(account: Account) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("series", no_wrap=True, max_width=21)
    table.add_column("modality", no_wrap=True)
    table.add_column("SOP class", no_wrap=True)
    for heading in ("came back", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    compared = [item for reading in account.readings for item in reading.comparisons]
    for series in account.held:
        own = [
            item for item in compared if item.sent.series_instance_uid == series.series_instance_uid
        ]
        if series.series_instance_uid in account.sources:
            images = "" if series.instances is None else f"{series.instances} images"
            table.add_row(escape(series.description), series.modality, "[dim]the source[/]", images)
            continue
        classes = dict.fromkeys(UID(item.sent.sop_class_uid).name for item in own)
        whole = sum(item.is_whole for item in own)
        style = "green" if own and whole == len(own) else "bold red"
        table.add_row(
            escape(series.description.partition(":")[0]),  # the banner stands behind it
            series.modality,
            ", ".join(name.removesuffix(" Storage") for name in classes),
            f"[{style}]{whole} of {len(own)}[/]",
            _size(own),
        )
    return table


def _reading_table(reading: Reading) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    status = reading.status
    table.add_row("series", escape(status.description or status.series_instance_uid))
    if status.result is None:
        table.add_row("reading", f"[yellow]{escape(in_words(status))}[/]")
    else:
        for name, words in _reading_rows(status.result):
            table.add_row(name, words)
    table.add_row("time", _times(reading.timing))
    return table


def _reading_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    patient = result.get("patient")
    if patient:
        ranked = sorted(patient["probabilities"].items(), key=lambda pair: -pair[1])
        rows.append(("reading", f"[bold]{patient['predicted']}[/]"))
        rows.append(("", ", ".join(f"{name} {value:.3f}" for name, value in ranked)))
    other = result.get("nonparametric")
    if other:
        rows.append(("by slice count", str(other["predicted"])))
    percent = (result.get("lesion") or {}).get("percent_of_lung")
    if percent is not None:
        rows.append(("lesion", f"{percent:.1f} % of lung"))
    model = result["model"]
    rows.append(("model", f"{escape(model['name'])} {escape(model['version'])}"))
    if not model["trained"]:
        rows.append(("", "[bold yellow]UNTRAINED: the reading means nothing[/]"))
    return rows


def _times(timing: Timing) -> str:
    return ", ".join(
        f"{name} {seconds:.1f} s"
        for name, seconds in dataclasses.asdict(timing).items()
        if seconds is not None
    )


def _size(items: Sequence[Comparison]) -> str:
    size = sum(item.path.stat().st_size for item in items if item.path is not None)
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def as_document(account: Account) -> dict[str, Any]:
    """Return the demo as JSON: for scripts, and for ``demo.json``."""
    return {
        "ok": not account.problem,
        "problem": account.problem,
        "pacs": account.pacs,
        "series_in_pacs": [dataclasses.asdict(series) for series in account.held],
        "readings": [
            {
                "series_instance_uid": reading.status.series_instance_uid,
                "words": in_words(reading.status),
                "timing_s": dataclasses.asdict(reading.timing),
                "result": reading.status.result,
                "objects": [
                    {
                        "kind": item.sent.kind,
                        "sop_class_uid": item.sent.sop_class_uid,
                        "sop_instance_uid": item.sent.sop_instance_uid,
                        "path": None if item.path is None else str(item.path),
                        "differences": list(item.differences),
                    }
                    for item in reading.comparisons
                ],
            }
            for reading in account.readings
        ],
        "pictures": [str(path) for path in account.pictures],
    }
