"""``m3lung support-bundle``: what a supporter needs, and nothing of any patient."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import ssl
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.audit import Auditor, records, verify
from dicom_node.cli.check import look_at
from dicom_node.cli.terminal import ConfigOption, out, settings_source
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.ledger.journal import (
    deliveries_by_status,
    patient_words,
    recent_events,
    row_counts,
)
from dicom_node.logs import pseudonym
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import NodeSettings

__all__ = ["register"]

# Of UUIDs, or with so many components that it is no version and no address.
_UID = re.compile(r"\b(?:2\.25\.[1-9]\d{5,38}|[0-2](?:\.(?:0|[1-9]\d*)){4,})\b")
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_WORD = re.compile(r"[^\s\"',;:=()\[\]{}<>\\/|]+")
_FAILURES = (NodeError, OSError, SQLAlchemyError)
_MOST_LOG_BYTES = 4 << 20  # of each log file, its end
_EVENTS = 1000
_AUDIT_RECORDS = 500
_SHORTEST_IDENTIFIER = 4  # shorter ones are words of every log

README = """\
Support bundle of a m3lung node, made by `m3lung support-bundle`.

It holds no images, no results, no names, no patient IDs, no accession numbers. Passwords in URLs
are left out. DICOM UIDs are replaced by 8 hexadecimal digits, the same as in the node's logs.
Host names, addresses and AE titles of peers are in it: look through it before you send it.

versions.json   software          settings.json  configuration in force
check.json      m3lung check      ledger.json    rows and states
events.jsonl    the journal       disk.json      space, inodes, sizes of the folders
queues.json     what waits        audit.json(l)  the trail: whether it holds, its last records
logs/           the ends of the logs that were given or lie in the state directory
"""


def support_bundle(
    target: Annotated[Path, typer.Option("--out", help="The zip file to write.")],
    log: Annotated[
        list[Path] | None,
        typer.Option("--log", help="A log file to take in, as the service keeps it (repeat it)."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Pack settings, versions, states, events and logs for whoever helps you.

    Nothing in it names a patient: identifiers are hashed, images and results stay here.

    Example: m3lung support-bundle --out support.zip --log /var/log/m3lung.log
    """
    settings = settings_source(config)()
    if target.exists():
        raise ConfigurationError(f"out: {target} exists")
    for path in log or ():
        if not path.is_file():
            raise ConfigurationError(f"log: no file at {path}")
    scrub = _Scrub(settings)
    entries = dict(_entries(settings, log or [], scrub))
    _write(target, entries)
    Auditor(settings, "command").user_did("support bundle written")
    size = target.stat().st_size / 1e3
    out.print(f"{target}: {len(entries)} files, {size:.0f} kB", highlight=False, soft_wrap=True)
    if scrub.removed:
        out.print(
            f"[yellow]{scrub.removed} identifiers of patients were found in logs or events and "
            "left out: please report where they came from.[/]"
        )


class _Scrub:
    """Takes identifiers out of text: the last of several walls, not the first."""

    def __init__(self, settings: NodeSettings) -> None:
        self.removed = 0
        try:
            with open_node_ledger(settings) as ledger:
                words = patient_words(ledger.database)
        except _FAILURES:
            words = set()
        self._words = {
            part.lower()
            for word in words
            for part in (word, *_WORD.findall(word))
            if len(part) >= _SHORTEST_IDENTIFIER
        }

    def __call__(self, text: str) -> str:
        text = _URL_PASSWORD.sub(r"\1:***@", text)
        text = _UID.sub(lambda found: f"uid:{pseudonym(found.group())}", text)
        return _WORD.sub(self._judge, text)

    def _judge(self, found: re.Match[str]) -> str:
        if found.group().lower() not in self._words:
            return found.group()
        self.removed += 1
        return "[identifier]"


