"""A browser's tab in which somebody has logged in to the console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page

from support.browser import Chromium, Tab
from support.console_node import PASSWORD, ServedConsole

__all__ = ["console_tab", "enter"]


def enter(page: Page, name: str, password: str = PASSWORD) -> None:
    """Fill in the form of the login page, and send it."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


@contextmanager
def console_tab(
    chromium: Chromium, served: ServedConsole, name: str = "ada", **options: Any
) -> Iterator[Tab]:
    """Yield a tab on the worklist; `options` are those of :meth:`Chromium.tab`."""
    with chromium.tab(served.url, **options) as tab:
        tab.page.goto("/login")
        enter(tab.page, name)
        tab.page.get_by_role("heading", name="Worklist").wait_for()
        yield tab
