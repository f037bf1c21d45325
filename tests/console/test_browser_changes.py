"""An administrator's first hour in the browser: a destination, its test, a rule, the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dicom_node.ledger.console_users import ConsoleRole
from support.browser import Chromium, barriers
from support.console_node import ConsoleNode, ServedConsole
from support.console_tab import console_tab
from support.orthanc import Orthanc
from support.ports import free_port

pytestmark = pytest.mark.peer("chromium")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ConsoleNode]:
    made = ConsoleNode(tmp_path)
    made.user("ada", ConsoleRole.ADMIN)
    yield made
    made.ledger.close()


@pytest.mark.peer("orthanc")
def test_a_destination_is_added_and_tried(
    node: ConsoleNode, chromium: Chromium, orthanc: Orthanc
) -> None:
    with ServedConsole(node) as served, console_tab(chromium, served, refusals=True) as tab:
        page = tab.page
        page.get_by_role("link", name="Peers", exact=True).click()
        page.get_by_role("link", name="Add a peer").click()
        page.get_by_label("Name here").fill("pacs")
        page.get_by_label("AE title", exact=True).fill(orthanc.ae_title)
        page.get_by_label("Host").fill("127.0.0.1")
        page.get_by_label("Port", exact=True).fill("a hundred")
        page.get_by_label("Destination: it gets the results").check()
        page.get_by_role("button", name="Save and test").click()
        # The field that is wrong says so, has the focus, and what was typed stays.
        port = page.get_by_label("Port", exact=True)
        expect(port).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("alert").first).to_contain_text("Nothing was changed.")
        expect(page.get_by_label("Name here")).to_have_value("pacs")
        assert barriers(page) == []
        port.fill(str(orthanc.dicom_port))
        page.get_by_role("button", name="Save and test").click()
        # Step by step, without a reload.
        expect(page.get_by_text("Everything works.")).to_be_visible()
        expect(page.locator(".steps li")).not_to_have_count(0)
        assert barriers(page) == []
    assert node.source().peer("pacs").ae_title == orthanc.ae_title
    assert orthanc.instance_count() == 0


def test_a_destination_that_does_not_answer_says_what_to_do(
    node: ConsoleNode, chromium: Chromium
) -> None:
    common = node.config.read_text()
    node.config.write_text(
        f'{common}\n[[peers]]\nname = "gone"\nae_title = "GONE"\nport = {free_port()}\n'
    )
    with ServedConsole(node) as served, console_tab(chromium, served) as tab:
        page = tab.page
        page.goto("/peers")
        page.get_by_role("button", name="Test gone").click()
        expect(page.get_by_text("Something failed:")).to_be_visible()
        expect(page.locator(".steps li", has_text="failed").first).to_be_visible()


def test_a_rule_is_tried_before_it_is_saved(node: ConsoleNode, chromium: Chromium) -> None:
    node.received()
    with ServedConsole(node) as served, console_tab(chromium, served) as tab:
        page = tab.page
        page.get_by_role("link", name="Rules", exact=True).click()
        page.get_by_role("link", name="Add a rule").click()
        page.get_by_label("Name", exact=True).fill("thorax-first")
        page.get_by_label("Series description").fill("*thorax*")
        page.get_by_label("Priority").select_option("urgent")
        page.get_by_role("button", name="Try").click()
        expect(page.get_by_text("Tried, not saved.")).to_be_visible()
        expect(page.locator("#trials tbody tr").first).to_contain_text("thorax-first")
        assert barriers(page) == []
        assert node.source().rules == ()
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", name="Rules", exact=True)).to_be_visible()
        expect(page.locator("main")).to_contain_text("thorax-first")
    assert [rule.name for rule in node.source().rules] == ["thorax-first"]


def test_a_change_is_seen_and_taken_back(node: ConsoleNode, chromium: Chromium) -> None:
    with ServedConsole(node) as served, console_tab(chromium, served) as tab:
        page = tab.page
        page.goto("/peers/add")
        page.get_by_label("Name here").fill("viewer")
        page.get_by_label("AE title", exact=True).fill("VIEWER")
        page.get_by_label("Host").fill("127.0.0.1")
        page.get_by_label("Port", exact=True).fill("4243")
        page.get_by_label("Destination: it gets the results").check()
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_role("heading", name="viewer")).to_be_visible()
        assert [peer.name for peer in node.source().peers] == ["viewer"]
        page.get_by_role("link", name="Configuration", exact=True).click()
        page.get_by_role("link", name="What changed").first.click()
        expect(page.locator("tr.new", has_text='ae_title = "VIEWER"')).to_be_visible()
        assert barriers(page) == []
        page.get_by_role("link", name="Configuration").first.click()
        page.get_by_role("link", name="Restore …").first.click()
        expect(page.locator("tr.gone", has_text='ae_title = "VIEWER"')).to_be_visible()
        assert barriers(page) == []
        page.get_by_role("button", name="Restore version").click()
        expect(page.get_by_role("heading", name="Configuration")).to_be_visible()
    assert node.source().peers == ()
