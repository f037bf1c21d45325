"""``m3lung status | retry | purge``: where is my study, try again, tidy up."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dicom_node.audit import Auditor
from dicom_node.audit.message import EventID
from dicom_node.cli.terminal import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    err,
    json_text,
    out,
    settings_source,
)
from dicom_node.completion import ClosingReason
from dicom_node.errors import ConfigurationError
from dicom_node.ledger import Ledger
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import DEFAULT_RULE, NodeSettings
from dicom_node.status_words import Moment, in_words, right_now

__all__ = ["answer_status", "register"]

AccessionOption = Annotated[str | None, typer.Option("--accession", "-a", help="Accession number.")]
PatientOption = Annotated[str | None, typer.Option("--patient", "-p", help="Patient ID.")]
UidOption = Annotated[
    str | None, typer.Option("--uid", "-u", help="Study, series or SOP instance UID.")
]


def status(
    accession: AccessionOption = None,
    patient: PatientOption = None,
    uid: UidOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Series to show.")] = 20,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Where is my study? Without a question: the series that arrived last.

    Example: m3lung status --accession 4711
    """
    with _ledger(config) as ledger:
        asked = {"accession": accession, "patient": patient, "uid": uid, "limit": limit}
        code = _tell(ledger, settings_source(config)(), {**asked, "json": json}, out)
    if code:
        raise typer.Exit(code)


def answer_status(
    ledger: Ledger, settings: NodeSettings, question: dict[str, Any]
) -> tuple[int, str]:
    """Answer a question of :mod:`dicom_node.doorbell`: exit code and text, as `status` would."""
    is_terminal = bool(question["terminal"])
    sheet = io.StringIO()
    paper = Console(
        file=sheet,
        width=int(question["columns"]),
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
    )
    code = _tell(ledger, settings, question, paper)
    return code, sheet.getvalue()


def _tell(
    ledger: Ledger, settings: NodeSettings, question: Mapping[str, Any], paper: Console
) -> int:
    names = {"accession": "accession", "patient_id": "patient", "uid": "uid"}
    asked = {name: question.get(word) for name, word in names.items()}
    found = ledger.worklist.find(**asked, limit=question["limit"])
    moment = right_now(settings)
    if question["json"]:
        counts = dataclasses.asdict(ledger.worklist.counts())
        series = [{**dataclasses.asdict(item), "words": in_words(item, moment)} for item in found]
        paper.file.write(json_text({"counts": counts, "series": series}) + "\n")
    elif found:
        for item in found:
            _print(item, moment, paper)
    elif any(asked.values()):
        paper.print("No such series has arrived here.")
    else:
        paper.print("No series has arrived yet.")
    return EXIT_FAILED if not found and any(asked.values()) else 0


def retry(
    accession: AccessionOption = None,
    uid: UidOption = None,
    config: ConfigOption = None,
) -> None:
    """Try again what ended without success: selection, analysis, parked deliveries."""
    if accession is None and uid is None:
        raise ConfigurationError("say which: --accession or --uid")
    source = settings_source(config)
    with _ledger(config) as ledger:
        found = ledger.worklist.find(accession=accession, uid=uid, limit=100)
        words = [(item, done) for item in found for done in ledger.worklist.retry(item.series_id)]
    if words:
        studies = dict.fromkeys(item.study_instance_uid for item, _ in words)
        Auditor(source(), "command").user_did(f"retry: {len(words)} orders", studies=list(studies))
    for item, done in words:
        out.print(f"{item.description or item.series_instance_uid}: {done}", markup=False)
    if not words:
        err.print("Nothing to try again." if found else "No such series has arrived here.")
        raise typer.Exit(EXIT_FAILED)


def purge(
    older_than_days: Annotated[
        float, typer.Option(min=0, help="Only series whose last image is older.")
    ] = 30.0,
    without_proof_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Also where a destination accepted the results so long ago and has not proven to "
            "hold them. Default: retention.without_proof_days.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove received images that nothing needs any more.

    Only of series that ended and whose results every destination has proven to hold, by storage
    commitment or C-FIND. Who they were stays in the ledger: what is sent again is held again, and
    not read a second time. Results are kept.

    Example, for a destination that is asked for no proof:
    m3lung purge --older-than-days 30 --without-proof-days 30
    """
    source = settings_source(config)
    with _ledger(config) as ledger:
        age_s = older_than_days * 86400.0
        days = without_proof_days
        days = source().retention.without_proof_days if days is None else days
        unproven_s = None if days is None else days * 86400.0
        if dry_run:
            items = ledger.retention.purgeable(age_s, without_proof_s=unproven_s, limit=1_000_000)
            count, size = len(items), sum(item.size_bytes for item in items)
            studies: list[str] = []
        else:
            from dicom_node.retention import (
                purge as remove,  # with pydicom, which `status` needs not
            )
            from dicom_node.spool import Spool

            spool = Spool(source().spool_dir)
            purged = remove(ledger, spool, older_than_s=age_s, without_proof_s=unproven_s)
            count, size, studies = purged.instances, purged.size_bytes, sorted(purged.studies)
        kept = 0
        if unproven_s is None:
            accepted = ledger.retention.purgeable(age_s, without_proof_s=0.0, limit=1_000_000)
            kept = len(accepted) - (count if dry_run else 0)
    if count and not dry_run:
        Auditor(source(), "command").user_did(
            f"purge: {count} images whose series ended, older than {older_than_days:g} days",
            event=EventID.STUDY_DELETED,
            action="D",
            kind=None,
            studies=studies,
        )
    verb = "would be removed" if dry_run else "removed"
    out.print(f"{count} images, {size / 1e6:.1f} MB {verb}", highlight=False)
    if kept > 0:
        err.print(
            f"{kept} images are kept: their results were accepted, and nothing proves that they "
            "are held. Ask for proof (commitment or verify of the peer), or say "
            "--without-proof-days.",
            highlight=False,
        )


def _print(item: SeriesStatus, moment: Moment, paper: Console) -> None:
    """Print what a series is in one line, and below it where it is, over the whole width."""
    images = f"{item.received}" + (f" of {item.expected}" if item.expected else "")
    head = Text(time.strftime("%m-%d %H:%M:%S", time.localtime(item.last_arrival_at)), "dim")
    for part, style in (
        (item.accession_number or "-", "bold"),
        (item.description or item.series_instance_uid, ""),
        (f"{images} images", ""),
        (_predicted(item.result), "bold"),
    ):
        if part:
            head.append("  ").append(part, style)
    paper.print(head)
    below = [in_words(item, moment)]
    if item.state == "selected":
        if item.rule not in ("", DEFAULT_RULE.name):
            below.append(f"rule {item.rule}")
        if item.closing_reason:
            below.append(f"complete because {ClosingReason(item.closing_reason).text}")
    for number, words in enumerate(below):
        paper.print(Padding(Text(words, "dim" if number else ""), (0, 0, 0, 4)))


def _predicted(result: dict[str, Any] | None) -> str:
    if not result or not result.get("patient"):
        return ""
    patient = result["patient"]
    best = patient["probabilities"][patient["predicted"]]
    mark = "" if result["model"]["trained"] else " (UNTRAINED model)"
    return f"{patient['predicted']} {best:.2f}{mark}"


def _ledger(config: Any) -> Ledger:
    return open_node_ledger(settings_source(config)())


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    for verb in (status, retry, purge):
        app.command(rich_help_panel="Administration")(verb)
