"""What three systems say of a series, and what has changed since an earlier study."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from dicom_node.console.since import since
from dicom_node.ledger.console_users import ConsoleRole
from inference.domain import Findings, QualityCode, QualityStatement
from support.browser import Chromium, Theme, barriers, decoded, overhang
from support.console_node import ConsoleNode, ServedConsole
from support.console_tab import console_tab
from support.made_findings import MODEL
from support.other_systems import JCS, M2UNET

DISAGREEMENT = "M3Lung-Sys reads COVID-19, outlines reads not COVID-19."


def more(findings: Findings) -> Findings:
    """Half as much again, and not severe."""
    assert findings.lobes is not None
    percent = 1.5 * (findings.burden.percent_of_lung or 0.0)
    return replace(
        findings,
        burden=replace(findings.burden, percent_of_lung=percent),
        lobes=replace(findings.lobes, severe_probability=0.2),
    )


def disagreeing(findings: Findings) -> Findings:
    said = QualityStatement(QualityCode.SYSTEMS_DISAGREE, DISAGREEMENT)
    return replace(findings, quality=(*findings.quality, said))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleNode]:
    made = ConsoleNode(tmp_path_factory.mktemp("systems"))
    made.user("vera", ConsoleRole.VIEWER)
    yield made
    made.ledger.close()


@pytest.fixture(scope="module")
def earlier(node: ConsoleNode) -> int:
    return node.read(study="one", study_date="20200102", others=True, change=more)


@pytest.fixture(scope="module")
def read(node: ConsoleNode, earlier: int) -> int:
    node.now += 60
    return node.read(study="two", study_date="20200311", others=True, change=disagreeing)


@pytest.fixture(scope="module")
def served(node: ConsoleNode, read: int) -> Iterator[ServedConsole]:
    with ServedConsole(node) as console:
        yield console


@pytest.fixture(scope="module")
def browser(served: ServedConsole) -> Iterator[httpx.Client]:
    with served.log_in("vera") as client:
        yield client


def part(page: str, name: str) -> str:
    """Return the text of a card without its tags."""
    start = page.index(f'id="{name}"')
    text = re.sub(r"<[^>]+>", " ", page[start : page.index("</section>", start)])
    return re.sub(r"\s+", " ", text)


def test_each_number_names_its_model(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}").text
    card = part(page, "systems")
    for name in ("RUL", "RML", "RLL", "LUL", "LLL"):
        assert name in card
    assert f"{MODEL.name} in lobes of {M2UNET.name}" in card
    assert f"{JCS.name} in lobes of {M2UNET.name}" in card
    assert "of 25" in card
    severity = "severe , probability of severe 0.80 (severe: at least 25 % of the lungs)"
    assert f"{severity} {M2UNET.name}" in card
    assert "COVID-19 , deciding probability 0.90" in card
    assert re.search(rf"Outlined lesions \d+\.\d % of the lung, \d+ ml {JCS.name}", card)
    for model in (M2UNET, JCS):
        assert f"{model.name} {model.version}, demonstration" in card


def test_a_disagreement_stands_above_the_numbers_once(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}").text
    assert page.count(DISAGREEMENT) == 1
    assert part(page, "systems").index("The systems disagree.") < 60


def test_without_the_systems_there_is_no_card(node: ConsoleNode, browser: httpx.Client) -> None:
    alone = node.read(study="three", study_date="20200401")
    page = browser.get(f"/series/{alone}").text
    assert 'id="systems"' not in page
    assert 'id="since"' in page  # the main model's share is still compared


def test_the_change_since_the_earlier_study(browser: httpx.Client, read: int, earlier: int) -> None:
    page = browser.get(f"/series/{read}").text
    card = part(page, "since")
    assert "Since the study of 2020-01-02 less" in card
    assert re.search(r"Lung involvement M3Lung-Sys [\d.]+ % [\d.]+ % -[\d.]+ points -33 %", card)
    assert f"Severity {M2UNET.name} not severe severe changed" in card
    assert f"CT severity score {JCS.name} in lobes of {M2UNET.name}" in card
    assert "Lobes, in percentage points" in card
    assert f'href="/series/{earlier}">That study' in page


def test_why_nothing_is_compared(browser: httpx.Client, earlier: int) -> None:
    card = part(browser.get(f"/series/{earlier}").text, "since")
    assert "Not compared with an earlier study: this node has read no earlier study" in card


@pytest.mark.parametrize("result", [None, {}, {"progress": None}, {"progress": {"comparable": 3}}])
def test_a_result_without_progress_shows_none(result: dict[str, object] | None) -> None:
    assert since(result) is None


def test_explanations_beside_the_maps(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}/thumbnails").text
    assert page.index(f'Location map <span class="by">{MODEL.name}') < page.index(
        f'Explanation <span class="by">{JCS.name}'
    )
    found = {layer: re.findall(rf'src="([^"]+/{layer})"', page) for layer in ("map", "explanation")}
    assert found["map"]
    assert found["explanation"]
    for addresses in found.values():
        picture = Image.open(io.BytesIO(browser.get(addresses[0]).content)).convert("RGB")
        colours = picture.getcolors(1 << 20) or []
        assert any(max(rgb) - min(rgb) > 60 for _, rgb in colours)
    assert len(re.findall(r'src="[^"]+/ct"', page)) == sum(map(len, found.values()))


def test_the_objects_of_each_system_are_a_line_of_their_own(
    browser: httpx.Client, read: int
) -> None:
    page = browser.get(f"/series/{read}").text
    table = page[page.index("Results and where they are") :]
    for words in ("Segmentation, lobes", "Segmentation, lesions", "Overlay series, explanation"):
        assert words in table


@pytest.mark.peer("chromium")
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_the_page_is_legible(
    served: ServedConsole, chromium: Chromium, read: int, theme: Theme, width: int
) -> None:
    with console_tab(chromium, served, "vera", width=width, theme=theme) as tab:
        page = tab.page
        page.goto(f"/series/{read}")
        page.locator("#thumbnails").wait_for()
        assert decoded(page) > 0
        assert barriers(page) == []
        assert overhang(page) <= 0
        lists = page.locator(".thumbnails")
        expect(lists).to_have_count(2)
        page.get_by_label("Maps").uncheck()
        for index in range(2):
            expect(lists.nth(index).locator(".map").first).to_be_hidden()
            expect(lists.nth(index).locator(".ct").first).to_be_visible()
