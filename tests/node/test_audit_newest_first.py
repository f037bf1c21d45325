"""The trail from its end: the newest first, filtered, paged, bounded, over files and damage."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_node.audit import AuditTrail, Filter, Leaf, leaf, records
from dicom_node.audit.message import EventID, Outcome, console_user, message


def record(number: int, **fields: Any) -> dict[str, Any]:
    failed = fields.pop("failed", number % 5 == 0)
    made = message(
        fields.pop("event", EventID.QUERY if number % 2 else EventID.SECURITY_ALERT),
        "E",
        Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS,
        [console_user(fields.pop("user", f"User{number % 3}"), f"10.0.0.{number % 7}")],
        source_id="M3LUNG",
        words=f"words {number} " + "x" * (number % 90),
    )
    at = fields.pop("at", None)
    if at is not None:
        made["EventIdentification"]["EventDateTime"] = datetime.fromtimestamp(at, UTC).isoformat(
            timespec="milliseconds"
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trail") / "audit"
    trail = AuditTrail(folder, rotate_bytes=16384)
    for number in range(1, 201):
        trail.append(record(number, at=1_700_000_000 + 3600 * number))
    assert len(list(folder.glob("audit-*.jsonl"))) > 3
    return folder


def through(folder: Path, wanted: Filter, limit: int) -> list[int]:
    found, place = [], ""
    while True:
        page: Leaf = leaf(folder, wanted, place=place, limit=limit)
        found += [item["seq"] for item in page.records]
        if not page.older:
            return found
        assert page.older != place
        place = page.older


@pytest.mark.parametrize("limit", [1, 7, 50, 1000])
def test_pages_follow_each_other_without_gap(folder: Path, limit: int) -> None:
    assert through(folder, Filter(), limit) == list(range(200, 0, -1))


def test_blocks_of_any_size_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (64, 511, 4096):
        monkeypatch.setattr("dicom_node.audit.newest_first._BLOCK_BYTES", size)
        assert through(folder, Filter(), 33) == list(range(200, 0, -1))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Filter(event=EventID.QUERY), lambda n: n % 2 == 1),
        (Filter(failed=True), lambda n: n % 5 == 0),
        (Filter(failed=False), lambda n: n % 5 != 0),
        (Filter(participant="user2"), lambda n: n % 3 == 2),
        (Filter(participant=" 10.0.0.6 "), lambda n: n % 7 == 6),
        (Filter(participant="words"), lambda n: False),  # who, not what
        (Filter(participant="ü"), lambda n: False),
        (Filter(event=EventID.STUDY_DELETED), lambda n: False),
        (Filter(since=1_700_000_000 + 3600 * 150), lambda n: n >= 150),
        (Filter(until=1_700_000_000 + 3600 * 20), lambda n: n < 20),
        (
            Filter(EventID.QUERY, True, "user", 1_700_000_000, 1_700_000_000 + 3600 * 90),
            lambda n: n % 2 == 1 and n % 5 == 0 and n < 90,
        ),
    ],
)
def test_filters(folder: Path, wanted: Filter, fits: Any) -> None:
    assert through(folder, wanted, 9) == [n for n in range(200, 0, -1) if fits(n)]


@pytest.mark.parametrize("place", ["x", "-1.2", "1", "9999999.5", "1.2.3", "1.999999999", "²."])
def test_any_place_is_read_or_ignored(folder: Path, place: str) -> None:
    page = leaf(folder, Filter(), place=place, limit=5)
    assert all(isinstance(item["seq"], int) for item in page.records)


def test_no_trail_is_an_empty_one(tmp_path: Path) -> None:
    assert leaf(tmp_path / "none", Filter()) == Leaf((), "", 0, False)


def test_damage_is_stepped_over(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    trail.append(record(1))
    [path] = tmp_path.glob("audit-*.jsonl")
    with path.open("ab") as file:
        file.write(
            b'{"seq": 2, \xff\xfe\n[]\n\n"text"\n{"seq": 3, "EventIdentification": []}\ntorn'
        )
    page = leaf(tmp_path, Filter())
    assert [item["seq"] for item in page.records] == [3, 1]
    assert leaf(tmp_path, Filter(event=EventID.SECURITY_ALERT)).records == ()


def test_it_stops_in_time_and_goes_on(folder: Path) -> None:
    wanted = Filter(event=EventID.STUDY_DELETED)
    page = leaf(folder, wanted, longest_s=0.0)
    assert not page.records
    assert page.looked_at == 200  # fewer than it looks at the clock for


def test_a_hundred_thousand_records_are_no_matter(tmp_path: Path) -> None:
    lines = [json.dumps({"seq": 1, **record(1)}, separators=(",", ":"))]
    text = "\n".join(lines * 25_000) + "\n"
    for first in (1, 25_001, 50_001, 75_001):
        (tmp_path / f"audit-{first:010d}.jsonl").write_text(text)
    began = time.perf_counter()
    assert len(leaf(tmp_path, Filter()).records) == 50
    assert time.perf_counter() - began < 0.2
    began = time.perf_counter()
    nothing = leaf(tmp_path, Filter(event=EventID.STUDY_DELETED))
    assert time.perf_counter() - began < 2.0
    assert not nothing.records
    assert nothing.looked_at == 100_000 or (nothing.is_cut and nothing.older)


def test_both_ways_read_the_same(folder: Path) -> None:
    forwards = [item["seq"] for item in records(folder)]
    assert through(folder, Filter(), 50) == forwards[::-1]
