"""From the last image to the SR in the PACS: a whole node and Orthanc on this machine.

    python benchmarks/turnaround.py [--slices 60] [--patients 2] [--settle-s 5] [--json FILE]

`m3lung serve` as an administrator starts it, with the model that comes along; DCMTK's storescu
sends a phantom; Orthanc receives the results and is asked for the report ten times a second. The
same patients are sent twice: to a node that reads once the evidence is there, and to one that reads
ahead of it (``analysis.speculative``). Evidence is ``completion.settle_s`` for the series and
``study_settle_s`` for sister series; computing is what the first node took from claim to result.
What counts is how much longer it took than the longer one of the two.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

import sqlalchemy as sa
from figures import Figures, Ratio
from phantom_series import BUILD, phantom_series
from pydicom import dcmread

from dicom_node.ledger import open_ledger
from dicom_node.ledger import tables as t
from dicom_node.settings import CompletionSettings
from support.orthanc import Orthanc
from support.ports import free_port

PATIENCE_S = 600.0
REPORT = {"Level": "Series", "Query": {"Modality": "SR"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--settle-s", type=float, default=CompletionSettings().settle_s)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = Figures(f"turnaround: {options.slices} slices, demonstration model, default settings")
    evidence_s = options.settle_s + CompletionSettings().study_settle_s
    for ahead in (False, True):
        figures.rows += measure(options, ahead)
    waited, ahead_rows = (
        [row for row in figures.rows if row["reads"] == reads] for reads in ("after", "ahead")
    )
    # Of the node that waits: the other one only fetches what it has.
    computing_s = statistics.median(row["claim to result, s"] for row in waited)
    for row in figures.rows:
        row["beyond the longer, s"] = row["last image to SR, s"] - max(evidence_s, computing_s)
    plain = statistics.median(row["last image to SR, s"] for row in waited)
    total = statistics.median(row["last image to SR, s"] for row in ahead_rows)
    figures.ratios = [
        Ratio(
            "turnaround: beyond max(evidence, computing)",
            total - max(evidence_s, computing_s), 1.0, "s", at_most=True,
        ),
        Ratio("turnaround: last image to SR accepted", total, unit="s"),
        Ratio("turnaround: … reading after the evidence", plain, unit="s"),
        Ratio("turnaround: reading ahead against after", plain / total),
    ]  # fmt: skip
    figures.notes.append(f"evidence {evidence_s:g} s, computing {computing_s:.1f} s (median)")
    print(figures.notes[-1])
    figures.finish(options.json)


def measure(options: argparse.Namespace, ahead: bool) -> list[dict[str, Any]]:
    """Send all patients to one node, one after the other; return a row for each but the first."""
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="m3lung-turn-") as name,
        running(Path(name), options.settle_s, ahead) as (port, pacs, url),
    ):
        for number in range(options.patients + 1):
            folder = BUILD / f"turnaround-{options.slices}-{number}"
            phantom_series(options.slices, folder, seed=f"turn-{number}")
            row = turn(Path(name), folder, port, pacs, url)
            rows.append({"reads": "ahead" if ahead else "after", "patient": number, **row})
    return rows[1:]  # the worker loaded its model meanwhile


@contextlib.contextmanager
def running(folder: Path, settle_s: float, ahead: bool) -> Iterator[tuple[int, Orthanc, str]]:
    port = free_port()
    pacs = Orthanc(folder / "orthanc")
    (folder / "node.toml").write_text(
        f'state_dir = "state"\nlog_level = "warning"\n[listener]\nport = {port}\n'
        "min_free_bytes = 0\naccept_unknown_callers = true\n[console]\nenabled = false\n"
        f"[completion]\nsettle_s = {settle_s}\n"
        f"[analysis]\nspeculative = {str(ahead).lower()}\n"
        f'[[peers]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\n'
        f"port = {pacs.dicom_port}\n"
    )
    pacs.start()
    with (folder / "log").open("ab") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(folder / "node.toml")],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(lambda: echoes(port), folder)
        yield port, pacs, f"sqlite:///{folder / 'state' / 'ledger.sqlite3'}"
    finally:
        node.terminate()
        node.wait(60)
        pacs.stop()


def turn(state: Path, folder: Path, port: int, pacs: Orthanc, url: str) -> dict[str, float]:
    """Send one patient; return when what had happened, in seconds after the last image."""
    before = len(pacs.post("/tools/find", REPORT))
    command = ["storescu", "-aec", "M3LUNG", "+sd", "127.0.0.1", str(port), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    sent = time.time()
    wait_for(lambda: len(pacs.post("/tools/find", REPORT)) > before, state)
    accepted = time.time() - sent
    first = next(iter(folder.glob("*.dcm")))
    series_uid = str(dcmread(first, stop_before_pixels=True).SeriesInstanceUID)
    with open_ledger(url) as ledger:
        return {
            "last image to SR, s": accepted,
            "claim to result, s": computing_s(ledger, series_uid),
        }


def computing_s(ledger: object, series_uid: str) -> float:
    """Seconds of the analysis, as the ledger has them."""
    query = (
        sa.select(t.analyses.c.finished_at - t.analyses.c.started_at)
        .join(t.revisions, t.revisions.c.id == t.analyses.c.revision_id)
        .join(t.series, t.series.c.id == t.revisions.c.series_id)
        .where(t.series.c.series_instance_uid == series_uid)
    )
    with ledger.database.read() as connection:  # type: ignore[attr-defined]
        return float(connection.scalar(query))


def echoes(port: int) -> bool:
    command = ["echoscu", "-aec", "M3LUNG", "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_for(condition: object, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            log = folder / "log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise TimeoutError(f"waited {PATIENCE_S:g} s\n{said}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
