"""Every page, dark and light, wide and narrow: nothing for axe to object to, nothing cut off.

That no page writes an error, breaks its content security policy or asks another machine is what
each tab checks by itself (:class:`support.browser.Chromium`).
"""

from __future__ import annotations

import pytest

from support.browser import Chromium, Theme, barriers, decoded, overhang
from support.console_node import Filled, ServedConsole
from support.console_tab import console_tab

pytestmark = pytest.mark.peer("chromium")


@pytest.fixture(scope="module")
def read(filled: Filled) -> int:
    """A series with pictures."""
    return filled.node.read()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_pages(
    filled: Filled,
    console: ServedConsole,
    chromium: Chromium,
    read: int,
    theme: Theme,
    width: int,
) -> None:
    found: dict[str, list[str]] = {}
    with chromium.tab(console.url, width=width, theme=theme) as tab:
        tab.page.goto("/login")
        found["/login"] = barriers(tab.page)
    with console_tab(chromium, console, width=width, theme=theme) as tab:
        page = tab.page
        navigation = page.get_by_role("navigation").get_by_role("link").all()
        paths = [str(link.get_attribute("href")) for link in navigation]
        assert {"/", "/system"} <= set(paths)
        shown = [filled.failed_delivery, filled.quarantined, filled.receiving, read]
        for path in [*paths, *(f"/series/{number}" for number in shown)]:
            page.goto(path)
            if path.endswith(f"/{read}"):
                page.locator("#thumbnails").wait_for()
                assert decoded(page) > 0
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ground == {"light": "rgb(244, 246, 247)", "dark": "rgb(16, 20, 22)"}[theme]
            found[path] = barriers(page)
            assert overhang(page) <= 0, path
    assert not {path: words for path, words in found.items() if words}


def test_what_is_not_there_is_said(console: ServedConsole, chromium: Chromium) -> None:
    with console_tab(chromium, console, refusals=True) as tab:
        tab.page.goto("/nothing")
        assert tab.page.get_by_text("There is no such page.").is_visible()
        assert barriers(tab.page) == []
        tab.page.get_by_role("link", name="To the worklist").click()
        assert tab.refusals == [f"{console.url}/nothing"]
