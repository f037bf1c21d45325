"""A failed delivery, mended in the browser: a real PACS refuses first, and has everything then."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dicom_node.ledger.console_users import ConsoleRole
from support.browser import Chromium
from support.console_node import ConsoleNode, ServedConsole
from support.console_tab import console_tab
from support.orthanc import Orthanc

pytestmark = [
    pytest.mark.peer("chromium"),
    pytest.mark.peer("orthanc"),
    pytest.mark.slow,
    pytest.mark.timeout(600),  # processes of the node start, on a machine with other work
]

PACS = '[[peers]]\nname = "{name}"\nae_title = "{title}"\nhost = "127.0.0.1"\nport = {port}\n'


@contextmanager
def running(node: ConsoleNode, verb: str) -> Iterator[None]:
    """One process of the node."""
    with (node.directory / f"{verb}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", verb, "--config", str(node.config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_a_parked_delivery_is_sent_after_the_title_was_corrected(
    tmp_path: Path, orthanc: Orthanc, chromium: Chromium
) -> None:
    node = ConsoleNode(tmp_path)
    common = node.config.read_text()

    def peers(title: str) -> str:
        names = {"pacs": title, "archive": orthanc.ae_title}
        return common + "".join(
            PACS.format(name=name, title=wanted, port=orthanc.dicom_port)
            for name, wanted in names.items()
        )

    node.config.write_text(peers("NOBODY"))
    node.user("ada", ConsoleRole.ADMIN)
    node.now -= 600  # the reading ended in the past: what it wrote is due
    series_id = node.read()
    node.now = time.time()
    with ExitStack() as stack:
        for verb in ("reconcile", "deliver"):
            stack.enter_context(running(node, verb))
        served = stack.enter_context(ServedConsole(node))
        page = stack.enter_context(console_tab(chromium, served)).page
        page.goto(f"/series/{series_id}")
        refused = page.locator(".notice.bad", has_text="pacs:")
        expect(refused).to_contain_text("the peer is not called NOBODY")
        expect(page.locator(".badge.bad").first).to_have_text("Needs attention")
        orthanc.wait_for_count(1)  # another delivery, in its own time
        assert orthanc.instance_count() == 1  # the report, for the archive

        node.config.write_text(peers(orthanc.ae_title))
        node.now = time.time()
        refused.get_by_role("button", name="Send again now").click()
        expect(page.get_by_role("status")).to_have_text("Delivery to pacs is tried again now.")
        # It changes by itself when the objects have arrived.
        expect(page.get_by_text("Delivered", exact=True)).to_be_visible()
        expect(page.locator(".notice.bad")).to_have_count(0)
        expect(page.locator(".timeline")).to_contain_text("Delivered to pacs")
    held = orthanc.by_sop_class()
    assert set(held) >= {"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4"}
    assert orthanc.instance_count() == 11
    node.ledger.close()
