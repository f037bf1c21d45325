"""The structured report as DCMTK's dsr2html writes it, drawn by a browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.browser import Chromium
from support.console_node import ConsoleNode
from support.peers import program

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("chromium")]


def test_a_report_can_be_read_without_a_viewer(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.read()
    node.ledger.close()
    [report, *_] = sorted(node.source().results_dir.rglob("report-0.dcm"))
    page = tmp_path / "report.html"
    subprocess.run(
        [str(program("dsr2html")), "--charset-check-all", str(report), str(page)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with Chromium() as chromium, chromium.tab() as tab:
        tab.page.goto(page.as_uri())
        words = tab.page.locator("body").inner_text()
    for wanted in ("Imaging Measurement Report", "COVID-19", "Probability", "Percent", "UNTRAINED"):
        assert wanted in words
