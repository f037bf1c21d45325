"""Receiving with durable acknowledgement: DCMTK's senders, default settings, against this node.

``python benchmarks/receive.py [--slices 300] [--associations 1 4] [--receiver m3lung …]``

Writes a synthetic series of 512 × 512 × 16 bit, sends it to the listener and, where installed, to
storescp and Orthanc as shipped, and prints images/s, MB/s and the receiver's peak memory (RSS of
its process tree). Each receiver starts empty; the fastest of ``--repeat`` runs counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver:
    """One receiver as a child process; subclasses say how it starts and what it holds."""

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()

    def command(self) -> list[str]:
        """Return what starts it; configuration files are written on the way."""
        raise NotImplementedError

    def stored(self) -> int:
        """Return how many images it has kept."""
        raise NotImplementedError

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Run it; yields its process id when it accepts connections."""
        command = self.command()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, env=environment
            )
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError((self.directory / "log").read_text())
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Listener(Receiver):
    """The node: everything is durable before it answers."""

    name = "m3lung listener (durable)"
    processes = 1

    def command(self) -> list[str]:
        """Return what starts it."""
        (self.directory / "node.toml").write_text(
            f'state_dir = "{self.directory / "state"}"\nlog_level = "warning"\n'
            f"[listener]\nport = {self.port}\nprocesses = {self.processes}\nmin_free_bytes = 0\n"
            "accept_unknown_callers = true\n"
        )
        return [
            sys.executable, "-m", "dicom_node.listener",
            "--config", str(self.directory / "node.toml"),
        ]  # fmt: skip

    def stored(self) -> int:
        """Return how many images it has kept."""
        return len(list((self.directory / "state/spool/instances").glob("*/*.dcm")))


class TwoListeners(Listener):
    """Two processes on one port."""

    name = "m3lung listener, 2 processes (durable)"
    processes = 2


class StoreSCP(Receiver):
    """DCMTK's receiver; syncs nothing."""

    name = "DCMTK storescp --fork, as shipped"

    def command(self) -> list[str]:
        """Return what starts it."""
        (self.directory / "out").mkdir()
        return ["storescp", "--fork", "-aet", "M3LUNG", "-od", "out", str(self.port)]

    def stored(self) -> int:
        """Return how many images it has kept."""
        return len(list((self.directory / "out").iterdir()))


class Orthanc(Receiver):
    """A PACS; syncs nothing by default."""

    name = "Orthanc, as shipped"

    def command(self) -> list[str]:
        """Return what starts it."""
        self.http_port = free_port()
        configuration = {
            "StorageDirectory": str(self.directory / "db"),
            "IndexDirectory": str(self.directory / "db"),
            "DicomAet": "M3LUNG",
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
        }
        path = self.directory / "orthanc.json"
        path.write_text(json.dumps(configuration))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(path)]

    def stored(self) -> int:
        """Return how many images it has kept."""
        import urllib.request

        url = f"http://127.0.0.1:{self.http_port}/statistics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])


RECEIVERS: dict[str, type[Receiver]] = {
    "m3lung": Listener,
    "m3lung-2": TwoListeners,
    "storescp": StoreSCP,
    "orthanc": Orthanc,
}


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


def send(program: str, port: int, folders: list[Path]) -> float:
    """Send each folder in an association of its own, at the same time; return seconds."""
    command = {
        "storescu": ["storescu", "-aec", "M3LUNG", "+sd", "127.0.0.1", str(port)],
        "dcmsend": ["dcmsend", "-aec", "M3LUNG", "+sd", "127.0.0.1", str(port)],
    }[program]
    started = time.perf_counter()
    senders = [
        subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for folder in folders
    ]
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
    options = parser.parse_args()
    table = Table(title=f"{options.slices} CT slices of 512 × 512 × 16 bit")
    for title in ("receiver", "sender", "associations", "images/s", "MB/s", "peak RSS MB"):
        table.add_column(title, justify="left" if title in ("receiver", "sender") else "right")
    with tempfile.TemporaryDirectory(prefix="m3lung-receive-") as name:
        scratch = Path(name)
        size = write_series(scratch / "series", options.slices)
        for key in options.receiver:
            kind = RECEIVERS[key]
            if not shutil.which({"storescp": "storescp", "orthanc": "Orthanc"}.get(key, "sh")):
                continue
            for sender in options.sender:
                for associations in options.associations:
                    folders = (
                        split(scratch / "series", associations, scratch)
                        if not (scratch / f"part-{associations}-0").exists()
                        else sorted(scratch.glob(f"part-{associations}-*"))
                    )
                    best, peak = float("inf"), 0
                    for _ in range(options.repeat):
                        with tempfile.TemporaryDirectory(dir=scratch) as own:
                            receiver = kind(Path(own))
                            with receiver.running() as pid:
                                memory = PeakMemory(pid)
                                memory.start()
                                best = min(best, send(sender, receiver.port, folders))
                                memory.over.set()
                                memory.join()
                                peak = max(peak, memory.peak)
                                if receiver.stored() != options.slices:
                                    raise RuntimeError(f"{kind.name} kept {receiver.stored()}")
                    table.add_row(
                        kind.name, sender, str(associations), f"{options.slices / best:.0f}",
                        f"{size / best / 1e6:.0f}", f"{peak / 1e6:.0f}",
                    )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
