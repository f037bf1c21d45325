"""The doors through which bytes of strangers come in, each as a function that takes any bytes.

A target returns where the code kept its promise (a result, or one of the errors it names) and
raises where it did not. ``scripts/fuzz`` runs one for as long as one likes; ``tests/fuzz`` runs
all of them for a few seconds from a fixed seed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicom_node.errors import CannotUnderstand, ReceiveError, SeriesRejected
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_dataset_header, read_instance_header
from dicom_node.ledger import open_ledger
from dicom_node.listener import negotiation, server
from dicom_node.listener.command_set import decode_command, encode_response
from dicom_node.listener.contexts import acceptable_contexts
from dicom_node.listener.storage import Storage
from dicom_node.reception.admission import Visitor
from dicom_node.reception.caller import Caller
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.results.source import SourceSeries
from dicom_node.selection import read_frames as read_geometry
from dicom_node.settings import NodeSettings
from dicom_node.spool import Spool
from dicom_node.stow import RequestHandler
from inference.decoder_pool import DecoderLimits, DecoderPool
from inference.errors import SeriesError, UndecodablePixels
from inference.frames import read_frames
from inference.pixel_file import Plane, read_planes
from inference.pixels import Rescale
from support.enhanced_ct import enhanced
from support.fuzz_properties import select_property, to_hu_property
from support.listening import command, ct_dataset, encode, request_pdu, value_pdu
from support.listening import decode_command as elements_of
from support.posting import TOKEN, body_of, part_10, raw_request
from support.synthetic_ct import synthetic_series

__all__ = ["TARGETS", "Target"]

CT = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
MATRIX = 128


@dataclass(frozen=True)
class Target:
    """One door.

    Attributes
    ----------
    run : callable
        Takes any bytes; raises if a promise is broken.
    seeds : callable
        Returns good inputs to start from.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


@cache
def scratch() -> Path:
    """A folder of this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="m3lung-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def in_memory(data: bytes) -> Any:
    """A descriptor of a file with `data` in it, and its path."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        yield descriptor, Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@cache
def files() -> tuple[bytes, ...]:
    """DICOM files of several kinds: classic and enhanced CT, plain and compressed."""
    made = synthetic_series(scratch() / "series", slices=3, matrix=MATRIX)
    found = [made.paths[0].read_bytes()]
    target = scratch() / "seed.dcm"
    enhanced(list(made.paths), target)
    found.append(target.read_bytes())
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset = dcmread(made.paths[1])
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(target)
        found.append(target.read_bytes())
    return tuple(found)


# -- the dataset boundary --------------------------------------------------------------------------


def run_header(data: bytes) -> None:
    """First byte: the transfer syntax; the rest: a dataset as it comes over the wire."""
    with in_memory(data[1:]) as (descriptor, _):
        try:
            header = read_dataset_header(
                descriptor,
                start=0,
                end=len(data[1:]),
                transfer_syntax_uid=SYNTAXES[data[0] % 3 if data else 0],
            )
        except ReceiveError:
            return
    check_header(header)


def run_file(data: bytes) -> None:
    """A DICOM file, through all three readers of headers."""
    with in_memory(data) as (_, path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ReceiveError):
            check_header(read_instance_header(path))
        read_geometry(path)
        with contextlib.suppress(SeriesError):
            for frame in read_frames(path):
                assert 0 < frame.rows * frame.columns <= 2048 * 2048
                frame.plane  # noqa: B018
        with contextlib.suppress(SeriesRejected):
            SourceSeries.read([path])


def check_header(header: InstanceHeader) -> None:
    """What the ledger takes: any database, any column."""
    text = header.model_dump_json()
    assert InstanceHeader.model_validate_json(text) == header
    assert "\\u0000" not in text
    for name, value in header:
        if isinstance(value, str):
            value.encode("utf-8")
            assert len(value) <= 256, name
        if isinstance(value, int):
            assert abs(value) < 2**63, f"{name} is no number of a database"


def header_seeds() -> list[bytes]:
    dataset = ct_dataset(size=8)
    return [
        b"\0" + encode(dataset),
        b"\1" + encode(dataset, implicit=True),
        b"\2" + encode(dataset, little=False),
        *(b"\0" + data[400:] for data in files()[1:2]),
    ]


