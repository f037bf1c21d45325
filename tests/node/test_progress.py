"""The change since an earlier study: what is compared, what is not and why, in every result."""

from __future__ import annotations

import datetime as dt
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.domain import EarlierReading, EarlierReadings
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.lesion_figures import Coverage
from dicom_node.results.progress import Progress, progress_of
from dicom_node.results.progress_words import points_words, progress_sentences
from dicom_node.results.result_json import analyzed
from dicom_node.results.source import SourceSeries
from dicom_node.results.summary import HEIGHT
from dicom_node.results.writer import write_results
from inference.domain import Findings, Lobe
from support.made_findings import MODEL, made_findings, made_volume
from support.other_systems import JCS, M2UNET, with_other_systems
from support.synthetic_ct import synthetic_series

CONTEXT = ResultContext(
    instance_set_digest="1" * 64,
    configuration_digest="2" * 64,
    analysis_started_at=dt.datetime(2026, 3, 5, 14, 56, 7, tzinfo=dt.UTC),
    completeness=Completeness("quiet for 60 s", 8),
    software_version="0.1.0",
    ae_title="M3LUNG",
)
NOTHING = EarlierReadings(reason="this node has read no earlier study of the patient")


class Case:
    """A study, and how an earlier one of the same patient may have been read."""

    def __init__(self, root: Path) -> None:
        series = synthetic_series(root / "ct", slices=8, matrix=128)
        self.volume = made_volume(series.paths)
        self.source = SourceSeries.read(series.paths)
        self.plain = made_findings(self.volume)
        self.findings = with_other_systems(self.plain, self.volume)

    def then(self, findings: Findings | None = None, **changed: Any) -> dict[str, Any]:
        """Return what the ledger keeps; `changed` are further shares, such as ``percent=4.0``."""
        found = findings or self.findings
        percent = changed.pop("percent", None)
        if percent is not None:
            found = replace(found, burden=replace(found.burden, percent_of_lung=percent))
        document = analyzed(found, self.source, CONTEXT, (), banner="x").model_dump(mode="json")
        return document | changed

    def write(self, out: Path, earlier: EarlierReadings | None, findings: Findings | None = None):
        context = replace(CONTEXT, earlier=earlier)
        return write_results(
            findings or self.findings, self.volume, self.source, out, ResultOptions(), context
        )


def reading(
    result: dict[str, Any], date: tuple[int, int, int] = (2026, 1, 2), uid: str = "2.25.71"
) -> EarlierReading:
    return EarlierReading(dt.date(*date), "2.25.81", uid, "a" * 64, result)


def earlier(*readings: EarlierReading) -> EarlierReadings:
    return EarlierReadings(readings)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


def compared(case: Case, *readings: EarlierReading) -> Progress:
    found = progress_of(case.findings, earlier(*readings))
    assert found is not None
    return found


# -- what is compared ------------------------------------------------------------------------------


def test_a_share_then_and_now(case: Case) -> None:
    now = case.plain.burden.percent_of_lung
    assert now is not None
    found = compared(case, reading(case.then(percent=now / 2)))
    assert found.comparable
    assert found.reason is None
    assert found.study_date == dt.date(2026, 1, 2)
    main = found.changes[0]
    assert (main.measure, main.lesions_by, main.lobes_by) == ("lung_involvement", MODEL.name, None)
    assert main.before == pytest.approx(now / 2)
    assert main.change == pytest.approx(now / 2)
    assert main.relative_percent == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("points", "trend"),
    [(-2.0, "increased"), (-0.99, "unchanged"), (0.99, "unchanged"), (2.0, "decreased")],
)
def test_a_change_below_a_point_is_none(case: Case, points: float, trend: str) -> None:
    now = case.plain.burden.percent_of_lung
    assert now is not None
    assert compared(case, reading(case.then(percent=now + points))).trend == trend


def test_of_next_to_nothing_there_is_no_relative_change(case: Case) -> None:
    found = compared(case, reading(case.then(percent=0.4)))
    assert found.changes[0].relative_percent is None
    assert "(" not in progress_sentences(found)[1]


def test_lobes_outlines_and_severity_come_along(case: Case) -> None:
    then = case.then()
    then["involvement"][0]["percent"] = [None, 0.0, 1.0, 2.0, 3.0]
    then["involvement"][0]["total_score"] = 3
    then["lobes"]["severe"] = False
    then["outlines"]["percent_of_lung"] = 5.0
    found = compared(case, reading(then))
    by_measure: dict[str, list[Any]] = {}
    for item in found.changes:
        by_measure.setdefault(item.measure, []).append(item)
    assert [item.lesions_by for item in by_measure["outlined_lesions"]] == [JCS.name]
    lobes = by_measure["lobe_involvement"]
    mine = [item for item in lobes if item.lesions_by == MODEL.name]
    # The lobe that could not be told then is left out.
    assert [item.lobe for item in mine] == [lobe.key for lobe in Lobe][1:]
    assert {item.lobes_by for item in lobes} == {M2UNET.name}
    assert len([item for item in lobes if item.lesions_by == JCS.name]) == 5
    score = by_measure["severity_score"][0]
    total = case.findings.involvement[0].total_score
    assert total is not None
    assert (score.before, score.now, score.change) == (3, total, total - 3)
    assert score.relative_percent is None
    assert (found.severity_by, found.severe_before, found.severe_now) == (M2UNET.name, False, True)


