"""Jobs beside a process's work: each at its pace, none stopped by another."""

from __future__ import annotations

import threading
import time

from structlog.testing import capture_logs

from dicom_node.chores import Chores
from dicom_node.errors import LedgerError


def test_each_runs_again_and_again_whatever_the_others_do() -> None:
    done: list[str] = []
    often = threading.Event()

    def works() -> None:
        done.append("works")
        if done.count("works") >= 3:
            often.set()

    def fails() -> None:
        done.append("fails")
        raise LedgerError("Canary^Patient")

    def breaks() -> None:
        done.append("breaks")
        raise KeyError("Canary^Patient")

    def seldom() -> None:
        done.append("seldom")

    jobs = ((fails, 0.0), (breaks, 0.0), (works, 0.0), (seldom, 3600.0))
    with capture_logs() as logs, Chores(*jobs).running():
        assert often.wait(60)
    count = len(done)
    time.sleep(0.7)
    assert len(done) == count  # it ended with the work
    assert done.count("seldom") == 1
    assert done.count("fails") >= 3
    # The first of a row of failures is told, by its kind.
    assert [log for log in logs if "fails" in log["chore"]] == [
        {"event": "chore failed", "chore": logs[0]["chore"], "error": "LedgerError",
         "log_level": "error"}
    ]  # fmt: skip
