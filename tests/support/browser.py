"""Debian's chromium, driven by Playwright: tabs that take note of what a page may not do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, Playwright, Request, expect, sync_playwright

from support.peers import program

__all__ = ["Chromium", "Tab", "barriers", "decoded", "overhang"]

Theme = Literal["light", "dark"]
_SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_PATIENCE_S = 60.0  # a machine with other work is slow; nobody waits this long otherwise
# No name resolves: a page that wanted something from elsewhere would fail, and be noted.
_NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
_ELSEWHERE = "request to elsewhere"


@dataclass
class Tab:
    """One tab of a profile of its own.

    Attributes
    ----------
    page : playwright Page
    faults : list of str
        Errors in the console (those of the content security policy are among them), exceptions,
        and requests to other machines.
    refusals : list of str
        Addresses that were answered with 4xx or 5xx.
    """

    page: Page
    faults: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def _watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", self._asked)
        self.page.on(
            "response",
            lambda answer: self.refusals.append(answer.url) if answer.status >= 400 else None,
        )

    def _said(self, message: ConsoleMessage) -> None:
        # The browser repeats every refused request in the console; those are counted as such.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob", "file") and address.hostname != "127.0.0.1":
            self.faults.append(f"{_ELSEWHERE}: {request.url}")


class Chromium:
    """A headless browser without a network.

    Parameters
    ----------
    webgl : bool
        Draw by software what a graphics card would: viewers need it.
    """

    def __init__(self, *, webgl: bool = False) -> None:
        self._webgl = webgl
        self._playwright: Playwright | None = None
        self._browser: Any = None

    def __enter__(self) -> Chromium:
        expect.set_options(timeout=_PATIENCE_S * 1000)
        self._playwright = sync_playwright().start()
        flags = [_NO_NAMES, *(_SOFTWARE_WEBGL if self._webgl else ())]
        self._browser = self._playwright.chromium.launch(
            executable_path=program("chromium", "chromium-browser"),
            args=flags,
            chromium_sandbox=os.geteuid() != 0,  # as root it has none
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._playwright is not None
        self._browser.close()
        self._playwright.stop()

    @contextmanager
    def tab(
        self,
        base_url: str = "",
        *,
        width: int = 1280,
        height: int = 800,
        theme: Theme = "light",
        refusals: bool = False,
        is_ours: bool = True,
        patience_s: float = _PATIENCE_S,
    ) -> Iterator[Tab]:
        """Yield a tab; on leaving, a page that did what it may not fails the test.

        Parameters
        ----------
        base_url : str
            What paths are relative to.
        width, height : int
            Of the window, in CSS pixels.
        refusals : bool
            Whether answers 4xx and 5xx belong to the test.
        is_ours : bool
            Whether the page is the project's own. Another's may complain as it likes, and
            still asks no other machine.
        patience_s : float
            How long anything is waited for.
        """
        context = self._browser.new_context(
            base_url=base_url,
            viewport={"width": width, "height": height},
            color_scheme=theme,
            timezone_id="UTC",
        )
        context.set_default_timeout(patience_s * 1000)
        tab = Tab(context.new_page())
        tab._watch()
        try:
            yield tab
        finally:
            context.close()
        faults = [fault for fault in tab.faults if is_ours or fault.startswith(_ELSEWHERE)]
        assert not faults, faults
        assert refusals or not is_ours or not tab.refusals, tab.refusals


def barriers(page: Page) -> list[str]:
    """Return what axe calls serious or critical on the page as it is now, one line each."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{item['id']} ({item['impact']}): {node['target']} {node['html'][:160]}"
        for item in found
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]


def decoded(page: Page) -> int:
    """Wait until every picture on the page is decoded; return how many there are."""
    return int(
        page.evaluate(
            """async () => {
                const pictures = [...document.images];
                pictures.forEach((picture) => { picture.loading = "eager"; });
                await Promise.all(pictures.map((picture) => picture.decode()));
                return pictures.length;
            }"""
        )
    )


def overhang(page: Page) -> int:
    """Return by how many pixels the page is wider than its window; 0 or less: it fits."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