def test_another_lobe_model_leaves_the_lesions_comparable(case: Case) -> None:
    then = case.then()
    then["lobes"]["model"]["sha256"] = "c" * 64
    then["outlines"] = None
    found = compared(case, reading(then))
    assert found.comparable
    assert {item.measure for item in found.changes} == {"lung_involvement"}
    assert found.severity_by is None
    assert found.remarks == (
        f"Lobes and severity are not compared: {M2UNET.name} {M2UNET.version} had other weights "
        "then.",
        f"Outlines are not compared: {JCS.name} did not run then.",
    )


def test_outlines_of_a_negative_patient_are_no_number(case: Case) -> None:
    then = case.then()
    then["outlines"] |= {"positive": False, "percent_of_lung": 0.0}
    found = compared(case, reading(then))
    assert "outlined_lesions" not in {item.measure for item in found.changes}
    assert {item.lesions_by for item in found.changes} == {MODEL.name}
    assert f"{JCS.name} read negative then and positive now" in found.remarks[0]


# -- what is not, and why --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "its figures are not kept any more"),
        ({"model": {"version": "0.0.9", "sha256": "d" * 64}}, "read by M3Lung-Sys 0.0.9"),
        ({"model": {"sha256": "d" * 64}}, "M3Lung-Sys 0.1.0 had other weights then"),
        ({"lesion": {"percent_of_lung": None}}, "that series has no percentage"),
        ({"coverage": None}, "was not kept"),
        ({"coverage": {"slice_spacing_mm": 80.0}}, "its slices are 80.0 mm apart, these 34.3 mm"),
        ({"coverage": {"lung_height_mm": 90.0}}, "it shows 90 mm of the lungs' height"),
    ],
)
def test_what_does_not_fit_is_not_compared(case: Case, change: dict[str, Any], words: str) -> None:
    then = case.then()
    for name, fields in change.items():
        then[name] = None if fields is None else then[name] | fields
    found = compared(case, reading(then))
    assert not found.comparable
    assert found.changes == ()
    assert found.trend is None
    assert words in str(found.reason)
    [sentence] = progress_sentences(found)
    assert sentence == f"Not compared with the study of 2026-01-02: {found.reason}."


def test_a_series_without_percentage_is_not_compared(case: Case) -> None:
    uneven = replace(case.plain, burden=replace(case.plain.burden, percent_of_lung=None))
    found = progress_of(uneven, earlier(reading(case.then())))
    assert found is not None
    assert "this series has no percentage" in str(found.reason)


def test_without_an_earlier_study_the_reason_stands_there(case: Case) -> None:
    found = progress_of(case.findings, NOTHING)
    assert found is not None
    assert (found.comparable, found.study_date, found.identity) == (False, None, "")
    assert progress_sentences(found) == [f"Not compared with an earlier study: {NOTHING.reason}."]
    assert progress_of(case.findings, None) is None  # nobody could look


def test_an_older_study_stands_in_for_one_that_does_not_fit(case: Case) -> None:
    other = case.then()
    other["model"] |= {"version": "0.0.9", "sha256": "d" * 64}
    found = compared(
        case,
        reading(other, (2026, 2, 1), "2.25.72"),
        reading(case.then(percent=4.0), (2026, 1, 2)),
    )
    assert found.comparable
    assert found.study_date == dt.date(2026, 1, 2)
    assert found.remarks[0].startswith("The study of 2026-02-01 is not compared: it was read by")


def test_of_one_study_the_series_with_like_slices_is_taken(case: Case) -> None:
    thick = case.then(percent=9.0)
    spacing = thick["coverage"]["slice_spacing_mm"]
    thick["coverage"] = thick["coverage"] | {"slice_spacing_mm": 1.5 * spacing}
    found = compared(
        case, reading(thick, uid="2.25.72"), reading(case.then(percent=4.0), uid="2.25.71")
    )
    assert found.series_instance_uid == "2.25.71"


def test_coverage_is_that_of_the_lung(case: Case) -> None:
    found = Coverage.of(case.plain)
    assert found.slice_spacing_mm == pytest.approx(240 / 7)
    assert found.lung_height_mm is not None
    assert found.lung_height_mm == pytest.approx(
        (240 / 7) * sum(item.has_lung for item in case.plain.slices)
    )


def test_signs() -> None:
    assert [points_words(value) for value in (-4.25, 0.04, -0.04, 12.0)] == [
        "-4.2", "0.0", "0.0", "+12.0",
    ]  # fmt: skip


