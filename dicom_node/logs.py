"""Structured logs without patient data.

JSON lines when standard error is not a terminal, readable lines when it is. Celery, kombu,
pynetdicom and everything else that uses :mod:`logging` comes out the same way, from WARNING up.

Three things keep patient data out: callers log ids, counts and :func:`pseudonym`; what DICOM
libraries say is cut down to where they said it, since they quote attribute values; and the text
of foreign exceptions is left out of tracebacks, since it quotes what could not be handled
(SQLAlchemy's hold whole rows).
"""

from __future__ import annotations

import hashlib
import logging
import logging.config
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from dicom_node.errors import NodeError

__all__ = ["configure", "get_logger", "pseudonym"]

# What these write quotes attribute values: only where and how loud is kept.
_QUOTING_LOGGERS = ("pydicom", "pynetdicom", "highdicom")
# Their own words, free of anybody's data: the node's errors, and errno with our own paths.
_SPEAKING_ERRORS = (NodeError, OSError)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream`, from `level` up.

    May be called again; the last call holds.

    Parameters
    ----------
    level : {"debug", "info", "warning", "error"}
        For the node's own modules. Libraries speak from WARNING up, whatever the level.
    stream : text file, optional
        Default: standard error.
    """
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_discreet, *_shared_processors()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(stream),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(threshold, logging.WARNING))
    logging.getLogger("dicom_node").setLevel(threshold)
    # What it has to say of a body is answered to the sender.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger for the module `name`; usable before :func:`configure`."""
    return structlog.stdlib.get_logger(name)


def pseudonym(uid: str) -> str:
    """Return 8 hexadecimal digits that stand for a UID in logs.

    The same UID gives the same digits on every machine, so that logs can be joined. Not for
    patient IDs or names: those are few enough to be guessed back.
    """
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
        _escape_controls,
    ]


def _renderer(stream: TextIO) -> Processor:
    if stream.isatty():
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


def _discreet(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Cut what libraries say down to what cannot hold patient data."""
    record: logging.LogRecord = event["_record"]
    if record.name.startswith(_QUOTING_LOGGERS):
        event["event"] = "a DICOM library warns; its words may quote a dataset and are left out"
        event["where"] = f"{Path(record.pathname).name}:{record.lineno}"
    elif record.name == "py.warnings" and any(name in event["event"] for name in _QUOTING_LOGGERS):
        # "…/pydicom/valuerep.py:440: UserWarning: Invalid value …": place and kind only
        event["event"] = ":".join(event["event"].split(":")[:3])
    elif record.name == "celery.app.trace" and record.levelno >= logging.ERROR:
        # Celery's text holds the exception's.
        event["event"] = "a task failed"
        if isinstance(record.args, dict):
            event["task"] = record.args.get("name")
    return event


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace ``exc_info`` by the types and places of an exception and its causes."""
    exc_info: bool | BaseException | ExcInfo | None = event.pop("exc_info", None)
    if not exc_info:
        return event
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple):
        error = exc_info[1]
    else:
        error = sys.exc_info()[1]
    if error is not None:
        event["exception"] = _describe(error)
    return event


def _describe(error: BaseException) -> list[str]:
    """Lines for an exception and its causes: type, our own words, places; innermost call last."""
    lines: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        words = f": {cause}" if isinstance(cause, _SPEAKING_ERRORS) else ""
        lines.append(f"{type(cause).__module__}.{type(cause).__qualname__}{words}")
        lines.extend(
            f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(cause.__traceback__)
        )
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return lines


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters: an AE title must not write to somebody's terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = _escaped(value)
    return event


def _escaped(value: Any) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )
