"""Receiving with durable acknowledgement: DCMTK's senders, default settings, against this node.

``python benchmarks/receive.py [--slices 300] [--associations 1 4] [--receiver m3lung …]``

Writes a synthetic series of 512 × 512 × 16 bit, sends it to the listener and, where installed, to
storescp and Orthanc as shipped, and prints images/s, MB/s and the receiver's peak memory (RSS of
its process tree). Each receiver starts empty; the fastest of ``--repeat`` runs counts.

``python benchmarks/receive.py --price-of-fsync [--associations 1 4 16] [--json FILE]``

What durability costs: the same listener with ``os.fsync`` and SQLite's syncs made no-ops, in turns
with the one that ships, so that a busy disk slows both. The median of the pairwise ratios counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from figures import Figures, Ratio
from receivers import RECEIVERS, CarelessListener, Listener, Receiver


def write_series(directory: Path, slices: int) -> int:
    """Write `slices` files into `directory`; return the bytes of all."""
    directory.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    random = np.random.default_rng(0)
    total = 0
    for index in range(slices):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.Modality = "Bench^Mark", "BENCH", "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.InstanceNumber, ds.SeriesNumber = index + 1, 1
        ds.ImagePositionPatient = [-200, -200, float(index)]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.78, 0.78], 1
        ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
        ds.Rows = ds.Columns = 512
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = random.integers(0, 4096, 512 * 512, dtype=np.uint16).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = directory / f"{index:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        total += path.stat().st_size
    return total


class PeakMemory(threading.Thread):
    """Samples the RSS of a process tree: the largest process counts."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Sample until `over`."""
        while not self.over.wait(0.05):
            with contextlib.suppress(psutil.Error):
                tree = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, *(one.memory_info().rss for one in tree))


def send(
    program: str, port: int, folders: list[Path], environment: Mapping[str, str] | None = None
) -> float:
    """Send each folder in an association of its own, at the same time; return seconds."""
    command = {
        "storescu": ["storescu", "-aec", "M3LUNG", "+sd", "127.0.0.1", str(port)],
        "dcmsend": ["dcmsend", "-aec", "M3LUNG", "+sd", "127.0.0.1", str(port)],
    }[program]
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        for folder in folders
    ]  # fmt: skip
    for sender in senders:
        output = sender.communicate()[0]
        if sender.returncode:
            raise RuntimeError(f"{program} failed: {output.decode(errors='replace')[-500:]}")
    return time.perf_counter() - started


def split(series: Path, parts: int, scratch: Path) -> list[Path]:
    files = sorted(series.iterdir())
    folders = []
    for part in range(parts):
        folder = scratch / f"part-{parts}-{part}"
        folder.mkdir(exist_ok=True)
        for file in files[part::parts]:
            (folder / file.name).hardlink_to(file)
        folders.append(folder)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--sender", choices=["storescu", "dcmsend"], nargs="+", default=["storescu"]
    )
    parser.add_argument("--receiver", choices=list(RECEIVERS), nargs="+", default=list(RECEIVERS))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--price-of-fsync", action="store_true")
    parser.add_argument("--limit-s", type=float, default=200.0, help="of --price-of-fsync")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.price_of_fsync:
        price_of_fsync(options)
    else:
        compare_receivers(options)


def parts(scratch: Path, associations: int) -> list[Path]:
    """Return the series in as many folders as there are associations."""
    if (scratch / f"part-{associations}-0").exists():
        return sorted(scratch.glob(f"part-{associations}-*"))
    return split(scratch / "series", associations, scratch)


def price_of_fsync(options: argparse.Namespace) -> None:
    """Print what durable receiving keeps of the speed that it would have without."""
    began = time.monotonic()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="m3lung-receive-") as name:
        scratch = Path(name)
        write_series(scratch / "series", options.slices)
        for associations in options.associations:
            folders = parts(scratch, associations)
            pairs: list[tuple[float, float]] = []
            share = (options.limit_s - (time.monotonic() - began)) / (
                len(options.associations) - len(rows)
            )
            until = time.monotonic() + share
            while len(pairs) < options.repeat and (not pairs or time.monotonic() < until):
                durable, careless = (
                    options.slices / seconds_to_receive(kind, folders, options, scratch)
                    for kind in (Listener, CarelessListener)
                )
                pairs.append((durable, careless))
            rows.append(
                {
                    "associations": associations,
                    "pairs": len(pairs),
                    "durable images/s": statistics.median(pair[0] for pair in pairs),
                    "without fsync images/s": statistics.median(pair[1] for pair in pairs),
                    "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
                }
            )
        waits = seconds_of_fsync(scratch)
    title = f"{options.slices} CT slices of 0.5 MB, {options.sender[0]}; fsync of one: {waits}"
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if k == "ratio" else f"{v:.0f}" for k, v in row.items()))
    Console(width=110).print(table)
    if options.json:
        document = {"fsync of 0.5 MB": waits, "load": os.getloadavg()[0], "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def seconds_to_receive(
    kind: type[Receiver], folders: list[Path], options: argparse.Namespace, scratch: Path
) -> float:
    """Return how long one receiver, empty at first, takes for the whole series."""
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        receiver = kind(Path(own))
        with receiver.running():
            seconds = send(options.sender[0], receiver.port, folders)
            if receiver.stored() != options.slices:
                raise RuntimeError(f"{kind.name} kept {receiver.stored()}")
        return seconds


