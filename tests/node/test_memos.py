"""Readings put aside: found once, whole or not at all, and never for ever."""

from __future__ import annotations

import os
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node import memos as memos_module
from dicom_node.ledger.tallies import Tally
from dicom_node.memos import Memos, tidy_memos
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.result_json import ResultDocument, analyzed
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from dicom_node.under_way import SILENCE_S, under_way
from support.made_findings import made_findings, made_volume
from support.synthetic_ct import synthetic_series

KEY, OTHER = "a" * 64, "b" * 64
CONTEXT = ResultContext(
    "1" * 64,
    "2" * 64,
    datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
    Completeness("nothing more came", 6),
    "0.1.0",
    "M3LUNG",
)


class Written:
    """The results of a small series, to be put aside again and again."""

    def __init__(self, folder: Path) -> None:
        series = synthetic_series(folder / "ct", slices=6, matrix=64)
        volume = made_volume(series.paths)
        findings = made_findings(volume)
        source = SourceSeries.read(series.paths)
        self.folder = folder / "results"
        self.objects = write_results(
            findings, volume, source, self.folder, ResultOptions(), CONTEXT
        )
        self.document: ResultDocument = analyzed(
            findings, source, CONTEXT, self.objects, banner="TRIAL"
        )

    def put_aside(self, memos: Memos, series_id: int = 1, key: str = KEY) -> Path:
        draft = memos.begin(series_id, key)
        assert draft is not None
        shutil.copytree(self.folder, draft.folder, dirs_exist_ok=True)
        draft.finish(self.document)
        return draft.folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("written"))


@pytest.fixture
def memos(tmp_path: Path) -> Memos:
    return Memos(tmp_path / "memos")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "7" / "1"
    folder.mkdir(parents=True)
    return folder


def test_what_was_put_aside_is_found_once_and_whole(
    memos: Memos, written: Written, into: Path
) -> None:
    folder = written.put_aside(memos)
    memo = memos.take(1, KEY, into)
    assert memo is not None
    assert memo.document == written.document
    assert memo.objects == written.objects
    found = {path.relative_to(into) for path in into.rglob("*") if path.is_file()}
    assert found == {item.path for item in written.objects}
    for item in written.objects:
        assert (into / item.path).read_bytes() == (written.folder / item.path).read_bytes()
    assert not folder.exists()
    assert memos.take(1, KEY, into) is None


def test_another_key_or_series_finds_nothing(memos: Memos, written: Written, into: Path) -> None:
    written.put_aside(memos)
    assert memos.take(1, OTHER, into) is None
    assert memos.take(2, KEY, into) is None
    assert not list(into.iterdir())


@pytest.mark.parametrize("victim", ["memo.json", "summary.dcm", "overlay/0003.dcm"])
@pytest.mark.parametrize("harm", ["altered", "cut", "gone"])
def test_what_was_altered_is_not_used(
    memos: Memos, written: Written, into: Path, victim: str, harm: str
) -> None:
    folder = written.put_aside(memos)
    path = min(folder.glob("overlay/*")) if "/" in victim else folder / victim
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-1])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert memos.take(1, KEY, into) is None
    assert not list(into.iterdir())
    memos.forget(1)
    assert not folder.exists()


def test_a_memo_under_another_name_is_not_used(memos: Memos, written: Written, into: Path) -> None:
    folder = written.put_aside(memos)
    folder.rename(folder.with_name(f"1-{OTHER}"))
    assert memos.take(1, OTHER, into) is None


def test_the_same_is_begun_once(memos: Memos, written: Written, into: Path) -> None:
    draft = memos.begin(1, KEY)
    assert draft is not None
    assert memos.begin(1, KEY) is None
    draft.give_up()
    again = memos.begin(1, KEY)
    assert again is not None
    (again.folder / "overlay").mkdir()
    (again.folder / "overlay" / "0001.dcm").write_bytes(b"half")
    again.condemn()  # what failed once is left to the analysis
    assert memos.begin(1, KEY) is None
    assert memos.take(1, KEY, into) is None
    assert [*again.folder.iterdir()] == []


