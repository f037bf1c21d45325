"""``m3lung analyze``: the whole case without a network, DICOM folder in, DICOM results out."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dicom_node import __version__
from dicom_node.cli.terminal import (
    EXIT_FAILED,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    complain,
    err,
    out,
    print_json,
    progress_bar,
    settings_source,
)
from dicom_node.domain import Disposition
from dicom_node.errors import SeriesRejected, SeriesSkipped
from dicom_node.header import InstanceHeader
from dicom_node.results.result_json import ResultDocument
from dicom_node.selection import FrameGeometry, SelectedStack, read_frames, select_stack
from dicom_node.series_folder import FoundSeries, find_series
from dicom_node.settings import NodeSettings

__all__ = ["register"]


def analyze(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder (or file) with DICOM images.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Model bundle. Default: the configured one."),
    ] = None,
    slice_level: Annotated[
        bool,
        typer.Option("--slice-level", help="Read a single slice or a few: no patient reading."),
    ] = False,
    figure: Annotated[
        bool,
        typer.Option("--figure", help="Draw every fifth slice with its map: OUT/figure.png."),
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Read the chest CT series in DIR and write OUT/result.json and the DICOM objects.

    With several series in DIR each gets OUT/1, OUT/2, … and OUT/index.json lists them, and the
    files that could not be read.

    Example: m3lung analyze study/ --out reading/
    """
    settings = settings_source(config)()
    if not folder.exists():
        _usage(f"{folder}: no such file or folder")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        _usage(f"{out_dir} is not empty: results go into a folder of their own")
    found = find_series(folder)
    for name, reason in found.unreadable:
        err.print(
            f"{name}: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    if not found.series:
        words = "holds no DICOM image" if not found.unreadable else "holds no readable DICOM image"
        complain(f"{folder} {words}")
        raise typer.Exit(EXIT_FAILED)
    documents = []
    with _Reader(settings, bundle, slice_level, figure=figure) as reader:
        for number, series in enumerate(found.series, start=1):
            target = out_dir if len(found.series) == 1 else out_dir / str(number)
            documents.append((target, reader.read(series, target)))
    if len(documents) > 1 or found.unreadable:
        _write_index(out_dir, documents, found.unreadable)
    if json:
        print_json([document for _, document in documents])
    else:
        out.print(_table(documents))
    if all(document["disposition"] != Disposition.ANALYZED for _, document in documents):
        raise typer.Exit(EXIT_FAILED)


class _Reader:
    """Reads series after series with one loaded model and one set of decoders."""

    def __init__(
        self,
        settings: NodeSettings,
        bundle: Path | None,
        slice_level: bool,
        *,
        figure: bool = False,
    ) -> None:
        self._settings = settings
        self._bundle = bundle
        self._slice_level = slice_level
        self._figure = figure
        self._analyzer: Any = None
        self._pixels: Any = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pixels is not None:
            self._pixels.close()

    def read(self, series: FoundSeries, target: Path) -> dict[str, Any]:
        """Return result.json of one series, written under `target`."""
        from dicom_node.results.result_json import not_analyzed, write_document
        from inference.errors import NotAChestCt, SeriesError

        def set_aside(disposition: Disposition, reason: str) -> ResultDocument:
            return not_analyzed(
                disposition,
                reason,
                software_version=__version__,
                series_instance_uid=series.headers[0].series_instance_uid,
            )

        target.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            document = self._analyse(series, self._select(series), target, began)
        except (SeriesSkipped, NotAChestCt) as error:
            document = set_aside(Disposition.SKIPPED, error.reason)
        except (SeriesRejected, SeriesError) as error:
            document = set_aside(Disposition.REJECTED, error.reason)
        write_document(document, target / "result.json")
        written: dict[str, Any] = document.model_dump(mode="json")
        return written

    def _select(self, series: FoundSeries) -> SelectedStack:
        def frames(header: InstanceHeader) -> Sequence[FrameGeometry]:
            return read_frames(series.paths[header.sop_instance_uid])

        return select_stack(
            series.headers, self._settings.selection, frames, slice_level=self._slice_level
        )

    def _analyse(
        self, series: FoundSeries, stack: SelectedStack, target: Path, began: float
    ) -> ResultDocument:
        from dicom_node.results.context import Completeness, ResultContext
        from dicom_node.results.dicom_file import write_atomically
        from dicom_node.results.figure import paint_figure, png
        from dicom_node.results.result_json import analyzed
        from dicom_node.results.result_set import ResultSet
        from dicom_node.worker.assignment import configuration_digest
        from dicom_node.worker.decoders import start_decoders
        from dicom_node.worker.model import load_analyzer
        from dicom_node.worker.pipeline import read_series
        from inference.volume import load_volume

        context = ResultContext(
            instance_set_digest=series.set_digest,
            configuration_digest=configuration_digest(self._settings),
            analysis_started_at=dt.datetime.now(dt.UTC),
            completeness=Completeness(
                reason="the images of a folder were read; whether they are all is not known",
                instance_count=len(series.headers),
            ),
            software_version=__version__,
            ae_title=self._settings.ae_title,
            statements=tuple(stack.statements),
        )
        with progress_bar() as progress:
            if self._analyzer is None:
                progress("model", 0, 0)
                self._pixels = self._pixels or start_decoders(self._settings)
                self._analyzer = load_analyzer(self._settings, self._bundle)
            paths = [series.paths[uid] for uid in stack.sop_instance_uids]
            chosen = {series.paths[uid]: numbers for uid, numbers in stack.frames.items()}
            reading = read_series(
                paths,
                self._analyzer,
                self._pixels,
                target,
                self._settings.results,
                context,
                frames=chosen,
                progress=progress,
                slice_level=self._slice_level,
            )
            if self._figure:
                progress("figure", 0, 1)
                # The pipeline keeps no pixels.
                volume = load_volume(paths, frames=chosen, pixels=self._pixels)
                results = ResultSet(
                    reading.source, reading.findings.model, context, self._settings.results
                )
                picture = png(paint_figure(reading.findings, volume, results))
                write_atomically(target / "figure.png", picture)
        return analyzed(
            reading.findings,
            reading.source,
            context,
            reading.objects,
            banner=self._settings.results.banner,
            timing_s={**reading.findings.timing_s, "total": time.monotonic() - began},
        )


def _write_index(
    out_dir: Path,
    documents: Sequence[tuple[Path, dict[str, Any]]],
    unreadable: Sequence[tuple[str, str]],
) -> None:
    """List every series with its result, and every file that is in none with the reason."""
    series = [
        {
            "path": str((target / "result.json").relative_to(out_dir)),
            "series_instance_uid": document["series"]["series_instance_uid"],
            "disposition": document["disposition"],
            "reason": document["reason"],
        }
        for target, document in documents
    ]
    index = {
        "series": series,
        "unreadable": [{"file": name, "reason": reason} for name, reason in unreadable],
    }
    (out_dir / "index.json").write_text(dumps(index, indent=2), encoding="utf-8")


def _table(documents: Sequence[tuple[Path, dict[str, Any]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("result", "disposition", "reading", "objects"):
        table.add_column(heading, overflow="fold")
    for target, document in documents:
        table.add_row(
            str(target / "result.json"),
            document["disposition"],
            _reading_in_words(document),
            str(len(document["objects"])),
        )
    return table


def _reading_in_words(document: dict[str, Any]) -> str:
    if document["disposition"] != Disposition.ANALYZED:
        return str(document["reason"])
    words = []
    patient = document["patient"]
    if patient is not None:
        best = patient["probabilities"][patient["predicted"]]
        words.append(f"{patient['predicted']} {best:.2f}")
    else:
        words.append(f"{len(document['slices'])} slices read, no patient reading")
    percent = document["lesion"]["percent_of_lung"]
    if percent is not None:
        words.append(f"{percent:.1f} % of lung")
    if not document["model"]["trained"]:
        words.append("UNTRAINED model: means nothing")
    return ", ".join(words)


def _usage(words: str) -> None:
    complain(words)
    raise typer.Exit(EXIT_USAGE)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="Use")(analyze)