def _entries(
    settings: NodeSettings, logs: list[Path], scrub: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    yield "README.txt", README
    makers: tuple[tuple[str, Callable[[NodeSettings], Any]], ...] = (
        ("versions", _versions),
        ("settings", _settings),
        ("check", _check),
        ("ledger", _ledger),
        ("disk", _disk),
        ("queues", _queues),
        ("audit", _audit),
    )
    for name, make in makers:
        try:
            found = make(settings)
        except _FAILURES as error:
            # What cannot be told is itself worth knowing.
            found = {"error": _in_words(error)}
        yield f"{name}.json", _without_secrets(json.dumps(found, indent=2, default=str))
    yield "events.jsonl", scrub(_lines(_events(settings)))
    yield "audit.jsonl", scrub(_lines(_audit_records(settings)))
    kept = [*logs, *settings.root.glob("*.log"), *settings.root.glob("logs/*.log")]
    for number, path in enumerate(dict.fromkeys(kept)):
        yield f"logs/{number:02d}-{path.name}", scrub(_end_of(path))


def _in_words(error: Exception) -> str:
    # SQLAlchemy's words hold whole rows.
    words = "" if isinstance(error, SQLAlchemyError) else f": {error}"
    return f"{type(error).__name__}{words}"


def _without_secrets(text: str) -> str:
    return _URL_PASSWORD.sub(r"\1:***@", text)


def _lines(items: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(item, default=str) + "\n" for item in items)


def _versions(settings: NodeSettings) -> dict[str, Any]:
    named = ("m3lung-node", "pydicom", "pynetdicom", "celery", "kombu", "sqlalchemy", "torch",
             "openvino", "numpy", "highdicom", "pydantic")  # fmt: skip
    return {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": {name: importlib.metadata.version(name) for name in named},
        "python": sys.version,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "openssl": ssl.OPENSSL_VERSION,
        "variables": sorted(name for name in os.environ if name.startswith("M3LUNG_")),
    }


def _settings(settings: NodeSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _check(settings: NodeSettings) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in look_at(settings)]


def _ledger(settings: NodeSettings) -> dict[str, Any]:
    with open_node_ledger(settings) as ledger:
        return {
            "rows": row_counts(ledger.database),
            "states": asdict(ledger.worklist.counts()),
            "deliveries": deliveries_by_status(ledger.database),
        }


def _events(settings: NodeSettings) -> Iterator[dict[str, Any]]:
    try:
        with open_node_ledger(settings) as ledger:
            found = recent_events(ledger.database, _EVENTS)
    except _FAILURES as error:
        yield {"error": _in_words(error)}
        return
    for event in found:
        series = pseudonym(event.series_instance_uid) if event.series_instance_uid else ""
        yield {"at": event.at, "kind": event.kind, "series": series, **event.detail}


def _disk(settings: NodeSettings) -> dict[str, Any]:
    folders = {}
    for folder in sorted(path for path in settings.root.iterdir() if path.is_dir()):
        count = size = 0
        for path in folder.rglob("*"):
            try:
                if path.is_file():
                    count, size = count + 1, size + path.stat().st_size
            except OSError:
                continue  # went while we looked
        folders[folder.name] = {"files": count, "bytes": size}
    usage, system = shutil.disk_usage(settings.root), os.statvfs(settings.root)
    return {
        "bytes": usage._asdict(),
        "inodes": {"total": system.f_files, "free": system.f_favail},
        "folders": folders,
    }


def _queues(settings: NodeSettings) -> dict[str, Any]:
    from dicom_node.broker import ANALYSIS_QUEUE, DELIVERY_QUEUE, check_broker, make_app

    app = make_app(settings)
    said: dict[str, Any] = {"broker": check_broker(app)}
    with app.connection() as connection:
        channel = connection.default_channel
        for queue in (ANALYSIS_QUEUE, DELIVERY_QUEUE):
            try:
                said[queue] = channel.queue_declare(queue=queue, passive=True).message_count
            except connection.channel_errors:  # in Redis an empty queue does not exist
                said[queue] = 0
    return said


def _audit(settings: NodeSettings) -> dict[str, Any]:
    return asdict(verify(Auditor(settings, "command").trail))


def _audit_records(settings: NodeSettings) -> Iterator[dict[str, Any]]:
    if settings.audit.identifiers == "plain":
        yield {"left out": "the trail holds identifiers of patients (audit.identifiers)"}
        return
    yield from list(records(Auditor(settings, "command").trail.folder))[-_AUDIT_RECORDS:]


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST_LOG_BYTES))
        return file.read().decode("utf-8", "replace")


def _write(target: Path, entries: dict[str, str]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
            for name, text in entries.items():
                file.writestr(name, text)
        partial.chmod(0o600)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("support-bundle", rich_help_panel="Administration")(support_bundle)