# -- the network -----------------------------------------------------------------------------------


def run_association(data: bytes) -> None:
    """The variable field of an A-ASSOCIATE-RQ."""
    try:
        request = negotiation.decode_request(data)
        negotiation.acceptance(request, acceptable_contexts("ignore"), 262144)
    except negotiation.MalformedRequest:
        return


def run_command(data: bytes) -> None:
    """A command set."""
    try:
        read = decode_command(data)
    except CannotUnderstand:
        return
    answered = elements_of(encode_response(read, 0xC000, comment="no"))
    assert int.from_bytes(answered[0x0100], "little") & 0x8000
    assert int.from_bytes(answered[0x0120], "little") == read.message_id


class Doorkeeper:
    """A listener without its port: serves one connection after the other in this thread."""

    def __init__(self) -> None:
        folder = scratch() / f"listener-{os.getpid()}"
        settings = NodeSettings(
            state_dir=folder,
            listener={"accept_unknown_callers": True, "min_free_bytes": 0},
            audit={"enabled": False},
            peers=[{"name": "gateway", "ae_title": "GATEWAY", "roles": ["source"]}],
            credentials={"gateway": {"accepted_token": TOKEN}},
        )
        self.settings = settings
        self.spool = Spool(settings.spool_dir)
        self.spool.prepare()
        ledger = open_ledger(settings.ledger_url)
        atexit.register(ledger.close)
        self.storage = Storage(self.spool, ledger.intake, GroupCommit(self.spool, ledger.intake))
        self.server = server.AssociationServer(
            socket.create_server(("127.0.0.1", 0)), self.storage, lambda: settings
        )
        atexit.register(self.server._listening.close)
        self.folder = folder
        self.outside = outside(self) | {
            folder / f"ledger.sqlite3{suffix}" for suffix in ("", "-wal", "-shm", "-journal")
        }

    def speak_http(self, visitor: Visitor, caller: Caller, is_stopping: Callable[[], bool]) -> None:
        """Serve a connection of the port for STOW-RS."""
        RequestHandler(
            visitor,
            caller,
            admission=self.server._admission,
            reception=self.storage,
            settings=lambda: self.settings,
            is_stopping=is_stopping,
            auditor=self.server._auditor,
        ).serve()

    def serve(self, data: bytes, speak: server.Speak | None = None) -> bytes:
        """Send `data`, close, and return what was answered."""
        self.server._speak = speak or self.server._associate
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(10)
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            ours.sendall(data[: 1 << 20])
            ours.shutdown(socket.SHUT_WR)
            visitor = self.server._admission.admit(theirs, "fuzz", total=9, per_address=9)
            assert visitor is not None
            # TCP options mean nothing on a local socket.
            real, server.PDUStream = server.PDUStream, LocalStream
            try:
                self.server._serve_visitor(visitor)
            finally:
                server.PDUStream = real
            answered = b""
            # A reset: the server closed before it had read all. What it said came before that.
            with contextlib.suppress(ConnectionError):
                while piece := ours.recv(65536):
                    answered += piece
        return answered


class Strict:
    """In place of the server's log: an unforeseen error comes out instead of being recorded."""

    def exception(self, *_: object, **__: object) -> None:
        raise  # noqa: PLE0704  inside the server's own `except`

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@cache
def doorkeeper() -> Doorkeeper:
    made = Doorkeeper()
    server._log = Strict()
    return made


def run_connection(data: bytes) -> list[int]:
    """All that a stranger sends over one connection. Returns the types of the PDUs answered."""
    door = doorkeeper()
    answered = door.serve(data)
    kinds = []
    while answered:
        kinds.append(answered[0])
        assert answered[0] in (2, 3, 4, 6, 7)
        length = int.from_bytes(answered[2:6], "big")
        assert len(answered) >= 6 + length, "half a PDU"
        answered = answered[6 + length :]
    assert not list((door.spool.root / "incoming").iterdir()), "something half received stays"
    assert not outside(door) - door.outside, "something was written outside of the spool"
    return kinds


