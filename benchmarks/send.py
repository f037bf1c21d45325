"""Sending results to a PACS as shipped: this node's SCU, pynetdicom's own, DCMTK's dcmsend.

``python benchmarks/send.py [--objects 150] [--size 512] [--repeat 3]``

Writes RGB Secondary Captures of 512 × 512 and sends them to Orthanc as shipped, each run into an
empty store: over one association, and this node over several at once as well. Prints objects/s
and MB/s; the fastest of ``--repeat`` runs counts. ``--compress none lossless jpeg`` shows what
transcoding costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from figures import Figures, Ratio

from dicom_node.delivery.shipping import Candidate, PendingDelivery, ship
from dicom_node.delivery.upper_layer import Sender
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.settings import Peer

_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TITLE = "ORTHANC"


def write_overlays(directory: Path, count: int, size: int) -> list[Path]:
    """Write `count` RGB pictures that compress about as CT overlays do."""
    study, series = generate_uid(), generate_uid()
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    body = np.hypot(rows - size / 2, columns - size / 2) < size * 0.4
    paths = []
    for index in range(count):
        grey = np.where(body, 120 + random.normal(0, 12, (size, size)), 0).clip(0, 255)
        pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
        pixels[size // 3 : size // 2, size // 3 : size // 2, 0] = 220
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.PatientName, ds.PatientID, ds.Modality = "Bench^Mark", "BENCH", "OT"
        ds.ConversionType, ds.InstanceNumber, ds.SeriesNumber = "WSD", index + 1, 100
        ds.Rows = ds.Columns = size
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = pixels.tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(directory / f"{index:04d}.dcm", enforce_file_format=True)
        paths.append(directory / f"{index:04d}.dcm")
    return paths


@contextmanager
def orthanc(directory: Path) -> Iterator[tuple[int, Callable[[], int]]]:
    """Run Orthanc with default settings but for folders, ports and authentication."""
    dicom, http = free_port(), free_port()
    configuration = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "storage"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": _TITLE,
        "AuthenticationEnabled": False,
    }
    document = directory / "orthanc.json"
    document.write_text(json.dumps(configuration))
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        sys.exit("Orthanc is not installed: apt install orthanc")
    process = subprocess.Popen(
        [program, str(document)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def count() -> int:
        with _HTTP.open(f"http://127.0.0.1:{http}/statistics", timeout=30) as answer:
            return int(json.load(answer)["CountInstances"])

    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                count()
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit("Orthanc does not answer")
                time.sleep(0.1)
        yield dicom, count
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send_by_node(paths: list[Path], port: int, compress: Any, associations: int = 1) -> None:
    shipment = [
        PendingDelivery(index, "overlay", (_candidate(index, path),))
        for index, path in enumerate(paths)
    ]
    peer = Peer(
        name="pacs", ae_title=_TITLE, port=port, compress=compress, associations=associations
    )
    shipped = ship(shipment, peer, Sender("M3LUNG"), choose=lambda *_: None, record=lambda *_: None)
    assert shipped.counts == {DeliveryEvent.ACCEPTED: len(paths)}, shipped


_candidates: dict[Path, Candidate] = {}


def _candidate(index: int, path: Path) -> Candidate:
    """The digest is in the ledger when a shipment starts, so making it is not timed."""
    if path not in _candidates:
        from pydicom import dcmread

        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        _candidates[path] = Candidate(index, str(SecondaryCaptureImageStorage), uid, path, digest)
    return _candidates[path]


def send_by_pynetdicom(paths: list[Path], port: int) -> None:
    ae = AE("M3LUNG")
    ae.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title=_TITLE)
    assert association.is_established
    for path in paths:
        assert association.send_c_store(path).Status == 0x0000
    association.release()


def send_by_dcmsend(paths: list[Path], port: int) -> None:
    subprocess.run(
        ["dcmsend", "-aec", _TITLE, "127.0.0.1", str(port), *map(str, paths)], check=True
    )


def measure(send: Callable[[list[Path], int], None], paths: list[Path], repeat: int) -> float:
    """Return the shortest time in seconds, each run into an empty Orthanc."""
    times = []
    for _ in range(repeat):
        with (
            tempfile.TemporaryDirectory(prefix="m3lung-send-") as directory,
            orthanc(Path(directory)) as (port, count),
        ):
            began = time.perf_counter()
            send(paths, port)
            times.append(time.perf_counter() - began)
            assert count() == len(paths), "the PACS does not hold what was sent"
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, default=150)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--compress", nargs="*", default=["none"], choices=["none", "lossless", "jpeg"]
    )
    parser.add_argument("--associations", type=int, nargs="*", default=[2, 4], help="at once")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    senders: dict[str, Callable[[list[Path], int], None]] = {
        f"m3lung, compress = {compress}": (
            lambda paths, port, compress=compress: send_by_node(paths, port, compress)
        )
        for compress in options.compress
    }
    senders |= {
        f"m3lung, {number} associations": (
            lambda paths, port, number=number: send_by_node(
                paths, port, options.compress[0], number
            )
        )
        for number in options.associations
    }
    senders["pynetdicom, as shipped"] = send_by_pynetdicom
    if shutil.which("dcmsend"):
        senders["dcmsend, as shipped"] = send_by_dcmsend
    with tempfile.TemporaryDirectory(prefix="m3lung-send-") as directory:
        paths = write_overlays(Path(directory), options.objects, options.size)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        for index, path in enumerate(paths):
            _candidate(index, path)
        results = {name: measure(send, paths, options.repeat) for name, send in senders.items()}
    figures = Figures(f"send: {options.objects} objects, {megabytes:.0f} MB, Orthanc as shipped")
    stock = results["pynetdicom, as shipped"]
    for name, seconds in results.items():
        figures.rows.append(
            {"sender": name, "objects/s": options.objects / seconds, "MB/s": megabytes / seconds,
             "× pynetdicom": stock / seconds}
        )  # fmt: skip
    ours = results[f"m3lung, compress = {options.compress[0]}"]
    figures.ratios = [
        Ratio("send: to a default peer", options.objects / ours, 200.0, "objects/s"),
        *(
            Ratio(
                f"send: … over {number} associations",
                options.objects / results[f"m3lung, {number} associations"],
                200.0,
                "objects/s",
            )
            for number in options.associations
        ),
        Ratio("send: by stock pynetdicom", stock / ours, 5.0),
    ]
    if "dcmsend, as shipped" in results:
        figures.ratios.append(
            Ratio("send: by dcmsend as shipped", results["dcmsend, as shipped"] / ours)
        )
    figures.finish(options.json)


if __name__ == "__main__":
    main()
