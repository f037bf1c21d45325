"""The audit trail by the browser: filtered, paged, verified, for administrators alone."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from dicom_node.audit import Auditor
from dicom_node.audit.message import EventID, EventType
from dicom_node.console.audit_row import AuditRow
from dicom_node.ledger.console_users import ConsoleRole
from support.console_node import ConsoleNode, ServedConsole, csrf_of


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleNode]:
    node = ConsoleNode(tmp_path_factory.mktemp("audit"), audit={"rotate_bytes": 16384})
    node.user("ada", ConsoleRole.ADMIN)
    node.user("vera", ConsoleRole.VIEWER)
    auditor = Auditor(node.source(), "listen")
    for number in range(70):
        auditor.refused(f"not known {number}", address="10.9.9.9", calling_ae="STRANGER")
    for number in range(60):
        auditor.console(
            f"worklist searched {number}", user="bob", address="10.0.0.8",
            event=EventID.QUERY, kind=None,
        )  # fmt: skip
    auditor.console("<script>alert(1)</script>", user='"><img src=x>', address="<b>")
    yield node
    node.ledger.close()


@pytest.fixture(scope="module")
def console(node: ConsoleNode) -> Iterator[ServedConsole]:
    with ServedConsole(node) as served:
        yield served


@pytest.fixture(scope="module")
def admin(console: ServedConsole) -> Iterator[httpx.Client]:
    with console.log_in("ada") as client:
        yield client


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r"no\. (\d+)<", page)]


def test_the_newest_stands_first_and_looking_is_recorded(admin: httpx.Client) -> None:
    first = numbers(admin.get("/audit").text)
    assert len(first) == 50
    assert first == list(range(first[0], first[0] - 50, -1))
    page = admin.get("/audit").text
    assert numbers(page)[0] == first[0] + 1
    assert "audit trail read, 50 records" in page
    assert "Audit Log Used" in page


def test_pages_go_to_the_beginning(admin: httpx.Client) -> None:
    page = admin.get("/audit").text
    seen = numbers(page)
    while older := re.search(r'href="(/audit\?[^"]*)">Older', page):
        page = admin.get(html.unescape(older[1])).text
        seen += numbers(page)
    assert seen == list(range(seen[0], 0, -1))
    assert "Nothing older." in page
    assert "Newest" in page


@pytest.mark.parametrize(
    ("query", "words", "not_words"),
    [
        ({"event": "110112"}, ["worklist searched 59"], ["not known"]),
        ({"peer": "stranger"}, ["not known 69"], ["searched"]),
        ({"peer": "10.0.0.8", "outcome": "ok"}, ["bob"], ["STRANGER"]),
        ({"outcome": "failed"}, ["not known 69"], ["worklist searched"]),
        ({"outcome": "ok"}, ["worklist searched 59"], ["not known"]),
        ({"peer": "nobody at all"}, ["There are no such records."], ["<details>"]),
        ({"day": "2001-01-01"}, ["There are no such records."], ["<details>"]),
        ({"event": "nonsense"}, ["Audit Log Used"], []),
    ],
)
def test_filters(
    admin: httpx.Client, query: dict[str, str], words: list[str], not_words: list[str]
) -> None:
    fragment = admin.get("/audit", params=query, headers={"HX-Request": "true"}).text
    assert "<html" not in fragment
    assert all(word in fragment for word in words)
    assert not any(word in fragment for word in not_words)
    page = admin.get("/audit", params=query).text
    assert "<html" in page


def test_a_day_is_a_day_of_the_clock_on_the_page(admin: httpx.Client) -> None:
    today = datetime.now(UTC).astimezone().date().isoformat()
    assert "not known" in admin.get("/audit", params={"day": today, "peer": "stranger"}).text
    for day in ("2026-02-30", "yesterday", "0000-00-00", "99999-01-01"):
        refused = admin.get("/audit", params={"day": day})
        assert refused.status_code == 422
        assert "a day is written as" in refused.text
        assert f'value="{day}"' in refused.text


def test_what_a_stranger_wrote_stays_text(admin: httpx.Client) -> None:
    page = admin.get("/audit", params={"peer": '"><img'}).text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert" in admin.get("/audit", params={"peer": "img src"}).text


@pytest.mark.parametrize("at", ["x", "1.99999999", "-1.0", "9.9", "'", "%00"])
def test_any_place_is_answered(admin: httpx.Client, at: str) -> None:
    assert admin.get("/audit", params={"at": at}).status_code == 200


def test_viewers_have_no_business_here(console: ServedConsole) -> None:
    with console.log_in("vera") as viewer:
        page = viewer.get("/").text
        assert "/audit" not in page
        assert viewer.get("/audit").status_code == 403
        assert viewer.get("/audit/check").status_code == 403
        token = csrf_of(page)
        assert viewer.post("/audit/check", data={"csrf": token}).status_code == 403


def checked(client: httpx.Client, known: str = "") -> str:
    token = csrf_of(client.get("/audit").text)
    answer = client.post("/audit/check", data={"csrf": token, "known": known})
    assert answer.status_code == 303, answer.text
    deadline = time.monotonic() + 60
    while True:
        part = client.get("/audit/check", headers={"HX-Request": "true"}).text
        if "hx-trigger" not in part:
            return part
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_chain_is_verified(admin: httpx.Client, node: ConsoleNode) -> None:
    part = checked(admin)
    assert "Whole." in part
    end = re.search(r'class="uid">(\d+:[0-9a-f]{64})<', part)
    assert end is not None
    assert "Whole." in checked(admin, end[1])
    number = end[1].partition(":")[0]
    assert "written anew" in checked(admin, f"{number}:{'0' * 64}")
    refused = admin.post(
        "/audit/check", data={"csrf": csrf_of(admin.get("/audit").text), "known": "12:34"}
    )
    assert refused.status_code == 422
    assert "64 hexadecimal digits" in refused.text
    assert 'value="12:34"' in refused.text
    assert admin.get("/audit/check").status_code == 303
    assert "verification of the audit trail begun" in admin.get("/audit").text
    # Somebody edits a record.
    path = sorted((node.source().root / "audit").glob("*.jsonl"))[1]
    path.write_bytes(path.read_bytes().replace(b"STRANGER", b"FRIEND__", 1))
    part = checked(admin)
    assert f"Broken at {path.name}:" in part
    assert "was altered" in part


def test_a_hundred_thousand_records_and_no_match_go_on_by_themselves(tmp_path: Path) -> None:
    node = ConsoleNode(tmp_path)
    node.user("ada", ConsoleRole.ADMIN)
    folder = node.source().root / "audit"
    folder.mkdir()
    record = {
        "seq": 1,
        "previous": "0" * 64,
        "EventIdentification": {
            "EventID": EventID.QUERY.coded(),
            "EventActionCode": "E",
            "EventDateTime": "2026-03-05T10:00:00.000+00:00",
            "EventOutcomeIndicator": "0",
        },
        "ActiveParticipant": [{"UserID": "x" * 300, "UserIsRequestor": True}],
    }
    text = (json.dumps(record, separators=(",", ":")) + "\n") * 50_000
    for first in (1, 50_001):
        (folder / f"audit-{first:010d}.jsonl").write_text(text)
    (folder / "head").write_text(
        json.dumps({"seq": 100_000, "sha256": "0" * 64, "file": "audit-0000050001.jsonl",
                    "size": len(text), "base_seq": 1, "base_sha256": "0" * 64})
    )  # fmt: skip
    with ServedConsole(node) as served, served.log_in("ada") as client:
        times = []
        for query in ({}, {"event": "110112"}, {"event": "110105"}, {"peer": "nobody"}):
            began = time.perf_counter()
            page = client.get("/audit", params=query)
            times.append(time.perf_counter() - began)
            assert page.status_code == 200
        assert max(times) < 2.0, times  # bounded; the benchmark says how fast it is
        looked = 0
        part = client.get("/audit", params={"peer": "nobody"}, headers={"HX-Request": "true"}).text
        while more := re.search(r'hx-get="(/audit\?[^"]*more=1)"', part):
            looked += 1
            part = client.get(html.unescape(more[1]), headers={"HX-Request": "true"}).text
            assert "<table" not in part
            assert looked < 200
        assert "Nothing older." in part or "no such records" in part
    node.ledger.close()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"seq": None, "EventIdentification": 7, "ActiveParticipant": "x"},
        {"EventIdentification": {"EventID": [], "EventTypeCode": {}, "EventDateTime": "x"}},
        {"ActiveParticipant": [7, {}], "ParticipantObjectIdentification": [{"a": 1}, None]},
    ],
)
def test_a_spoilt_record_is_a_row_all_the_same(record: dict[str, object]) -> None:
    row = AuditRow.of(record)
    assert row.event
    assert json.loads(row.whole) == record


def test_a_transfer_says_what_and_how_much(node: ConsoleNode) -> None:
    from dicom_node.audit import Transfer

    transfer = Transfer("1.2.3", "P1")
    transfer.sop_classes["1.2.840.10008.5.1.4.1.1.2"] = 300
    auditor = Auditor(node.source(), "deliver")
    auditor.sent(transfer, ae_title="ARCHIVE", address="10.0.0.5", failed=False)
    assert auditor.trail.read_head() is not None
    last = max(auditor.trail.folder.glob("*.jsonl")).read_text().splitlines()[-1]
    row = AuditRow.of(json.loads(last))
    assert "300 × CT Image Storage" in row.about
    assert [one.name for one in row.others] == ["ARCHIVE"]
    assert row.event == "DICOM Instances Transferred"
    assert EventType.LOGIN.value[1] == "Login"
