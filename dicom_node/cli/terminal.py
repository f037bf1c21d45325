"""What all verbs share on the terminal: consoles, common options, progress bars, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.logs import configure
from dicom_node.settings import NodeSettings, SettingsSource

__all__ = [
    "EXIT_FAILED",
    "EXIT_UNHEALTHY",
    "EXIT_USAGE",
    "ConfigOption",
    "JsonOption",
    "complain",
    "err",
    "json_text",
    "out",
    "print_json",
    "progress_bar",
    "settings_source",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNHEALTHY = 3

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration document. Default: $M3LUNG_CONFIG, ./node.toml, "
        "~/.config/m3lung/node.toml, else built-in defaults.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def settings_source(config: Path | None) -> SettingsSource:
    """Read the configuration and set the logs up as it says."""
    source = SettingsSource(config)
    settings: NodeSettings = source()
    configure(settings.log_level)
    return source


def complain(words: object) -> None:
    """Say in one line of stderr what went wrong."""
    err.print(f"m3lung: {words}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print `document` as JSON, undecorated."""
    typer.echo(json_text(document))


def json_text(document: Any) -> str:
    """Return `document` as JSON for people and scripts."""
    return json.dumps(document, indent=2, ensure_ascii=False)


class StageProgress(Protocol):
    """Called with (stage, done, total)."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[StageProgress]:
    """Show a bar per stage on stderr; nothing when `quiet` or not on a terminal."""
    if quiet or not err.is_terminal:
        yield lambda stage, done, total: None
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[stage] = bar.add_task(stage, total=total or None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield advance
