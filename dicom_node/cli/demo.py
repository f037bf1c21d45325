"""``m3lung demo``: the whole product on one machine, from C-STORE to the pictures."""

from __future__ import annotations

import json as json_text
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dicom_node.cli.demo_folder import DemoFolder, fresh_folder
from dicom_node.cli.demo_phantoms import true_lesions, write_patients
from dicom_node.cli.demo_report import Account, Reading, as_document, in_tables
from dicom_node.cli.terminal import EXIT_FAILED, JsonOption, err, out, print_json, progress_bar
from dicom_node.demo.child import Child, free_port
from dicom_node.demo.following import has_ended, sent_objects, snapshots, timing
from dicom_node.demo.local_node import NODE_AE_TITLE, start_node, write_configuration
from dicom_node.demo.local_pacs import LocalPacs, PacsKind, start_pacs
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.ledger import Ledger, open_ledger
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.series_folder import FoundSeries, find_series
from dicom_node.status_words import in_words

__all__ = ["register"]

_LOOK_S = 0.3


def demo(
    series: Annotated[
        Path | None,
        typer.Option(
            "--series",
            "-s",
            metavar="DIR",
            help="Folder with a chest CT series. Default: two synthetic patients are drawn.",
            show_default=False,
        ),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for everything. An earlier demo is removed.")
    ] = Path("demo-out"),
    pacs: Annotated[
        PacsKind,
        typer.Option(help="Which PACS. [bold]auto[/]: Orthanc when installed, else our own."),
    ] = "auto",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Model bundle. Default: the one that comes along."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for the results.")
    ] = 1800.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave PACS and node running until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """See it work: a series through a node into a PACS, and its results back.

    Starts a PACS and a node on free ports of this machine, sends a chest CT series to both by
    C-STORE as a scanner would, waits until the node has read it and sent its results to the
    PACS, fetches them back by C-FIND and C-GET, compares them with what was sent, and makes
    pictures. Needs nothing else: no root, no Redis, no Docker, no network.

    Example: m3lung demo --series study/ --keep
    """
    signal.signal(signal.SIGTERM, _end)
    with fresh_folder(out_dir) as folder:
        found = _series(series, folder)
        show = _Show(folder, found)
        with ExitStack() as stack:
            try:
                account = show.run(stack, pacs, bundle, timeout)
            except NodeError as error:
                show.fail(error)
            _tell(account, folder, json=json)
            if keep:
                show.linger()
    if account.problem:
        raise typer.Exit(EXIT_FAILED)


class _Show:
    """One demo from start to end.

    Parameters
    ----------
    folder : DemoFolder
    found : list of FoundSeries
        What is sent.
    """

    def __init__(self, folder: DemoFolder, found: list[FoundSeries]) -> None:
        self._folder = folder
        self._found = {item.headers[0].series_instance_uid: item for item in found}
        self._source = {uid: path for item in found for uid, path in item.paths.items()}
        self._children: list[Child] = []
        self._pacs: LocalPacs | None = None

    def run(
        self, stack: ExitStack, kind: PacsKind, bundle: Path | None, timeout_s: float
    ) -> Account:
        """Start PACS and node on `stack`, and do everything."""
        port = free_port()
        pacs = stack.enter_context(start_pacs(kind, self._folder.pacs, NODE_AE_TITLE, port))
        self._pacs = pacs
        self._children.append(pacs.child)
        _say(f"{pacs.name}: {pacs.ae_title} on port {pacs.port}", pacs.url)
        write_configuration(
            self._folder.config,
            state_dir=self._folder.state,
            port=port,
            pacs=pacs,
            bundle=bundle,
        )
        node = stack.enter_context(start_node(self._folder.config, self._folder.log, port))
        self._children.append(node)
        _say(f"node: {NODE_AE_TITLE} on port {port}, answers C-ECHO")
        self._send(pacs, port)
        ledger = stack.enter_context(
            open_ledger(f"sqlite:///{self._folder.state / 'ledger.sqlite3'}")
        )
        return self._fetch(pacs, ledger, self._follow(ledger, timeout_s))

    def fail(self, error: NodeError) -> NoReturn:
        """Say what went wrong and how the logs end."""
        err.print(f"m3lung: {error}", style="red", markup=False, highlight=False)
        if self._folder.log.exists():
            _say_tail(self._folder.log)
        raise typer.Exit(EXIT_FAILED) from error

    def linger(self) -> None:
        """Wait for Ctrl-C, or for one of the programs to end."""
        if self._pacs is None:
            return
        where = self._pacs.url or f"{self._pacs.ae_title} at 127.0.0.1:{self._pacs.port}"
        err.print(f"[bold]{self._pacs.name} and node keep running:[/] {where}", highlight=False)
        err.print(f"Ask the node: m3lung status --config {self._folder.config}", highlight=False)
        err.print("Ctrl-C ends both.")
        try:
            while all(child.pid is not None for child in self._children):
                time.sleep(0.5)
        except KeyboardInterrupt:
            return

    # -- the steps --------------------------------------------------------------------------------

    def _send(self, pacs: LocalPacs, port: int) -> None:
        from dicom_node.demo.sending import send_instances

        instances = {
            header.sop_instance_uid: (header.sop_class_uid, item.paths[header.sop_instance_uid])
            for item in self._found.values()
            for header in item.headers
        }
        for name, ae_title, at in (
            (pacs.name, pacs.ae_title, pacs.port),
            ("the node", NODE_AE_TITLE, port),
        ):
            began = time.monotonic()
            with progress_bar() as bar:
                advance = partial(bar, f"C-STORE to {name}")
                send_instances(instances, ae_title, at, advance)
            _say(f"{len(instances)} images to {name} in {time.monotonic() - began:.1f} s")

    def _follow(self, ledger: Ledger, timeout_s: float) -> list[SeriesStatus]:
        """Show the stages until all series have ended."""
        images = {uid: len(item.headers) for uid, item in self._found.items()}
        deadline = time.monotonic() + timeout_s
        told = ""
        with progress_bar() as bar:
            for statuses in snapshots(ledger, images):
                for child in self._children:
                    child.require_alive()
                for status in _moving(statuses, images):
                    bar(*_stage(status))
                    told = _tell_stage(status, told)
                if time.monotonic() > deadline:
                    words = "; ".join(in_words(status) for status in statuses) or "nothing arrived"
                    raise NodeError(f"not finished after {timeout_s:g} s: {words}")
                time.sleep(_LOOK_S)
        for status in statuses:
            _say(f"{status.description or 'series'}: {in_words(status)}")
        return statuses

    def _fetch(self, pacs: LocalPacs, ledger: Ledger, statuses: list[SeriesStatus]) -> Account:
        from dicom_node.demo import retrieval
        from dicom_node.demo.comparison import compare
        from dicom_node.demo.pictures import write_pictures

        held = [
            series
            for study in dict.fromkeys(status.study_instance_uid for status in statuses)
            for series in retrieval.find_series(pacs, study)
        ]
        results = [item for item in held if item.series_instance_uid not in self._found]
        returned: dict[str, Path] = {}
        with progress_bar() as bar:
            for number, series in enumerate(results, start=1):
                bar("C-GET", number, len(results))
                target = self._folder.from_pacs / f"{number:02d}-{_file_name(series.modality)}"
                files = retrieval.get_series(pacs, series, target)
                returned |= {path.stem: path for path in files}
        _say(f"{len(returned)} objects in {len(results)} series fetched from {pacs.name} by C-GET")
        drawn = self._folder.series
        truth = true_lesions(drawn) if drawn.is_dir() else {}
        readings, pictures = [], []
        for status in statuses:
            comparisons = compare(
                sent_objects(ledger, status.series_id), self._folder.state / "results", returned
            )
            readings.append(Reading(status, timing(ledger, status), comparisons))
            if comparisons:
                target = self._folder.pictures
                if len(statuses) > 1:
                    target /= str(len(readings))
                pictures += write_pictures(comparisons, self._source, target, truth)
        return Account(pacs.name, frozenset(self._found), held, readings, pictures)


