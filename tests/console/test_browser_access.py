"""Logging in, as a browser does it: the first account, slips of the finger, guesses, the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dicom_node.ledger.console_users import ConsoleRole
from support.browser import Chromium
from support.console_node import PASSWORD, ConsoleNode, ServedConsole
from support.console_tab import enter

pytestmark = pytest.mark.peer("chromium")


def test_the_first_account_comes_from_the_command_that_the_page_names(
    tmp_path: Path, chromium: Chromium
) -> None:
    node = ConsoleNode(tmp_path)
    with ServedConsole(node) as served, chromium.tab(served.url) as tab:
        page = tab.page
        page.goto("/")
        named = page.locator("pre").inner_text().split()
        assert named[:3] == ["m3lung", "console", "add-user"]
        words = ["ada" if word == "NAME" else word for word in named[1:]]
        subprocess.run(
            [sys.executable, "-m", "dicom_node", *words],
            input=f"{PASSWORD}\n", text=True, check=True, timeout=120, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        page.reload()
        expect(page.locator("pre")).to_have_count(0)
        enter(page, "ada")
        expect(page.get_by_text("No series has arrived yet.")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    node.ledger.close()


def test_a_wrong_password_keeps_the_name_and_the_way(tmp_path: Path, chromium: Chromium) -> None:
    node = ConsoleNode(tmp_path)
    node.user("vera", ConsoleRole.VIEWER)
    with ServedConsole(node) as served, chromium.tab(served.url, refusals=True) as tab:
        page = tab.page
        page.goto("/system")
        enter(page, "vera", "wrong")
        expect(page.get_by_role("alert")).to_have_text("Name and password do not fit together.")
        expect(page.get_by_label("Name")).to_have_value("vera")
        expect(page.get_by_label("Password")).to_be_focused()
        enter(page, "vera")
        # It was the system page that was wanted.
        expect(page.get_by_role("heading", name="System")).to_be_visible()
        assert tab.refusals == [f"{served.url}/login"]
    node.ledger.close()


def test_who_guesses_has_to_wait(tmp_path: Path, chromium: Chromium) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    with ServedConsole(node) as served, chromium.tab(served.url, refusals=True) as tab:
        page = tab.page
        page.goto("/login")
        for number in range(5):
            enter(page, "ada", f"guess {number}")
            expect(page.get_by_role("alert")).to_contain_text("do not fit")
        enter(page, "ada")  # the right one, too late
        expect(page.get_by_role("alert")).to_contain_text("Too many failed attempts. Try again in")
    node.ledger.close()
