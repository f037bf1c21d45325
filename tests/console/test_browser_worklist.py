"""The worklist in a browser: it moves by itself, finds, filters, and needs no mouse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.states import DeliveryEvent
from support.browser import Chromium
from support.console_node import PASSWORD, ConsoleNode, Filled, ServedConsole
from support.console_tab import console_tab

pytestmark = pytest.mark.peer("chromium")


def rows(page: Page) -> list[int]:
    return [
        int(str(row.get_attribute("id")).removeprefix("series-"))
        for row in page.locator("tbody tr").all()
    ]


def test_a_series_appears_and_moves_without_a_reload(tmp_path: Path, chromium: Chromium) -> None:
    node = ConsoleNode(tmp_path)
    node.user("vera", ConsoleRole.VIEWER)
    with ServedConsole(node) as served, console_tab(chromium, served, "vera") as tab:
        page = tab.page
        page.evaluate("document.body.dataset.same = 'page'")
        expect(page.get_by_text("No series has arrived yet.")).to_be_visible()
        arrived = node.received(accession="ACC-LIVE")
        row = page.locator(f"#series-{arrived}")
        expect(row.get_by_text("Receiving", exact=True)).to_be_visible()
        expect(page.locator("#counts")).to_contain_text("1 receiving")
        node.ledger.revisions.select(node.completed(arrived), {"sop_instance_uids": []})
        expect(row.get_by_text("Queued", exact=True)).to_be_visible()
        expect(page.locator("#counts")).to_contain_text("1 queued")
        assert page.evaluate("document.body.dataset.same") == "page"
        # A viewer is offered nothing that only an administrator may do.
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    node.ledger.close()


def test_search_and_filter(filled: Filled, console: ServedConsole, chromium: Chromium) -> None:
    with console_tab(chromium, console, "vera") as tab:
        page = tab.page
        assert len(rows(page)) == 8
        page.get_by_label("Accession number").fill("ACC-4711")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        assert rows(page) == [filled.failed_delivery]
        assert "4711" not in page.url
        page.get_by_label("Accession number").fill("ACC-47")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Only whole numbers are found.")).to_be_visible()
        page.get_by_role("link", name="Clear").click()
        expect(page.locator("tbody tr")).to_have_count(8)
        page.get_by_label("State").select_option("Needs attention")
        expect(page.locator("tbody tr")).to_have_count(2)
        page.locator(".counts a", has_text="analysing").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        assert rows(page) == [filled.analysing]


def test_the_keyboard_is_enough(tmp_path: Path, chromium: Chromium) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    failed = node.analysed()
    node.sent(DeliveryEvent.PERMANENT, "the called AE title is not recognised")
    with ServedConsole(node) as served, chromium.tab(served.url) as tab:
        page = tab.page

        def tab_to(name: str) -> None:
            """Press Tab until something of that name has the focus and shows it."""
            for _ in range(40):
                page.keyboard.press("Tab")
                here = page.locator(":focus")
                words = here.get_attribute("aria-label") or here.inner_text()
                if words.strip() == name:
                    outline = here.evaluate("element => getComputedStyle(element).outlineStyle")
                    assert outline != "none", name
                    return
            raise AssertionError(f"no way to {name}")

        page.goto("/login")
        expect(page.get_by_label("Name")).to_be_focused()
        page.keyboard.type("ada")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Worklist")).to_be_visible()

        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        tab_to("Retry")
        page.keyboard.press("Enter")
        expect(page.locator(f"#series-{failed}")).to_contain_text("Delivering")
        page.goto("/")
        tab_to("Thorax 1.0 Br40 #1")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(r"/series/\d+$"))
        tab_to("Switch between dark and light")
        page.keyboard.press("Space")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    node.ledger.close()
