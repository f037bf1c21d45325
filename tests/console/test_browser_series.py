"""A series' page in a browser: what happened, the plot, pictures with and without the map."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.states import DeliveryEvent
from support.browser import Chromium, decoded
from support.console_node import ConsoleNode, ServedConsole
from support.console_tab import console_tab

pytestmark = pytest.mark.peer("chromium")

SLICES = 24


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleNode]:
    made = ConsoleNode(tmp_path_factory.mktemp("read"))
    made.user("vera", ConsoleRole.VIEWER)
    yield made
    made.ledger.close()


@pytest.fixture(scope="module")
def read(node: ConsoleNode) -> int:
    series_id = node.read(slices=SLICES)
    node.now += 4.0
    node.sent(DeliveryEvent.ACCEPTED)
    return series_id


@pytest.fixture(scope="module")
def served(node: ConsoleNode, read: int) -> Iterator[ServedConsole]:
    with ServedConsole(node) as console:
        yield console


def colours(picture: Locator) -> int:
    """Pixels of a drawn picture whose channels differ: what a map adds to grey."""
    return int(
        picture.evaluate(
            """picture => {
                const canvas = document.createElement("canvas");
                canvas.width = picture.naturalWidth;
                canvas.height = picture.naturalHeight;
                const context = canvas.getContext("2d");
                context.drawImage(picture, 0, 0);
                const middle = context.getImageData(0, canvas.height / 4, canvas.width,
                                                    canvas.height / 2).data;
                let count = 0;
                for (let i = 0; i < middle.length; i += 4) {
                    count += Math.abs(middle[i] - middle[i + 2]) > 24;
                }
                return count;
            }"""
        )
    )


def test_what_happened_and_what_was_found(served: ServedConsole, chromium: Chromium) -> None:
    with console_tab(chromium, served, "vera") as tab:
        page = tab.page
        page.get_by_role("link", name="THORAX 5.0 LUNG").click()
        steps = page.locator(".timeline b").all_inner_texts()
        assert steps[0] == "First image"
        assert steps[-2:] == ["Delivered to pacs", "Delivering to archive"]
        expect(page.get_by_text("Untrained model.", exact=False).first).to_be_visible()
        plot = page.get_by_role("img", name="Probability of each class, slice by slice")
        expect(plot).to_be_visible()
        box = plot.bounding_box()
        assert box is not None
        assert box["width"] > 500
        expect(plot.locator("polyline")).to_have_count(4)
        # Under the pointer a slice says its numbers.
        slice_12 = plot.locator(".hover").nth(11)
        slice_12.hover(position={"x": 3, "y": 40})
        assert slice_12.evaluate("bar => getComputedStyle(bar).fillOpacity") == "0.1"
        assert "12" in str(slice_12.locator("title").text_content())
        rows = page.locator(".plain-table").first.locator("tbody tr")
        expect(rows).to_have_count(5)
        expect(rows.first).to_contain_text("sent")
        page.get_by_text("Journal and identifiers").click()
        expect(page.get_by_text("the series was taken as whole")).to_be_visible()


def test_the_map_goes_on_and_off(served: ServedConsole, read: int, chromium: Chromium) -> None:
    with console_tab(chromium, served, "vera") as tab:
        page = tab.page
        page.goto(f"/series/{read}")
        first = page.locator("#thumbnails li").first
        first.wait_for()
        assert decoded(page) == 2 * page.locator("#thumbnails li").count() >= 10
        with_map, alone = first.locator(".map"), first.locator(".ct")
        expect(with_map).to_be_visible()
        expect(alone).to_be_hidden()
        page.get_by_label("Location map").uncheck()
        expect(alone).to_be_visible()
        expect(with_map).to_be_hidden()
        page.get_by_role("heading", level=1).click()
        page.keyboard.press("m")
        expect(page.get_by_label("Location map")).to_be_checked()
        expect(with_map).to_be_visible()
        assert colours(with_map) > 50 > 5 > colours(alone)
