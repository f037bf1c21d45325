"""A listener with its STOW-RS port, and a sender that posts to it, well or badly."""

from __future__ import annotations

import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from support.listening import ListeningNode

__all__ = [
    "BOUNDARY",
    "TOKEN",
    "Answer",
    "PostingNode",
    "body_of",
    "content_type",
    "part_10",
    "raw_request",
    "status_line",
    "stored_and_failed",
]

TOKEN = "token-of-the-sender-0123456789"
BOUNDARY = "edge-of-a-part"


class PostingNode(ListeningNode):
    """``python -m dicom_node.listener`` with STOW-RS on any free port; SENDER has a token.

    Parameters
    ----------
    stow : mapping, optional
        Further fields of ``[stow]``.
    sections : str
        Further lines of TOML, behind the peers.
    """

    def __init__(
        self,
        directory: Path,
        *,
        callers: Sequence[str] = ("SENDER", "STORESCU"),
        stow: Mapping[str, Any] | None = None,
        sections: str = "",
        **listener: Any,
    ) -> None:
        self.stow = {"enabled": True, "port": 0, **(stow or {})}
        self.sections = sections
        super().__init__(directory, callers=callers, **listener)
        self.environment["M3LUNG_CREDENTIALS__P0__ACCEPTED_TOKEN"] = TOKEN

    def write_config(self, callers: Sequence[str], **listener: Any) -> None:
        super().write_config(callers, **listener)
        values = ((key, json.dumps(value)) for key, value in self.stow.items())
        fields = "".join(f"{key} = {value}\n" for key, value in values)
        text = self.config.read_text()
        self.config.write_text(f"{text}{self.sections}\n[stow]\n{fields}")

    def start(self) -> None:
        (self.state / "stow.port").unlink(missing_ok=True)
        super().start()

    @property
    def stow_port(self) -> int:
        """The port that was bound; it is told after the other."""
        deadline = time.monotonic() + 30
        while not (self.state / "stow.port").exists():
            assert self.is_running
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return int((self.state / "stow.port").read_text())

    @property
    def url(self) -> str:
        scheme = "https" if self.stow.get("tls") else "http"
        return f"{scheme}://127.0.0.1:{self.stow_port}/dicom-web/studies"

    def client(
        self, token: str | None = TOKEN, verify: ssl.SSLContext | bool = True
    ) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(headers=headers, timeout=60, verify=verify, trust_env=False)

    def post(
        self,
        files: Iterable[bytes],
        *,
        study: str = "",
        token: str | None = TOKEN,
        client: httpx.Client | None = None,
        verify: ssl.SSLContext | bool = True,
        **headers: str,
    ) -> Answer:
        """POST `files` as the parts of one request."""
        body = body_of(files)
        return self.post_body(
            body, study=study, token=token, client=client, verify=verify, **headers
        )

    def post_body(
        self,
        body: bytes | Iterator[bytes],
        *,
        study: str = "",
        token: str | None = TOKEN,
        client: httpx.Client | None = None,
        verify: ssl.SSLContext | bool = True,
        **headers: str,
    ) -> Answer:
        url = f"{self.url}/{study}" if study else self.url
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = {"Content-Type": content_type(), **named}
        if client is not None:
            return Answer.of(client.post(url, content=body, headers=named))
        with self.client(token, verify) as made:
            return Answer.of(made.post(url, content=body, headers=named))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.logged()[-3000:]
            time.sleep(0.02)

    def raw(self) -> socket.socket:
        """Return a connection on which anything can be said."""
        return socket.create_connection(("127.0.0.1", self.stow_port), 30)


@dataclass(frozen=True)
class Answer:
    """Status and what was stored or not: SOP Instance UIDs, reasons by SOP Instance UID."""

    status: int
    headers: Mapping[str, str]
    text: str
    stored: set[str]
    failed: dict[str, int]
    others: list[int]

    @classmethod
    def of(cls, response: httpx.Response) -> Answer:
        is_dataset = response.headers.get("content-type") == "application/dicom+json"
        stored, failed, others = stored_and_failed(response.json() if is_dataset else {})
        return cls(response.status_code, response.headers, response.text, stored, failed, others)


def stored_and_failed(dataset: dict[str, Any]) -> tuple[set[str], dict[str, int], list[int]]:
    """Return UIDs stored, reasons by UID, reasons of parts that name no UID (PS3.18 I.2)."""
    read = Dataset.from_json(dataset)
    return (
        {str(item.ReferencedSOPInstanceUID) for item in read.get("ReferencedSOPSequence", ())},
        {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in read.get("FailedSOPSequence", ())
        },
        [int(item.FailureReason) for item in read.get("OtherFailuresSequence", ())],
    )


def part_10(dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the DICOM file of `dataset`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    del dataset.file_meta
    return file.getvalue()


def content_type(boundary: str = BOUNDARY) -> str:
    return f'multipart/related; type="application/dicom"; boundary={boundary}'


def body_of(files: Iterable[bytes], boundary: str = BOUNDARY, *, end: bool = True) -> bytes:
    """Return the body that holds `files`; without its `end` it breaks off behind the last."""
    parts = [
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % (boundary.encode(), file)
        for file in files
    ]
    return b"".join(parts) + (f"--{boundary}--\r\n".encode() if end else b"")


def raw_request(body: bytes = b"", *, length: int | None = None, **headers: str) -> bytes:
    """Return a whole request of one's own making; `length` is what it announces."""
    named = {
        "Host": "node",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": content_type(),
        "Content-Length": str(len(body) if length is None else length),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return f"POST /dicom-web/studies HTTP/1.1\r\n{head}\r\n".encode() + body


def status_line(connection: socket.socket) -> int:
    """Return the status of the next answer; what stands behind it is thrown away."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return int(received.split()[1])