def run_requests(data: bytes) -> list[int]:
    """All that a stranger sends over one connection by HTTP. Returns the statuses answered."""
    door = doorkeeper()
    answered = door.serve(data, door.speak_http)
    assert answered[:9] in (b"", b"HTTP/1.1 ")
    assert b'"Value": [%d]' % 0xC001 not in answered, "an error that nobody foresaw"
    assert not list((door.spool.root / "incoming").iterdir()), "something half received stays"
    assert not outside(door) - door.outside, "something was written outside of the spool"
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answered)]


def request_seeds() -> list[bytes]:
    files = [part_10(ct_dataset(number, size=8)) for number in range(2)]
    body = body_of(files)
    pieces = [body[start : start + 500] for start in range(0, len(body), 500)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    chunked = raw_request(Content_Length="", Transfer_Encoding="chunked")
    return [
        raw_request(body),
        raw_request(body) + raw_request(body_of(files[:1])),
        chunked + chunks + b"0\r\n\r\n",
        raw_request(body[:-40], length=len(body)),
    ]


def outside(door: Doorkeeper) -> set[Path]:
    """What lies beside the spool: names of the node's own making."""
    return {path for path in door.folder.iterdir() if path.name != "spool"}


class LocalStream(server.PDUStream):
    """The stream over a socket pair, which has no TCP options to set."""

    def __init__(self, connection: socket.socket, **limits: Any) -> None:
        super().__init__(OptionlessSocket(connection), **limits)  # type: ignore[arg-type]


class OptionlessSocket:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def setsockopt(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def connection_seeds() -> list[bytes]:
    association = request_pdu([(CT, SYNTAXES[:1]), ("1.2.840.10008.1.1", SYNTAXES[1:2])])
    dataset = ct_dataset(size=8)
    store = value_pdu(1, 3, command(1, 1, CT, str(dataset.SOPInstanceUID), True))
    echo = value_pdu(3, 3, command(0x30, 2, "1.2.840.10008.1.1", None, False))
    release, abort = b"\5\0\0\0\0\4\0\0\0\0", b"\7\0\0\0\0\4\0\0\0\0"
    return [
        association + release,
        association + echo + release,
        association + store + value_pdu(1, 2, encode(dataset)) + release,
        association + store + value_pdu(1, 0, encode(dataset)[:500]) + abort,
        abort,
    ]


# -- pixels ----------------------------------------------------------------------------------------


@cache
def decoders() -> DecoderPool:
    made = DecoderPool(1, DecoderLimits(memory_bytes=1 << 30, time_limit_s=5))
    atexit.register(made.close)
    return made


def run_pixels(data: bytes) -> None:
    """A DICOM file through the decoders, in a child: a crash there costs the file, nothing else."""
    path = scratch() / "pixels.dcm"
    path.write_bytes(data)
    plane = Plane(0, "pixels.dcm", MATRIX, MATRIX, Rescale(), None)
    try:
        list(decoders()(path, [plane]))
    except UndecodablePixels as error:
        if "decoder" in error.reason or "longer" in error.reason:
            keep = scratch().parent / "m3lung-fuzz-findings"
            keep.mkdir(exist_ok=True)
            name = f"{abs(hash(data)):x}.dcm"
            (keep / name).write_bytes(data)
            print(json.dumps({"kept": str(keep / name), "reason": error.reason}))


def run_pixels_here(data: bytes) -> None:
    """The same in this process: for a fuzzer that counts coverage and survives crashes itself."""
    with in_memory(data) as (_, path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plane = Plane(0, "pixels.dcm", MATRIX, MATRIX, Rescale(), None)
        with contextlib.suppress(UndecodablePixels):
            list(read_planes(path, [plane]))


TARGETS = {
    "header": Target(run_header, header_seeds),
    "file": Target(run_file, lambda: list(files())),
    "association": Target(
        run_association, lambda: [request_pdu([(CT, SYNTAXES), (CT, SYNTAXES[:1])])[6:]]
    ),
    "command": Target(run_command, lambda: [command(1, 7, CT, "1.2.3", True)]),
    "connection": Target(run_connection, connection_seeds),
    "requests": Target(run_requests, request_seeds),
    "pixels": Target(run_pixels, lambda: list(files())),
    "pixels-here": Target(run_pixels_here, lambda: list(files())),
    "selection": Target(select_property.hypothesis.fuzz_one_input, lambda: [bytes(4000)]),
    "to-hu": Target(to_hu_property.hypothesis.fuzz_one_input, lambda: [bytes(400)]),
}
