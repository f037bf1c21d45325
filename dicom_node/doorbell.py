"""The name under which a running node answers questions of its own machine, and how to ask.

To import the settings, the ledger and the terminal's library takes a second; the node has them in
memory already. Only the smallest part of the standard library is imported here, since an answer
that is there in a tenth of a second is the point of it.

The name is a socket address in Linux's abstract namespace: nothing lies about after a crash. It
tells who runs the node, with which document and environment; so whoever rings is answered by the
node that the same command would have looked at itself, or by none. Both sides look at the other's
user.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct

TYPE_CHECKING = False  # that of `typing`, which takes as long to import as all below
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["address", "ask_status", "question_of", "user_of"]

_PROTOCOL = 1
_INTERNAL = ("M3LUNG_CONFIG", "M3LUNG_CRASH_AT", "M3LUNG_PARENT_PID")
_WITH_VALUE = {
    "--accession": "accession",
    "-a": "accession",
    "--patient": "patient",
    "-p": "patient",
    "--uid": "uid",
    "-u": "uid",
    "--limit": "limit",
    "--config": "config",
    "-c": "config",
}
_TIMEOUT_S = 5.0


def address(config: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the address of a node with this document and environment; None: there cannot be one.

    Parameters
    ----------
    config : str or None
        The document that was named. None: the environment's, or where one is looked for.
    """
    named = config or environment.get("M3LUNG_CONFIG")
    candidates = [named] if named else ["node.toml", "~/.config/m3lung/node.toml"]
    found = [path for path in map(os.path.expanduser, candidates) if os.path.isfile(path)]  # noqa: PTH113  pathlib costs as much as all the rest
    if named and not found:
        return None
    settings = sorted(
        item
        for item in environment.items()
        if item[0].upper().startswith("M3LUNG_") and item[0] not in _INTERNAL
    )
    document = os.path.realpath(found[0]) if found else ""
    told = json.dumps([_PROTOCOL, os.getuid(), document, settings])
    return "\0m3lung-" + hashlib.sha256(told.encode()).hexdigest()[:40]


def question_of(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return what ``m3lung status`` is asked; None where only its own parser can say."""
    question: dict[str, Any] = {"json": False}
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "--json":
            question["json"] = True
            continue
        if name not in _WITH_VALUE or (equals and not name.startswith("--")):
            return None
        if not equals:
            if not words or words[0].startswith("-"):
                return None
            value = words.pop(0)
        question[_WITH_VALUE[name]] = value
    limit = question.pop("limit", "20")
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit) < 10**6):
        return None
    question["limit"] = int(limit)
    return question


def user_of(connection: socket.socket) -> int:
    """Return the user ID of the process at the other end."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", credentials)[1])


def ask_status(arguments: Sequence[str]) -> tuple[int, str] | None:
    """Have ``m3lung status`` answered by the running node.

    Parameters
    ----------
    arguments : sequence of str
        What follows the verb.

    Returns
    -------
    (exit code, text) or None
        None: no such node runs here, or it cannot say. Then the command has to look itself.
    """
    question = question_of(arguments)
    if question is None or not hasattr(socket, "SO_PEERCRED"):
        return None
    where = address(question.pop("config", None), os.environ)
    if where is None:
        return None
    is_terminal = os.isatty(1)
    question.update(columns=_columns(is_terminal), terminal=is_terminal)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(where)
            if user_of(connection) not in (0, os.getuid()):
                return None
            connection.sendall(json.dumps(question).encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.read())
        return int(answer["code"]), str(answer["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _columns(is_terminal: bool) -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns if is_terminal else 80
    except OSError:
        return 80