def seconds_of_fsync(folder: Path) -> str:
    """Measure the disk itself, in words."""
    samples = []
    for number in range(30):
        path = folder / f"probe-{number}"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, os.urandom(526_000))
        began = time.perf_counter()
        os.fsync(descriptor)
        samples.append(1e3 * (time.perf_counter() - began))
        os.close(descriptor)
        path.unlink()
    return f"{statistics.median(samples):.1f} ms ({min(samples):.1f} to {max(samples):.1f})"


def compare_receivers(options: argparse.Namespace) -> None:
    """Print this node beside storescp and Orthanc."""
    figures = Figures(f"receive: {options.slices} CT slices of 512 × 512 × 16 bit")
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="m3lung-receive-") as name:
        scratch = Path(name)
        size = write_series(scratch / "series", options.slices)
        wanted = [
            (key, sender, associations)
            for key in options.receiver
            if shutil.which(PROGRAMS.get(key, "sh"), path=f"{os.environ['PATH']}:/usr/sbin")
            for sender in options.sender
            for associations in options.associations
        ]
        best = dict.fromkeys(wanted, float("inf"))
        peak = dict.fromkeys(wanted, 0)
        for _ in range(options.repeat):  # in turns, so that a busy machine slows all
            for one in wanted:
                seconds, memory = received(*one, options, scratch)
                best[one], peak[one] = min(best[one], seconds), max(peak[one], memory)
    for key, sender, associations in wanted:
        one = (key, sender, associations)
        rate = options.slices / best[one]
        rates[key, associations] = max(rate, rates.get((key, associations), 0.0))
        figures.rows.append(
            {"receiver": RECEIVERS[key].name, "sender": sender, "associations": associations,
             "images/s": rate, "MB/s": size / best[one] / 1e6, "peak RSS MB": peak[one] / 1e6}
        )  # fmt: skip
    figures.ratios = receive_ratios(rates)
    figures.finish(options.json)


PROGRAMS = {"storescp": "storescp", "orthanc": "Orthanc", "orthanc-tuned": "Orthanc"}


def received(
    key: str, sender: str, associations: int, options: argparse.Namespace, scratch: Path
) -> tuple[float, int]:
    """Seconds, and the receiver's peak memory in bytes, of the series sent once."""
    folders = parts(scratch, associations)
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        receiver = RECEIVERS[key](Path(own))
        with receiver.running() as pid:
            memory = PeakMemory(pid)
            memory.start()
            seconds = send(sender, receiver.port, folders, receiver.environment)
            memory.over.set()
            memory.join()
            if receiver.stored() != options.slices:
                raise RuntimeError(f"{receiver.name} kept {receiver.stored()}")
    return seconds, memory.peak


def receive_ratios(rates: dict[tuple[str, int], float]) -> list[Ratio]:
    """Ours by theirs. At its best: whichever of our rows, and of Orthanc's, is the faster."""
    ratios = []
    for associations, best_goal, shipped_goal in ((1, 1.5, 10.0), (4, 1.0, None)):
        mine = max(
            (rates.get((key, associations), 0.0) for key in RECEIVERS if key.startswith("m3lung")),
            default=0.0,
        )
        shipped = rates.get(("m3lung", associations), 0.0)
        words = f"{associations} association{'s' if associations > 1 else ''}"
        theirs = {key: rates.get((key, associations), 0.0) for key in PROGRAMS}
        orthanc = max(theirs["orthanc"], theirs["orthanc-tuned"])
        if mine and orthanc:
            ratios.append(Ratio(f"receive, {words}: by Orthanc's best", mine / orthanc, best_goal))
        for key in ("orthanc", "storescp"):
            if shipped and theirs[key]:
                who = f"receive, {words}: by {key} as shipped"
                ratios.append(Ratio(who, shipped / theirs[key], shipped_goal))
    return ratios


if __name__ == "__main__":
    main()
