"""A listener as a real process, and a sender that can say anything over the wire."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from support.server import Server

__all__ = ["Aborted", "ListeningNode", "RawSender", "Rejected", "ct_dataset", "encode"]

ROOT = Path(__file__).resolve().parents[2]
Contexts = Sequence[tuple[str, Sequence[str]]]
CT_CONTEXT: Contexts = [(CTImageStorage, [ExplicitVRLittleEndian])]


class ListeningNode(Server):
    """``python -m dicom_node.listener`` with a configuration of its own, on any free port."""

    def __init__(
        self,
        directory: Path,
        *,
        callers: Sequence[str] = ("SENDER", "STORESCU", "DCMSEND", "ECHOSCU"),
        preexec: str = "",
        **listener: Any,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "node.toml"
        self.port = 0
        self.environment: dict[str, str] = {}
        self.write_config(callers, **listener)
        run = [sys.executable, "-m", "dicom_node.listener", "--config", str(self.config)]
        if preexec:
            run = ["/bin/sh", "-c", f'{preexec}; exec "$@"', "sh", *run]
        super().__init__(run, log=directory / "log", ready=self._wait, cwd=ROOT)

    def write_config(self, callers: Sequence[str], **listener: Any) -> None:
        options = {"port": 0, "min_free_bytes": 0, **listener}
        text = f'state_dir = "{self.state}"\nlog_level = "debug"\n[listener]\n'
        for key, value in options.items():
            text += f"{key} = {_toml(value)}\n"
        for number, ae_title in enumerate(callers):
            text += f'[[peers]]\nname = "p{number}"\nae_title = "{ae_title}"\nroles = ["source"]\n'
        self.config.write_text(text)

    def start(self) -> None:
        (self.state / "listener.port").unlink(missing_ok=True)
        saved = dict(os.environ)
        os.environ.update(self.environment)
        try:
            super().start()
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.is_running, "it ended"
            with contextlib.suppress(OSError, ValueError):
                self.port = int((self.state / "listener.port").read_text())
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.03)
        raise TimeoutError

    def wait_for_death(self) -> int:
        """Return the exit code of a listener that is expected to die."""
        assert self._process is not None
        return self._process.wait(20)

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger directly."""
        with contextlib.closing(sqlite3.connect(self.state / "ledger.sqlite3", timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def instances(self) -> dict[str, tuple[str, str]]:
        """Return {SOP Instance UID: (digest, path relative to the spool)} of the ledger."""
        rows = self.sql("select sop_instance_uid, digest, path from instances")
        return {uid: (digest, path) for uid, digest, path in rows}

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    def sender(self, contexts: Contexts = CT_CONTEXT, **options: Any) -> RawSender:
        return RawSender(self.port, contexts, **options)

    def has_connections(self) -> bool:
        """Whether it still holds a connection that somebody made to its port."""
        return any(
            connection.status != psutil.CONN_LISTEN and connection.laddr.port == self.port
            for connection in psutil.Process(self.pid).net_connections("tcp")
        )

    def echo_seconds(self) -> float:
        """Time a C-ECHO on a new association."""
        started = time.monotonic()
        with self.sender([("1.2.840.10008.1.1", [ImplicitVRLittleEndian])]) as sender:
            assert sender.echo() == 0
        return time.monotonic() - started


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


class Rejected(Exception):
    """A-ASSOCIATE-RJ; `reason` is (result, source, reason)."""

    def __init__(self, reason: tuple[int, int, int]) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Aborted(Exception):
    """A-ABORT, or the connection was closed."""


class RawSender:
    """A C-STORE SCU that checks nothing it sends."""

    def __init__(
        self,
        port: int,
        contexts: Contexts = CT_CONTEXT,
        *,
        calling: str = "SENDER",
        called: str = "M3LUNG",
        timeout_s: float = 30.0,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.message_id = 0
        try:
            self.socket.sendall(request_pdu(contexts, calling, called))
            kind, body = self.read_pdu()
        except BaseException:
            self.socket.close()
            raise
        if kind != 2:
            self.socket.close()
            if kind == 3:
                raise Rejected((body[1], body[2], body[3]))
            raise Aborted(f"PDU type {kind}")
        answer = A_ASSOCIATE_AC()
        answer.decode(b"\x02\x00" + len(body).to_bytes(4, "big") + body)
        primitive = answer.to_primitive()
        self.max_pdu = primitive.maximum_length_received
        self.accepted = {
            context.context_id: str(context.transfer_syntax[0])
            for context in primitive.presentation_context_definition_results_list
            if context.result == 0
        }

    def __enter__(self) -> RawSender:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            with contextlib.suppress(OSError, Aborted):
                self.release()
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionError as error:
                raise Aborted("reset") from error
            if not piece:
                raise Aborted("closed")
            data += piece
        return data

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxL", self._exactly(6))
        return kind, self._exactly(length)

    def send_values(
        self, context_id: int, is_command: bool, data: bytes, size: int = 60000
    ) -> None:
        pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
        for number, piece in enumerate(pieces, 1):
            control = is_command | (2 if number == len(pieces) else 0)
            self.socket.sendall(value_pdu(context_id, control, piece))

    def response(self) -> dict[int, bytes]:
        """Return the elements of the next response's command set, by element number."""
        encoded = b""
        while True:
            kind, body = self.read_pdu()
            if kind != 4:
                raise Aborted(f"PDU type {kind}")
            encoded += body[6:]
            if body[5] & 2:
                return decode_command(encoded)

    def echo(self) -> int:
        self.message_id += 1
        self.send_values(1, True, command(0x30, self.message_id, "1.2.840.10008.1.1", None, False))
        return int.from_bytes(self.response()[0x0900], "little")

    def store(
        self,
        dataset: bytes,
        *,
        sop_class_uid: str = CTImageStorage,
        sop_instance_uid: str = "1.2.3",
        context_id: int = 1,
        fragment: int = 60000,
    ) -> tuple[int, str]:
        """Return status and Error Comment."""
        self.message_id += 1
        request = command(0x0001, self.message_id, sop_class_uid, sop_instance_uid, True)
        self.send_values(context_id, True, request)
        self.send_values(context_id, False, dataset, fragment)
        answer = self.response()
        assert int.from_bytes(answer[0x0120], "little") == self.message_id
        assert int.from_bytes(answer[0x0100], "little") == 0x8001
        comment = answer.get(0x0902, b"").decode("ascii").strip()
        return int.from_bytes(answer[0x0900], "little"), comment

    def store_dataset(self, dataset: Dataset, **options: Any) -> int:
        options.setdefault("sop_instance_uid", str(dataset.SOPInstanceUID))
        return self.store(encode(dataset), **options)[0]

    def release(self) -> None:
        self.socket.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        assert self.read_pdu()[0] == 6


def request_pdu(contexts: Contexts, calling: str = "SENDER", called: str = "M3LUNG") -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposals = []
    for number, (abstract, transfers) in enumerate(contexts):
        proposals.append(build_context(abstract, list(transfers)))
        proposals[-1].context_id = 2 * number + 1
    primitive.presentation_context_definition_list = proposals
    maximum, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    maximum.maximum_length_received = 16384
    implementation.implementation_class_uid = UID("1.2.3.4")
    primitive.user_information = [maximum, implementation]
    encoded: bytes = A_ASSOCIATE_RQ(primitive).encode()
    return encoded


def value_pdu(context_id: int, control: int, data: bytes) -> bytes:
    return (
        b"\x04\x00"
        + (len(data) + 6).to_bytes(4, "big")
        + (len(data) + 2).to_bytes(4, "big")
        + bytes((context_id, control))
        + data
    )


def command(
    field: int, message_id: int, sop_class_uid: str, instance_uid: str | None, dataset: bool
) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    elements = element(0x0002, sop_class_uid.encode("latin-1"))
    elements += element(0x0100, struct.pack("<H", field))
    elements += element(0x0110, struct.pack("<H", message_id))
    if field == 0x0001:
        elements += element(0x0700, b"\0\0")
    elements += element(0x0800, struct.pack("<H", 1 if dataset else 0x0101))
    if instance_uid is not None:
        elements += element(0x1000, instance_uid.encode("latin-1"))
    return element(0, struct.pack("<L", len(elements))) + elements


def decode_command(encoded: bytes) -> dict[int, bytes]:
    values, offset = {}, 0
    while offset < len(encoded):
        _, number, length = struct.unpack_from("<HHL", encoded, offset)
        values[number] = encoded[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return values


def ct_dataset(number: int = 1, *, series: str = "2.25.7", size: int = 64, **more: Any) -> Dataset:
    """Return a small CT slice with a SOP Instance UID of its own."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.5", series
    ds.FrameOfReferenceUID = "2.25.6"
    ds.PatientName, ds.PatientID, ds.Modality = "Canary^Yellow", "CANARY-4711", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [-200.0, -200.0, float(number)]
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    ds.PixelSpacing, ds.SliceThickness = [0.75, 0.75], 1.5
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = number.to_bytes(2, "little") * (size * size)
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def encode(dataset: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """Return the dataset as it goes over the wire."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def run_sender(*command_line: object, environment: Mapping[str, str] | None = None) -> str:
    """Run a DCMTK sender to its end; return its output, with the exit code in front."""
    result = subprocess.run(
        [str(word) for word in command_line],
        capture_output=True,
        timeout=120,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return f"{result.returncode}\n" + (result.stdout + result.stderr).decode(errors="replace")
