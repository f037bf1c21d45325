"""The worklist: every stage shows, is found, filtered, paged, tried again, and kept live."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from dicom_node.console.rendering import make_templates
from dicom_node.ledger import listing
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.listing import Cursor, Listing, SeriesStage
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.memos import Memos
from support.console_node import ConsoleNode, Filled, ServedConsole, csrf_of


def shown(page: str) -> list[int]:
    """Series on a page, from top to bottom."""
    return [int(number) for number in re.findall(r'<tr id="series-(\d+)"', page)]


def test_shows_the_newest_first(filled: Filled, viewer: httpx.Client) -> None:
    found = shown(viewer.get("/").text)
    assert found[0] == filled.receiving
    assert found[-1] == filled.delivered
    assert len(found) == 8


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("receiving", ["receiving"]),
        ("queued", ["queued"]),
        ("analysing", ["analysing"]),
        ("delivering", ["delivering"]),
        ("delivered", ["delivered"]),
        ("not_analysed", ["skipped"]),
        ("failed", ["quarantined", "failed_delivery"]),
        ("no such stage", None),
    ],
)
def test_filters_by_stage(
    filled: Filled, viewer: httpx.Client, stage: str, names: list[str] | None
) -> None:
    found = shown(viewer.get("/", params={"stage": stage}).text)
    if names is None:
        assert len(found) == 8
    else:
        assert found == [getattr(filled, name) for name in names]


@pytest.mark.parametrize("few", [0, 2000])
@pytest.mark.parametrize("stage", SeriesStage)
def test_both_ways_of_looking_find_the_same(
    filled: Filled, stage: SeriesStage, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    page = Listing(filled.node.ledger.database).page(stage=stage)
    assert [row.stage for row in page.rows] == [stage] * len(page.rows)
    assert page.rows


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ACC-4711", "failed_delivery"),
        (" PAT-0815 ", "failed_delivery"),
        ("ACC-NEW", "receiving"),
        ("ACC-471", None),
        ("' OR 1=1 --", None),
    ],
)
def test_searches(filled: Filled, viewer: httpx.Client, text: str, name: str | None) -> None:
    token = csrf_of(viewer.get("/").text)
    answer = viewer.post("/", data={"csrf": token, "text": text})
    assert answer.status_code == 200
    assert shown(answer.text) == ([getattr(filled, name)] if name else [])
    assert "4711" not in str(answer.url)


@pytest.mark.parametrize("kind", ["study_instance_uid", "series_instance_uid", "instance"])
def test_searches_by_uid(filled: Filled, viewer: httpx.Client, kind: str) -> None:
    [row] = Listing(filled.node.ledger.database).rows([filled.skipped])
    uid = getattr(row.status, kind, f"{row.status.series_instance_uid}.1")
    token = csrf_of(viewer.get("/").text)
    assert shown(viewer.post("/", data={"csrf": token, "text": uid}).text) == [filled.skipped]


def test_what_a_sender_writes_stays_text(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    row = node.received(accession="<script>alert(1)</script>", patient="<img src=x>")
    [shown_row] = Listing(node.ledger.database).rows([row])
    text = make_templates("").get_template("_row.html").render(row=shown_row, is_admin=True)
    assert "<script>" not in text
    assert "<img" not in text
    node.ledger.close()


def test_pages_follow_each_other_without_gap(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    made = []
    for number in range(11):
        node.now += number % 3  # several at the same time
        made.append(node.received(1))
    found = Listing(node.ledger.database)
    pages = [found.page(limit=4)]
    while pages[-1].older:
        pages.append(found.page(limit=4, cursor=pages[-1].older))
    ids = [[row.status.series_id for row in page.rows] for page in pages]
    assert [number for page in ids for number in page] == sorted(made, reverse=True)
    back = found.page(limit=4, cursor=pages[-1].newer)
    assert [row.status.series_id for row in back.rows] == ids[-2]
    first = found.page(limit=4, cursor=pages[1].newer)
    assert [row.status.series_id for row in first.rows] == ids[0]
    assert first.newer is None
    assert pages[0].newer is None
    node.ledger.close()


@pytest.mark.parametrize("text", ["", "x", "o1", "o_", "oone_2", "q1.0_2", "o1.5_2", "n1.5_2"])
def test_a_place_is_read_or_refused(text: str) -> None:
    cursor = Cursor.parse(text)
    assert (cursor is None) == (text not in ("o1.5_2", "n1.5_2"))
    assert cursor is None or str(cursor) == text


def test_tries_again(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    failed = node.analysed()
    node.sent(DeliveryEvent.PERMANENT, "the called AE title is not recognised")
    with ServedConsole(node) as served, served.log_in("ada") as admin:
        page = admin.get(f"/series/{failed}")
        assert "not recognised" in page.text
        token = csrf_of(page.text)
        answer = admin.post(
            f"/series/{failed}/retry",
            data={"csrf": token, "destination": "pacs", "back": "series"},
            follow_redirects=True,
        )
        assert "Delivery to pacs is tried again now." in answer.text
        again = admin.post(
            f"/series/{failed}/retry", headers={"X-CSRF-Token": token, "HX-Request": "true"}
        )
        assert shown(again.text) == [failed]
        assert "Delivering" in again.text
        assert admin.post("/series/999/retry", data={"csrf": token}).status_code == 404
    node.sent(DeliveryEvent.ACCEPTED)
    [row] = Listing(node.ledger.database).rows([failed])
    assert row.stage is SeriesStage.DELIVERED
    node.ledger.close()


class Listener:
    """Reads server-sent events in a thread."""

    def __init__(self, client: httpx.Client) -> None:
        self.text = ""
        self._thread = threading.Thread(target=self._read, args=(client,), daemon=True)
        self._thread.start()

    def _read(self, client: httpx.Client) -> None:
        with client.stream("GET", "/live") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for piece in answer.iter_text():
                self.text += piece

    def join(self) -> None:
        """Wait until the stream has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_for(self, words: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)