def _series(given: Path | None, folder: DemoFolder) -> list[FoundSeries]:
    """Return the series to send: those of the folder given, or of synthetic patients."""
    if given is None:
        given = write_patients(folder.series)
        _say(f"two synthetic patients, one with COVID-19, one healthy, in {given}")
    if not given.exists():
        raise ConfigurationError(f"{given}: no such file or folder")
    found = find_series(given)
    for name, reason in found.unreadable:
        err.print(f"{name}: {reason}", style="yellow", markup=False, highlight=False)
    if not found.series:
        raise ConfigurationError(f"{given} holds no readable DICOM image")
    return found.series


def _moving(statuses: list[SeriesStatus], images: dict[str, int]) -> list[SeriesStatus]:
    """Return the series to show now: the one that is furthest and has not ended."""
    open_ones = [item for item in statuses if not has_ended(item, images[item.series_instance_uid])]
    return sorted(open_ones, key=lambda item: item.analysis_state is None)[:1]


def _stage(status: SeriesStatus) -> tuple[str, int, int]:
    """Return stage, done and total of a series, for the progress bar."""
    if status.analysis_state == "running":
        return f"analyse: {status.stage}", status.done, status.total
    if status.analysis_state == "done":
        states = [delivery.states for delivery in status.deliveries]
        total = sum(sum(counts.values()) for counts in states)
        return "deliver", total - sum(counts.get("waiting", 0) for counts in states), total
    if status.analysis_state is not None:
        return in_words(status), 0, 0
    return status.waiting_for or f"{status.state}: {status.received} images", 0, 0


def _tell_stage(status: SeriesStatus, told: str) -> str:
    """Without a terminal, print each stage once."""
    stage = _stage(status)[0]
    if not err.is_terminal and stage != told:
        _say(stage)
    return stage


def _tell(account: Account, folder: DemoFolder, *, json: bool) -> None:
    document = as_document(account)
    folder.report.write_text(json_text.dumps(document, indent=2), encoding="utf-8")
    if json:
        print_json(document)
    else:
        out.print(in_tables(account))
        out.print()
        for words, path in _places(account, folder):
            out.print(f"{words:<12}{path}", markup=False, highlight=False, soft_wrap=True)
    if account.problem:
        err.print(f"m3lung: {account.problem}", style="red", markup=False, highlight=False)
        _say_tail(folder.log)


def _places(account: Account, folder: DemoFolder) -> list[tuple[str, Any]]:
    return [
        ("pictures", f"{folder.pictures} ({len(account.pictures)})"),
        ("objects", folder.from_pacs),
        ("node.toml", folder.config),
        ("log", folder.log),
        ("report", folder.report),
    ]


def _say_tail(log: Path, lines: int = 15) -> None:
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(text.splitlines()[-lines:])
    err.print(f"The node's log ({log}) ends:", markup=False, highlight=False, soft_wrap=True)
    err.print(tail, style="dim", markup=False, highlight=False, soft_wrap=True)


def _file_name(text: str) -> str:
    return "".join(character for character in text if character.isalnum()) or "unknown"


def _say(words: str, more: str = "") -> None:
    err.print(f"• {words} {more}".rstrip(), markup=False, highlight=False, soft_wrap=True)


def _end(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="Use")(demo)
