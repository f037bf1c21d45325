"""A console with one series at every stage, two HTTP clients, and a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.browser import Chromium
from support.console_node import Filled, ServedConsole, filled_node
from support.peers import require_peer


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    made = filled_node(tmp_path_factory.mktemp("console"))
    yield made
    made.node.ledger.close()


@pytest.fixture(scope="module")
def console(filled: Filled) -> Iterator[ServedConsole]:
    with ServedConsole(filled.node) as served:
        yield served


@pytest.fixture(scope="module")
def admin(console: ServedConsole) -> Iterator[httpx.Client]:
    with console.log_in("ada") as client:
        yield client


@pytest.fixture(scope="module")
def viewer(console: ServedConsole) -> Iterator[httpx.Client]:
    with console.log_in("vera") as client:
        yield client


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser of this module."""
    require_peer("chromium")
    with Chromium() as browser:
        yield browser
