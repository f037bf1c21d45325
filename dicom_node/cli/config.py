"""``m3lung config``: the versions of node.toml, what is between them, and one brought back."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dicom_node.audit import Auditor
from dicom_node.audit.message import EventType, person_name
from dicom_node.cli.terminal import ConfigOption, JsonOption, out, print_json
from dicom_node.configuration import (
    Change,
    ConfigurationDocument,
    Difference,
    History,
    Version,
    difference,
    masked,
)
from dicom_node.errors import ConfigurationError
from dicom_node.settings import find_config, load_settings

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="The versions of node.toml: who changed what, what is between two, and one brought back. "
    "Secrets are never shown.",
)

_AS_IT_STANDS = 0  # in place of a version's number
_STATE_DIR = re.compile(r"""(?m)^\s*state_dir\s*=\s*["']([^"'\n]+)["']""")
_SIGNS = {"same": ("  ", ""), "gone": ("- ", "red"), "new": ("+ ", "green"), "gap": ("…", "dim")}

Old = Annotated[
    int | None, typer.Argument(min=0, help="Number of a version. Default: the one before.")
]
New = Annotated[int, typer.Argument(min=0, help="Number of another; 0: node.toml as it stands.")]
Shown = Annotated[int, typer.Argument(min=0, help="Number of a version; 0: node.toml as it is.")]


@app.command("history")
def show_history(
    last: Annotated[int, typer.Option(min=1, help="Versions to list.")] = 20,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the versions, the newest first. Example: [bold]m3lung config history[/]."""
    versions = _history(_document(config)).versions()[:last]
    if json:
        print_json(
            [
                {"number": item.number, "at": item.at, "author": item.change.author,
                 "verb": item.change.verb, "words": item.change.words, "path": str(item.path)}
                for item in versions
            ]
        )  # fmt: skip
        return
    if not versions:
        out.print("No version is kept yet: the first change by a verb or the console keeps one.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("no.", "when", "who", "by", "what"):
        table.add_column(heading, overflow="fold")
    for item in versions:
        change = item.change
        table.add_row(str(item.number), _when(item), Text(change.author or "-"),
                      Text(change.verb), Text(change.words))  # fmt: skip
    out.print(table)


@app.command()
def show(number: Shown = _AS_IT_STANDS, config: ConfigOption = None) -> None:
    """Print a version, its secrets masked. Example: [bold]m3lung config show 12[/]."""
    typer.echo(masked(_text(_document(config), number)), nl=False)


@app.command()
def diff(old: Old = None, new: New = _AS_IT_STANDS, config: ConfigOption = None) -> None:
    """Show in what two versions differ. Example: [bold]m3lung config diff 11 12[/].

    With one number, or none: what was changed since that version, or since the one before.
    """
    document = _document(config)
    if old is None:
        old = _one_before(document).number
    _print(difference(_text(document, old), _text(document, new)))


@app.command()
def rollback(
    number: Annotated[
        int | None, typer.Argument(min=1, help="Number of a version. Default: the one before.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Bring a version back, as a new one. Example: [bold]m3lung config rollback 11[/].

    It shows what would change, and asks. It works also where node.toml does not load any more.
    """
    document = _document(config)
    version = _one_before(document) if number is None else _version(document, number)
    seen = document.digest()
    found = difference(document.text(), _text(document, version.number))
    if not found.lines:
        out.print(f"Version {version.number} is what stands there already.")
        return
    _print(found)
    if not yes:
        typer.confirm(f"Bring version {version.number} back?", abort=True)
    words = f"configuration: version {version.number} restored"
    document.restore(version, Change(person_name(), "m3lung config rollback", words), seen=seen)
    Auditor(load_settings(document.path), "command").user_did(
        words, action="U", kind=EventType.NETWORK_CONFIGURATION
    )
    out.print(f"Version {version.number} is in force again.")


def _document(config: Path | None) -> ConfigurationDocument:
    path = find_config(config)
    if path is None:
        raise ConfigurationError("there is no configuration document; name one with --config")
    return ConfigurationDocument(path)


def _history(document: ConfigurationDocument) -> History:
    try:
        return History(load_settings(document.path).root)
    except ConfigurationError:
        # Where it does not load, rolling back is what is wanted: what it says of the place counts.
        named = os.environ.get("M3LUNG_STATE_DIR", "")
        stated = _STATE_DIR.search(document.text())
        folder = Path(named or (stated[1] if stated else "")).expanduser()
        if not (named or stated):
            raise
        return History(document.path.absolute().parent / folder)


def _version(document: ConfigurationDocument, number: int) -> Version:
    version = _history(document).version(number)
    if version is None:
        raise ConfigurationError(f"version {number} is not kept: see m3lung config history")
    return version


def _one_before(document: ConfigurationDocument) -> Version:
    """Return the newest version whose text is not what stands there now."""
    now = document.text()
    for version in _history(document).versions():
        if _read(version) != now:
            return version
    raise ConfigurationError("no other version is kept")


def _text(document: ConfigurationDocument, number: int) -> str:
    return document.text() if number == _AS_IT_STANDS else _read(_version(document, number))


def _read(version: Version) -> str:
    try:
        return version.text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"version {version.number} cannot be read") from error


def _print(found: Difference) -> None:
    if not found.lines:
        out.print("There is no difference.")
    for line in found.lines:
        sign, style = _SIGNS[line.kind]
        out.print(Text(f"{sign}{line.text}", style), soft_wrap=True)


def _when(version: Version) -> str:
    if version.at is None:
        return "-"
    return f"{datetime.fromtimestamp(version.at, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="config")
