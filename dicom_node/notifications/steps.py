"""The steps of sending, and what is said of one that failed."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import NodeError
from dicom_node.tls import tls_failure

__all__ = ["NotSent", "Step", "in_words", "trusting"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something on the way that went well; or not, and the message was taken all the same."""

    name: str
    words: str
    ok: bool = True


class NotSent(NodeError):
    """A message did not leave, or was not taken; the text begins with the step's name."""

    def __init__(self, step: str, words: str) -> None:
        super().__init__(f"{step}: {words}")
        self.step = step
        self.words = words


def in_words(error: OSError) -> str:
    """Say what is wrong with a connection."""
    if isinstance(error, ssl.SSLError):
        return tls_failure(error).replace("tls.ca", "ca")
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the port is closed: nothing listens there"
    return error.strerror or type(error).__name__


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return a TLS context that believes `ca`, or whom the system believes.

    Raises
    ------
    NotSent
        The file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca.expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise NotSent("certificates", f"{ca}: {error.strerror or error}") from error
