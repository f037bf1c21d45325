"""Answers ``m3lung status`` inside the running node, where everything is in memory already."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dicom_node.doorbell import address, user_of
from dicom_node.logs import get_logger

__all__ = ["status_desk"]

_log = get_logger(__name__)
_LONGEST_QUESTION = 1 << 16  # bytes
_TIMEOUT_S = 2.0

Answer = Callable[[dict[str, Any]], tuple[int, str]]


@contextmanager
def status_desk(config: str | None, answer: Answer) -> Iterator[None]:
    """Answer questions in a thread beside the caller's work.

    Of several processes with one configuration the first answers; where nobody can, the command
    finds out itself.

    Parameters
    ----------
    config : str or None
        The node's document.
    answer : callable
        Returns exit code and text of a question of :mod:`dicom_node.doorbell`.
    """
    where = address(config, os.environ) if hasattr(socket, "SO_PEERCRED") else None
    if where is None:
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            door.bind(where)
            door.listen(16)
        except OSError as error:
            _log.info("status is answered by another process", reason=type(error).__name__)
            yield
            return
        threading.Thread(target=_serve, args=(door, answer), name="status", daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)


def _serve(door: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = door.accept()
        except OSError:  # it was closed
            return
        with connection:
            try:
                _answer_one(connection, answer)
            except Exception as error:  # noqa: BLE001  whoever asked looks itself
                _log.warning("status not answered", error=type(error).__name__)


def _answer_one(connection: socket.socket, answer: Answer) -> None:
    if user_of(connection) not in (0, os.getuid()):
        return
    connection.settimeout(_TIMEOUT_S)
    asked = b""
    while piece := connection.recv(_LONGEST_QUESTION):
        asked += piece
        if len(asked) > _LONGEST_QUESTION:
            return
    code, text = answer(json.loads(asked))
    connection.sendall(json.dumps({"code": code, "text": text}).encode())