def test_changes_come_by_themselves_and_one_look_serves_all(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    node.user("vera", ConsoleRole.VIEWER)
    with ExitStack() as stack:
        served = stack.enter_context(ServedConsole(node))
        live = served.app.state.console.live
        admin = stack.enter_context(served.log_in("ada"))
        viewers = [stack.enter_context(served.log_in("vera")) for _ in range(4)]
        listeners = [Listener(client) for client in (admin, *viewers)]
        for listener in listeners:
            listener.wait_for("retry:")
        time.sleep(1.5)  # the first look is past
        began, before = time.monotonic(), live.looks
        series_id = node.quarantined()
        for listener in listeners:
            listener.wait_for(f"event: series-{series_id}")
            listener.wait_for("event: arrived")
            listener.wait_for("event: counts")
            listener.wait_for("Needs attention")
        assert "/retry" in listeners[0].text
        assert "/retry" not in listeners[1].text
        # Five browsers, one look a second.
        assert live.looks - before <= time.monotonic() - began + 2
        live.close()
        for listener in listeners:
            listener.join()
    node.ledger.close()


def test_a_reading_ahead_shows_how_far_it_is(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("vera", ConsoleRole.VIEWER)
    series_id, _ = node.selected()
    with ServedConsole(node) as served, served.log_in("vera") as client:
        listener = Listener(client)
        listener.wait_for("retry:")
        time.sleep(1.5)  # the first look is past
        memos = Memos(tmp_path / "state" / "memos")
        draft = memos.begin(series_id, "a" * 64)
        assert draft is not None
        draft.beat("slices 7 of 90")
        listener.wait_for("queued at position 1; already being read: slices 7 of 90")
        page = client.get(f"/series/{series_id}").text
        assert "<b>Queued at position 1</b>" in page
        assert "<b>Already being read</b>" in page
        assert "slices 7 of 90" in page
        so_far = len(listener.text)
        draft.give_up()
        deadline = time.monotonic() + 60.0
        while f"event: series-{series_id}" not in listener.text[so_far:]:
            assert time.monotonic() < deadline, listener.text
            time.sleep(0.05)
        assert "being read" not in listener.text[so_far:]
        served.app.state.console.live.close()
        listener.join()
    node.ledger.close()


def test_nobody_looks_when_nobody_listens(console: ServedConsole) -> None:
    live = console.app.state.console.live
    time.sleep(1.5)
    before = live.looks
    time.sleep(2.5)
    assert live.looks == before
