#!/usr/bin/env python3
"""How long the console's pages take when the ledger holds years of series.

    benchmarks/console.py [--series 100000] [--repeat 20]

Fills a SQLite ledger, serves the console in this process behind a real port, and asks as a
browser does: fastest, median and worst of each page in milliseconds. The goal is 200 ms.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import httpx
from ledger_history import BLOCK, fill, open_work

from dicom_node.audit import Auditor
from dicom_node.audit.message import (
    EventID,
    Outcome,
    Role,
    message,
    network_peer,
)
from dicom_node.audit.trail import Head, line_hash
from dicom_node.configuration import Change
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.peers_document import PeersDocument
from dicom_node.settings import Peer
from support.console_node import ConsoleNode, ServedConsole, csrf_of

GOAL_MS = 200.0
AUDIT_RECORDS = 100_000
STAGES = ("receiving", "queued", "delivering", "delivered", "not_analysed", "failed")


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = ConsoleNode(Path(folder))
        began = time.perf_counter()
        fill(node.ledger, max(1, options.series // BLOCK) * BLOCK, 3)
        open_work(node.ledger)
        node.user("ada", ConsoleRole.ADMIN)
        fill_configuration(node)
        fill_trail(node, AUDIT_RECORDS)
        node.now = time.time()
        print(f"{options.series} series, filled in {time.perf_counter() - began:.0f} s")
        with ServedConsole(node) as served, served.log_in("ada") as client:
            slow = measure(client, options.repeat)
        node.ledger.close()
    sys.exit(1 if slow else 0)


def fill_configuration(node: ConsoleNode) -> None:
    """Add peers, one version each."""
    for number in range(40):
        change = Change("ada", "console", f"peer p{number} added")
        PeersDocument(node.config).add(Peer(name=f"p{number}", ae_title=f"P{number}"), change)


def fill_trail(node: ConsoleNode, count: int) -> None:
    """Write a chain of `count` records as the node does, without waiting for the disk each time."""
    trail = Auditor(node.source(), "listen").trail
    trail.folder.mkdir(mode=0o700, exist_ok=True)
    head = Head(file="audit-0000000001.jsonl")
    lines = []
    for number in range(count):
        peer = network_peer(f"CT{number % 9}", "10.0.0.7", requestor=True, role=Role.SOURCE)
        event = EventID.QUERY if number % 50 == 0 else EventID.INSTANCES_TRANSFERRED
        made = message(event, "C", Outcome.SUCCESS, [peer], source_id="M3LUNG")
        record = {"seq": head.seq + 1, "previous": head.sha256, **made}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        lines.append(line)
        head = replace(head, seq=head.seq + 1, sha256=line_hash(line), size=head.size + len(line))
    (trail.folder / head.file).write_bytes(b"".join(lines))
    trail.head_path.write_text(json.dumps(asdict(head)))


def measure(client: httpx.Client, repeat: int) -> bool:
    """Ask for each page; return whether one is slower than the goal."""
    first = client.get("/")
    token = csrf_of(first.text)
    series_id = re.findall(r'<tr id="series-(\d+)"', first.text)[0]
    accession = re.findall(r'c-who"><b>([^<]+)<', first.text)[-1]
    older = re.search(r'name="at" value="(o[^"]+)"', first.text)
    deep = f"o{time.time() - 3 * 365 * 86400!r}_1"
    questions = {
        "worklist": lambda: client.get("/"),
        "next page": lambda: client.get("/", params={"at": older[1] if older else ""}),
        "a page of three years ago": lambda: client.get("/", params={"at": deep}),
        **{
            f"worklist, {stage}": lambda stage=stage: client.get("/", params={"stage": stage})
            for stage in (
                "receiving",
                "queued",
                "delivering",
                "delivered",
                "not_analysed",
                "failed",
            )
        },
        "not analysed, the last week": lambda: client.get(
            "/", params={"stage": "not_analysed", "period": "week"}
        ),
        "search": lambda: client.post("/", data={"csrf": token, "text": accession}),
        "search, nothing there": lambda: client.post("/", data={"csrf": token, "text": "nothing"}),
        "series": lambda: client.get(f"/series/{series_id}"),
        "drift": lambda: client.get("/drift", params={"period": "n1000"}),
        "system": lambda: client.get("/system"),
        "peers": lambda: client.get("/peers"),
        "configuration": lambda: client.get("/configuration"),
        "audit": lambda: client.get("/audit"),
        "audit, one event": lambda: client.get("/audit", params={"event": "110112"}),
        "audit, nothing there": lambda: client.get("/audit", params={"peer": "nobody"}),
        "api worklist": lambda: client.get("/api/v1/worklist"),
    }
    slow = False
    for name, ask in questions.items():
        times = []
        for _ in range(repeat):
            began = time.perf_counter()
            answer = ask()
            times.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, (name, answer.status_code)
        median = statistics.median(times)
        slow = slow or median > GOAL_MS
        mark = "  SLOW" if median > GOAL_MS else ""
        print(f"{name:32} {min(times):7.1f}, {median:7.1f} ms   worst {max(times):7.1f} ms{mark}")
    return slow


if __name__ == "__main__":
    main()
