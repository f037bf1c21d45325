"""One series' page: what happened, what was found, why not, pictures, deliveries."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from PIL import Image

from dicom_node.console.reading import predicted, whole
from dicom_node.console.slice_plot import distribution_cells, plot, read_document
from dicom_node.console.thumbnails import Thumbnails
from dicom_node.console.timeline import timeline
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.series_record import instance_paths, read_series
from dicom_node.ledger.states import DeliveryEvent
from support.console_node import ConsoleNode, Filled, ServedConsole

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
def browser(node: ConsoleNode, read: int) -> Iterator[httpx.Client]:
    with ServedConsole(node) as served, served.log_in("vera") as client:
        yield client


def test_the_timeline_has_every_step_with_its_time(node: ConsoleNode, read: int) -> None:
    record = read_series(node.ledger.database, read)
    assert record is not None
    steps = timeline(record)
    assert [step.title for step in steps] == [
        *("First image", "Last image", "Complete", "Chosen", "Analysis began", "Analysed"),
        *("Delivered to pacs", "Delivering to archive"),
    ]
    took = {step.title: step.took_s for step in steps}
    assert took["Complete"] == pytest.approx(3.2)
    assert took["Analysed"] == pytest.approx(48.5)
    assert took["Delivered to pacs"] == pytest.approx(4.0)
    assert took["Delivering to archive"] is None
    assert "stack without gaps" in steps[2].words


def test_what_was_read_ahead_says_so(node: ConsoleNode, read: int) -> None:
    record = read_series(node.ledger.database, read)
    assert record is not None
    assert record.row.status.result is not None
    words = []
    for reading_s in (40.0, 300.0):  # the analysis took 48.5 s
        result = {**record.row.status.result, "timing_s": {"slices": reading_s}}
        status = dataclasses.replace(record.row.status, result=result)
        row = dataclasses.replace(record.row, status=status)
        steps = timeline(dataclasses.replace(record, row=row))
        words += [step.words for step in steps if step.title == "Analysed"]
    assert words == ["", "it had been read ahead of its turn"]


def test_shows_the_reading(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}").text
    for words in ("COVID-19", "0.71", "Untrained model.", "of the lung", "Delivered to pacs"):
        assert words in page
    assert page.count('class="hover"') == SLICES
    # Each class has a colour and a dash pattern of its own.
    sheet = browser.get("/static/console.css").text
    for name in ("healthy", "covid19", "h1n1", "cap"):
        assert f'<polyline class="trace {name}"' in page
        assert re.search(rf"\.trace\.{name} {{[^}}]*stroke: var\(--{name}\)", sheet)
    drawn = re.search(r'<svg class="plot".*?</svg>', page, re.DOTALL)
    assert drawn is not None
    ElementTree.fromstring(drawn[0])  # well-formed
    assert 'class="level-8"' in page  # the distribution map
    assert f'hx-trigger="sse:series-{read} throttle:2s"' in page


def test_objects_and_their_delivery(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}").text
    table = page[page.index("Results and where they are") :]
    for words in ("Structured report", "Overlay series", "Segmentation", "Key objects", "archive"):
        assert words in table
    assert "✓" not in table  # the badge's sign is the sheet's
    assert re.search(r"badge small good\">\d+ sent<", table)
    assert 'badge small wait">waiting<' in table


def test_the_report_can_be_read_as_text(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}").text
    assert page.index('id="pictures-') < page.index("Slices, from head to feet")  # first
    assert f'href="/series/{read}/report"' in page
    report = browser.get(f"/series/{read}/report").text
    for words in ("Imaging Measurement Report", "Imaging Measurements", "COVID-19", "Probability",
                  "0.71", "unverified"):  # fmt: skip
        assert words in report
    assert re.search(r"<details><summary>Image Library", report)  # long, so folded
    assert browser.get("/series/999/report").status_code == 404


def test_thumbnails_with_and_without_the_map(browser: httpx.Client, read: int) -> None:
    page = browser.get(f"/series/{read}/thumbnails").text
    addresses = re.findall(r'src="([^"]+/(?:map|ct))"', page)
    assert 0 < len(addresses) <= 2 * 24
    assert sum(address.endswith("/ct") for address in addresses) == len(addresses) // 2
    for address in addresses[:2]:
        answer = browser.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        picture = Image.open(io.BytesIO(answer.content))
        assert max(picture.size) <= 256
        colours = picture.convert("RGB").getcolors(1 << 20) or []
        grey = all(max(rgb) - min(rgb) < 24 for _, rgb in colours)
        assert grey == address.endswith("/ct")
    assert browser.get(addresses[0].replace("/map", "/header")).status_code == 422
    other = re.sub(r"/thumbnail/\d+/", "/thumbnail/999/", addresses[0])
    assert browser.get(other).status_code == 404


def test_two_consoles_over_one_state_make_the_same_pictures(
    node: ConsoleNode, read: int, tmp_path: Path
) -> None:
    record = read_series(node.ledger.database, read)
    assert record is not None
    results = node.source().results_dir
    overlays = [results / o.path for o in record.objects if o.kind == "overlay"][:2]
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda _: Thumbnails(tmp_path / "kept").of_reading(1, {"map": overlays}, {}),
                range(2),
            )
        )
    assert len(found[0]) == 2
    assert found[0] == found[1]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["1"]


def test_a_file_that_breaks_the_decoder_costs_one_picture(
    node: ConsoleNode, read: int, tmp_path: Path
) -> None:
    record = read_series(node.ledger.database, read)
    assert record is not None
    settings = node.source()
    overlays = [settings.results_dir / o.path for o in record.objects if o.kind == "overlay"][:3]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(overlays[0].read_bytes()[:3000])
    sources = {
        uid: settings.spool_dir / path
        for uid, path in instance_paths(node.ledger.database, read).items()
    }
    sources = dict.fromkeys(sources, broken)  # every CT is broken
    layers = {"map": [broken, *overlays[1:]]}
    found = Thumbnails(tmp_path / "kept").of_reading(1, layers, sources)
    assert [item.has_ct for item in found] == [False, False]
    assert not list((tmp_path / "kept").glob("*.new"))


def test_says_why_there_is_no_result(filled: Filled, viewer: httpx.Client) -> None:
    for series_id, words in (
        (filled.skipped, "The series is a localizer."),
        (filled.quarantined, "the analysis failed unexpectedly (KeyError)"),
        (filled.failed_delivery, "the called AE title is not recognised"),
        (filled.receiving, "images are arriving"),
        (filled.queued, "Queued at position 1"),
    ):
        page = viewer.get(f"/series/{series_id}")
        assert page.status_code == 200
        assert words in page.text
    assert viewer.get("/series/9999").status_code == 404
    assert viewer.get("/series/x").status_code == 422


def test_a_result_without_slices_says_so(filled: Filled, viewer: httpx.Client) -> None:
    page = viewer.get(f"/series/{filled.delivered}").text
    assert "were not kept with this reading" in page
    assert "COVID-19" in page


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_document_shows_nothing_and_stops_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    assert read_document(tmp_path) is None
    assert read_document(tmp_path / "nowhere") is None


def test_the_plot_stays_in_its_box(node: ConsoleNode, read: int) -> None:
    record = read_series(node.ledger.database, read)
    assert record is not None
    folder = (node.source().results_dir / record.objects[0].path).parent
    document = json.loads((folder / "result.json").read_text())
    drawn = plot(document["slices"])
    assert drawn is not None
    for trace, key in zip(drawn.traces, ("healthy", "covid19", "h1n1", "cap"), strict=True):
        points = [tuple(map(float, pair.split(","))) for pair in trace.points.split()]
        values = [item["probabilities"][key] for item in document["slices"]]
        assert [1 - y / drawn.height for _, y in points] == pytest.approx(values, abs=1e-3)
        assert all(0 <= x <= drawn.width for x, _ in points)
    assert plot(document["slices"][:1]) is None


@pytest.mark.parametrize("result", [None, {}, {"predicted": "covid19"}, {"model": None}])
def test_a_result_of_another_kind_is_left_out(result: dict[str, object] | None) -> None:
    assert predicted(result) is None
    assert whole(result) is None


def test_the_map_keeps_its_sides() -> None:
    rows = [[0.0] * 64 for _ in range(64)]
    rows[2][60] = 0.5  # near the apex, on the patient's left: at the right of the picture
    [cell] = distribution_cells(rows)
    assert (cell.x, cell.y) == (30, 1)
    assert distribution_cells([[0.0] * 64] * 64) == ()
    assert distribution_cells(None) == ()
