"""``m3lung audit``: read the audit trail, and prove that nobody changed it."""

from __future__ import annotations

import json as json_module
from collections import deque
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from dicom_node.audit import Auditor, records
from dicom_node.audit import verify as verify_trail
from dicom_node.audit.message import EventID
from dicom_node.cli.terminal import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    out,
    print_json,
    settings_source,
)
from dicom_node.errors import ConfigurationError

__all__ = ["app", "register"]

app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Read the audit trail (PS3.15 A.5) and prove that nobody changed it.

    Example:  [bold]m3lung audit show --last 50[/]

    [bold]m3lung audit verify[/]  exits 1 and names the first record that does not fit.
    """,
)


@app.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="Records to show, the newest.")] = 20,
    study: Annotated[
        str | None, typer.Option(help="Only of this Study Instance UID, as the PACS has it.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Only of this patient ID, as the PACS has it.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the newest records. That the trail was read is recorded, too.

    Identifiers in the trail are pseudonyms; asked for by --study or --patient they are found.
    """
    auditor = Auditor(settings_source(config)(), "command")
    wanted = []
    if study is not None:
        wanted.append(auditor.identifier_of_study(study))
    if patient is not None:
        wanted.append(auditor.identifier_of_patient(patient))
    found = deque(
        (
            record
            for record in records(auditor.trail.folder)
            if all(identifier in _identifiers(record) for identifier in wanted)
        ),
        maxlen=last,
    )
    auditor.user_did(
        f"audit trail read, {len(found)} records",
        event=EventID.AUDIT_LOG_USED,
        action="R",
        kind=None,
    )
    if json:
        for record in found:
            typer.echo(json_module.dumps(record))
    elif found:
        out.print(_table(found))
    else:
        out.print("There are no such records.")


@app.command()
def verify(
    known: Annotated[
        str | None,
        typer.Option(help="NUMBER:SHA256 as an earlier verify printed it: it has to be in there."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check the whole chain; name the first record that was edited, removed or cut off.

    It ends with the last record's number and hash. Noted elsewhere and given to --known another
    day, they show even a trail that was written anew.
    """
    auditor = Auditor(settings_source(config)(), "command")
    verdict = verify_trail(auditor.trail, known=_noted(known))
    end = f"{verdict.seq}:{verdict.sha256}"
    if json:
        print_json(
            {"ok": verdict.ok, "records": verdict.count, "words": verdict.words,
             "place": verdict.place, "end": end}
        )  # fmt: skip
    elif verdict.ok:
        out.print(f"{verdict.words}\nend {end}", highlight=False, soft_wrap=True)
    else:
        out.print(
            f"[bold red]broken[/] at {verdict.place or 'the head'}: {verdict.words}",
            highlight=False,
            soft_wrap=True,
        )
    if not verdict.ok:
        raise typer.Exit(EXIT_FAILED)


def _noted(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    number, _, sha256 = text.partition(":")
    if not number.isdigit() or len(sha256) != 64:
        raise ConfigurationError("known: NUMBER:SHA256 as 'm3lung audit verify' prints it")
    return int(number), sha256.lower()


def _identifiers(record: dict[str, Any]) -> list[str]:
    objects = record.get("ParticipantObjectIdentification", [])
    return [str(one.get("ParticipantObjectID", "")) for one in objects]


def _table(found: deque[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("number", "time", "event", "who", "outcome", "about"):
        table.add_column(heading, overflow="fold")
    for record in found:
        event = record.get("EventIdentification", {})
        names = [event.get("EventID", {}).get("originalText", "the trail itself")]
        names += [kind.get("originalText", "") for kind in event.get("EventTypeCode", [])]
        words = event.get("EventOutcomeDescription") or record.get("AuditTrailRepair") or ""
        outcome = "ok" if event.get("EventOutcomeIndicator", "0") == "0" else "FAILED"
        who = [
            f"{one.get('UserID')} {one.get('NetworkAccessPointID', '')}"
            for one in record.get("ActiveParticipant", [])
            if one.get("UserIsRequestor")
        ]
        about = [words, *_identifiers(record)]
        cells = (
            str(record.get("seq", "?")),
            str(event.get("EventDateTime", ""))[:19],
            ", ".join(names),
            ", ".join(who),
            outcome,
            " ".join(filter(None, about)),
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="audit")
