"""Logs: JSON for machines, lines for people, and no patient data from anybody."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydicom.dataset import Dataset

from dicom_node.errors import TransientDelivery
from dicom_node.logs import configure, get_logger, pseudonym

CANARY = "Canary^Patient"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("dicom_node").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    target = io.StringIO()
    configure("info", target)
    return target


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(stream: io.StringIO) -> None:
    get_logger("dicom_node.listener").info("series complete", instances=148, reason="quiet_period")
    (record,) = records(stream)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "series complete", "instances": 148, "reason": "quiet_period",
        "level": "info", "logger": "dicom_node.listener",
    }  # fmt: skip


def test_a_terminal_gets_readable_lines() -> None:
    terminal = Terminal()
    configure("info", terminal)
    get_logger("dicom_node.x").warning("broker unavailable", error="refused")
    assert "broker unavailable" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_loggers_made_before_configure_follow_it() -> None:
    logger = get_logger("dicom_node.early")
    target = io.StringIO()
    configure("warning", target)
    logger.info("quiet")
    logger.warning("loud")
    assert [record["event"] for record in records(target)] == ["loud"]


def test_configuring_again_writes_nothing_twice(stream: io.StringIO) -> None:
    configure("info", stream)
    get_logger("dicom_node.x").info("once")
    assert len(records(stream)) == 1


def test_libraries_speak_from_warning_up_in_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("celery.worker").info("Task received")
    logging.getLogger("celery.worker").warning("connection lost: %s", "refused")
    assert [(r["event"], r["logger"]) for r in records(stream)] == [
        ("connection lost: refused", "celery.worker")
    ]


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom.acse", "highdicom.sr"])
def test_what_dicom_libraries_quote_is_left_out(stream: io.StringIO, name: str) -> None:
    logging.getLogger(name).error("Invalid value for VR PN: %r", CANARY)
    (record,) = records(stream)
    assert record["where"].startswith("test_logs.py:")
    assert CANARY not in stream.getvalue()


def test_a_warning_that_quotes_a_dataset_is_cut(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        dataset = Dataset()
        dataset.add_new("StudyInstanceUID", "UI", CANARY)
        warnings.warn("an ordinary warning", UserWarning, stacklevel=1)
    events = [record["event"] for record in records(stream)]
    assert any("ordinary" in event for event in events)
    assert any(event.endswith("UserWarning") and "pydicom" in event for event in events)
    assert CANARY not in stream.getvalue()


def broken() -> None:
    raise ValueError(CANARY)


def refused() -> None:
    try:
        broken()
    except ValueError as error:
        raise TransientDelivery("the PACS refused") from error


def test_a_foreign_exception_is_told_by_type_and_place(stream: io.StringIO) -> None:
    try:
        refused()
    except TransientDelivery:
        get_logger("dicom_node.x").exception("not sent")
    (record,) = records(stream)
    lines = record["exception"]
    assert lines[0] == "dicom_node.errors.TransientDelivery: the PACS refused"
    assert lines[1].startswith("  test_logs.py:")
    assert "builtins.ValueError" in lines
    assert CANARY not in stream.getvalue()


def test_control_characters_do_not_reach_a_terminal() -> None:
    terminal = Terminal()
    configure("info", terminal)
    get_logger("dicom_node.x").info("caller unknown", ae="\x1b]0;owned\x07EVIL\r\n{}")
    assert "\x1b]0;" not in terminal.getvalue()
    assert "\\x1b]0;owned" in terminal.getvalue()


def test_pseudonyms_join_logs_and_hide_uids() -> None:
    assert pseudonym("1.2.3") == pseudonym("1.2.3")
    assert pseudonym("1.2.3") != pseudonym("1.2.4")
    assert len(pseudonym("1.2.3")) == 8
    assert int(pseudonym("1.2.3"), 16) >= 0