def test_what_is_under_way_is_waited_for(memos: Memos, written: Written, into: Path) -> None:
    draft = memos.begin(1, KEY)
    assert draft is not None
    shutil.copytree(written.folder, draft.folder, dirs_exist_ok=True)
    looks = []

    def waiting() -> None:
        looks.append(1)
        if len(looks) == 3:
            threading.Thread(target=draft.finish, args=[written.document]).start()

    assert memos.take(1, KEY, into, waiting) is not None
    assert len(looks) >= 3


def test_who_waits_may_stop(memos: Memos, into: Path) -> None:
    assert memos.begin(1, KEY) is not None

    def lease_lost() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        memos.take(1, KEY, into, lease_lost)


def test_the_dead_and_the_silent_are_not_waited_for(
    memos: Memos, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = memos.begin(1, KEY)
    assert draft is not None
    monkeypatch.setattr(memos_module, "SILENCE_S", 0.3)
    since = time.monotonic()
    assert memos.take(1, KEY, into) is None  # alive, as far as anybody can tell
    assert 0.3 <= time.monotonic() - since < 5.0
    *place, _pid, _started = (draft.folder / "owner").read_text().split("|")
    (draft.folder / "owner").write_text("|".join([*place, "999999999", "1"]))
    monkeypatch.setattr(memos_module, "SILENCE_S", 600.0)
    assert memos.take(1, KEY, into) is None
    assert memos.begin(1, KEY) is None  # what ended its worker is not tried again
    assert memos.forget(1) == 0
    assert not draft.folder.exists()


def test_how_far_a_reading_is_shows_while_it_is_under_way(
    memos: Memos, written: Written, into: Path
) -> None:
    folder = into.parents[2] / "memos"
    assert under_way(folder) == {}
    draft = memos.begin(12, KEY)
    assert draft is not None
    assert under_way(folder) == {12: ""}
    draft.beat("slices 3 of 9")
    assert under_way(folder) == {12: "slices 3 of 9"}
    then = time.time() - SILENCE_S - 1
    os.utime(draft.folder / "owner", (then, then))
    assert under_way(folder) == {}, "it is silent"
    os.utime(draft.folder / "owner")
    shutil.copytree(written.folder, draft.folder, dirs_exist_ok=True)
    draft.finish(written.document)
    assert under_way(folder) == {}, "it is at its end"
    assert memos.take(12, KEY, into) is not None
    assert sorted(path.name for path in into.iterdir()) == sorted(
        path.name for path in written.folder.iterdir()
    )


def test_a_series_forgets_but_what_is_under_way(memos: Memos, written: Written) -> None:
    written.put_aside(memos)
    other_series = written.put_aside(memos, series_id=11)
    under_way = memos.begin(1, OTHER)
    assert under_way is not None
    assert memos.forget(1) == 1
    assert under_way.folder.exists()
    assert other_series.exists()


def test_memos_are_bounded_in_age_and_size(memos: Memos, written: Written) -> None:
    folders = [written.put_aside(memos, number) for number in range(1, 5)]
    size = sum(path.stat().st_size for path in folders[0].rglob("*") if path.is_file())
    for age_s, folder in zip((9000, 300, 200, 100), folders, strict=True):
        then = time.time() - age_s
        os.utime(folder / "memo.json", (then, then))
    tally = Tally()
    tidy_memos(folders[0].parent, tally)
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    assert tally.take() == {("speculations", ("discarded",)): 1}
    # A directory counts for something, too.
    assert memos.tidy(most_bytes=int(2.7 * size)) == 1
    assert [folder.exists() for folder in folders] == [False, False, True, True]
    under_way = memos.begin(9, KEY)
    assert under_way is not None
    assert memos.tidy(most_bytes=0) == 2
    assert [path.name for path in under_way.folder.parent.iterdir()] == [under_way.folder.name]


def test_tidying_removes_what_a_kill_left_between_two_steps(memos: Memos, written: Written) -> None:
    folder = written.put_aside(memos)
    folder.rename(folder.with_name(".removed-1"))
    assert memos.tidy() == 0
    assert not list(folder.parent.iterdir())


def test_there_need_not_be_any(memos: Memos, into: Path) -> None:
    assert memos.tidy() == 0
    assert memos.forget(1) == 0
    assert memos.take(1, KEY, into) is None
