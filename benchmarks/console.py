#!/usr/bin/env python3
"""How long the console's pages take when the ledger holds years of series.

    benchmarks/console.py [--series 100000] [--repeat 20]

Fills a SQLite ledger, serves the console in this process behind a real port, and asks as a
browser does: median and worst of each page in milliseconds. The goal is 200 ms.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import httpx  # noqa: E402
from ledger_history import BLOCK, fill, open_work  # noqa: E402

from dicom_node.ledger.console_users import ConsoleRole  # noqa: E402
from support.console_node import ConsoleNode, ServedConsole, csrf_of  # noqa: E402

GOAL_MS = 200.0
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
        node.now = time.time()
        print(f"{options.series} series, filled in {time.perf_counter() - began:.0f} s")
        with ServedConsole(node) as served, served.log_in("ada") as client:
            slow = measure(client, options.repeat)
        node.ledger.close()
    sys.exit(1 if slow else 0)


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
        "system": lambda: client.get("/system"),
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
        print(f"{name:32} {median:7.1f} ms   worst {max(times):7.1f} ms{mark}")
    return slow


if __name__ == "__main__":
    main()
