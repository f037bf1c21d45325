"""A console with one series at every stage, and two browsers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.console_node import Filled, ServedConsole, filled_node


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
