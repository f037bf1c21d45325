"""STOW-RS as user agent: one object in one request, and what came of it (PS3.18 §10.5).

One object, not the series, since each answer is recorded as it comes: a process that is killed
re-sends one object, and nobody holds more than a piece of a file in memory. The connection is
kept between requests, so that an object costs one exchange, as it does by C-STORE.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from dicom_node.delivery.encoding import StoredObject, encoded_file
from dicom_node.delivery.outcome import Outcome
from dicom_node.delivery.stow_answer import Other, StowAnswer, read_answer
from dicom_node.delivery.web_client import WebClient
from dicom_node.errors import UnsendableObject

__all__ = ["empty_request", "store_by_web"]

_PIECE_BYTES = 256 << 10


def store_by_web(
    client: WebClient, stored: StoredObject, syntaxes: Sequence[str], *, credentials: str
) -> tuple[Outcome, StowAnswer | None]:
    """Send `stored` in the first of `syntaxes` that the peer takes and that it can be encoded in.

    Parameters
    ----------
    syntaxes : sequence of str
        Transfer syntax UIDs, the preferred one first, at least one.
    credentials : str
        What they are called here, for words about them.

    Returns
    -------
    Outcome
    StowAnswer or None
        The last answer; None where the object could not be encoded.

    Raises
    ------
    TransientDelivery
        No connection, or no answer in time.
    """
    failure: UnsendableObject | None = None
    outcome: Outcome | None = None
    answer: StowAnswer | None = None
    for syntax in syntaxes:
        try:
            with encoded_file(stored, syntax) as file:
                content_type, size, pieces = _request(file)
                found = client.post(pieces, content_type=content_type, size_bytes=size)
        except UnsendableObject as error:  # another syntax may still do
            failure = error
            continue
        answer = read_answer(
            found.status, found.body, stored.sop_instance_uid, credentials=credentials
        )
        words = ": ".join(part for part in (answer.words, str(failure or "")) if part)
        outcome = Outcome(answer.event, words, answer.reason, syntax, found.seconds)
        if answer.other is not Other.TRANSFER_SYNTAX:
            break
    if outcome is None:
        left = failure or UnsendableObject("no transfer syntax is left to try")
        return Outcome.of_error(left), None
    return outcome, answer


def empty_request() -> tuple[str, int, Iterator[bytes]]:
    """Return content type, size and content of a request without any object."""
    boundary = secrets.token_hex(16)
    closing = f"--{boundary}--\r\n".encode("ascii")
    return _content_type(boundary), len(closing), iter((closing,))


def _request(file: BinaryIO) -> tuple[str, int, Iterator[bytes]]:
    """Return content type, size and pieces of a body with one part (PS3.18 §8.6.1.2, RFC 2387)."""
    boundary = secrets.token_hex(16)
    opening = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
    closing = f"\r\n--{boundary}--\r\n".encode("ascii")
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start

    def pieces() -> Iterator[bytes]:
        yield opening
        file.seek(start)
        while piece := file.read(_PIECE_BYTES):
            yield piece
        yield closing

    return _content_type(boundary), len(opening) + size + len(closing), pieces()


def _content_type(boundary: str) -> str:
    return f'multipart/related; type="application/dicom"; boundary={boundary}'