# -- in the results --------------------------------------------------------------------------------


def items(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def code_of(item) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def number_of(item) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def said(report) -> str:
    return "\n".join(str(item.TextValue) for item in items(report) if item.ValueType == "TEXT")


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    case.write(out, earlier(reading(case.then(percent=2.0))))
    return out


def test_the_report_holds_the_change_with_codes(case: Case, folder: Path) -> None:
    report = dcmread(folder / "report-0.dcm")
    now = case.plain.burden.percent_of_lung
    assert now is not None
    label = f"involvement by {MODEL.name}: change since 2026-01-02"
    [group] = [
        item for item in items(report)
        if code_of(item) == "125007" and item.ContentSequence[0].TextValue == label
    ]  # fmt: skip
    inside = {code_of(item): item for item in group.ContentSequence}
    assert number_of(inside["LUNG_INVOLV_DIFF"]) == pytest.approx(now - 2.0, abs=1e-4)
    assert number_of(inside["LUNG_INVOLV_REL"]) == pytest.approx(100 * (now - 2) / 2, rel=0.06)
    before = inside["LUNG_INVOLV_PRI"]
    assert number_of(before) == pytest.approx(2.0)
    date, study = before.ContentSequence
    assert (code_of(date), str(date.Date)) == ("111060", "20260102")
    assert (code_of(study), str(study.UID)) == ("110180", "2.25.81")
    assert date.RelationshipType == study.RelationshipType == "HAS PROPERTIES"
    [trend] = [item for item in items(report) if code_of(item) == "111424"]
    assert trend.ConceptCodeSequence[0].CodeMeaning == "Increased"
    scores = [item for item in items(report) if code_of(item) == "CT_SCORE_DIFF"]
    assert [number_of(item) for item in scores] == [0.0, 0.0]
    found = progress_of(case.findings, earlier(reading(case.then(percent=2.0))))
    assert found is not None
    for sentence in progress_sentences(found):
        assert sentence in said(report)


def test_why_nothing_is_compared_stands_in_report_and_page(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path, NOTHING)
    report = dcmread(tmp_path / "report-0.dcm")
    assert f"Not compared with an earlier study: {NOTHING.reason}." in said(report)
    assert not [item for item in items(report) if code_of(item) in ("111424", "LUNG_INVOLV_DIFF")]


def test_the_page_is_longer_by_the_card(case: Case, tmp_path: Path) -> None:
    def rows(name: str, before: EarlierReadings | None) -> int:
        case.write(tmp_path / name, before, case.plain)
        return int(dcmread(tmp_path / name / "summary.dcm").Rows)

    assert rows("nobody", None) == HEIGHT
    line = rows("nothing", NOTHING) - HEIGHT
    assert 15 <= line <= 30
    assert rows("card", earlier(reading(case.then(percent=2.0)))) > HEIGHT + 100


def test_the_document_holds_it(case: Case) -> None:
    context = replace(CONTEXT, earlier=earlier(reading(case.then(percent=2.0))))
    document = analyzed(case.findings, case.source, context, (), banner="x")
    assert document.progress is not None
    assert document.progress.comparable
    assert document.coverage is not None
    assert document.model_dump(mode="json")["progress"]["study_date"] == "2026-01-02"
    assert analyzed(case.findings, case.source, CONTEXT, (), banner="x").progress is None


def test_what_tells_of_another_study_has_another_identity(case: Case, tmp_path: Path) -> None:
    """Report and page name the earlier reading; all else is what it was, byte for byte."""

    def uids(name: str, before: EarlierReadings | None) -> dict[str, str]:
        written = case.write(tmp_path / name, before)
        return {f"{item.slot}/{item.rank}": item.sop_instance_uid for item in written}

    plain = uids("plain", None)
    assert uids("nothing", NOTHING) == plain
    first = earlier(reading(case.then(percent=2.0)))
    changed = uids("first", first)
    assert {slot for slot in plain if plain[slot] != changed[slot]} == {
        "report/0", "report/1", "report/2", "summary/0",
    }  # fmt: skip
    assert uids("again", first) == changed
    another = earlier(reading(case.then(percent=2.0), uid="2.25.72"))
    assert uids("another", another)["report/0"] != changed["report/0"]
    for name in ("segmentation", "segmentation-lobes", "key_objects", "overlay/0005"):
        same = [(tmp_path / which / f"{name}.dcm").read_bytes() for which in ("plain", "first")]
        assert same[0] == same[1]


def test_the_same_comparison_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    before = earlier(reading(case.then(percent=2.0)))
    for name in ("a", "b"):
        case.write(tmp_path / name, before)
    for path in (tmp_path / "a").glob("*.dcm"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(folder: Path) -> None:
    for path in sorted(folder.glob("report-*.dcm")):
        run = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        lines = (run.stdout + run.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")], path.name
