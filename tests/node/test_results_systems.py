"""Results of M²UNet and JCS: lobes, outlines, severity, explanation; nothing of it without them."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import dcmread

from dicom_node.results.codes import LOBE
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.result_json import analyzed
from dicom_node.results.source import SourceSeries
from dicom_node.results.statements import percent_words, system_sentences
from dicom_node.results.summary import HEIGHT, WIDTH
from dicom_node.results.system_objects import system_of_slot
from dicom_node.results.writer import write_results
from dicom_node.settings import AnalysisSettings, NodeSettings
from inference.domain import Lobe
from support.made_findings import made_findings, made_volume
from support.other_systems import JCS, M2UNET, with_other_systems
from support.synthetic_ct import synthetic_series

CONTEXT = ResultContext(
    instance_set_digest="1" * 64,
    configuration_digest="2" * 64,
    analysis_started_at=datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
    completeness=Completeness("quiet for 60 s", 8),
    software_version="0.1.0",
    ae_title="M3LUNG",
)


class Case:
    def __init__(self, root: Path) -> None:
        series = synthetic_series(root / "ct", slices=8, matrix=128)
        self.volume = made_volume(series.paths)
        self.source = SourceSeries.read(series.paths)
        self.plain = made_findings(self.volume)
        self.findings = with_other_systems(self.plain, self.volume)

    def write(self, out: Path, findings=None):
        return write_results(
            findings or self.findings, self.volume, self.source, out, ResultOptions(), CONTEXT
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    case.write(out)
    return out


def items(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def groups(report):
    for item in items(report):
        names = item.get("ConceptNameCodeSequence")
        if names and names[0].CodeMeaning == "Measurement Group":
            yield item


def label(group) -> str:
    return str(group.ContentSequence[0].TextValue)


def numbers(group) -> dict[str, float]:
    return {
        item.ConceptNameCodeSequence[0].CodeValue: float(item.MeasuredValueSequence[0].NumericValue)
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    }


def said(report) -> str:
    return "\n".join(str(item.TextValue) for item in items(report) if item.ValueType == "TEXT")


def test_without_the_systems_there_is_nothing_of_them(case: Case, tmp_path: Path) -> None:
    written = case.write(tmp_path, case.plain)
    slots = {item.slot for item in written}
    assert not any("/lobes" in slot or "explanation" in slot for slot in slots)
    assert not (tmp_path / "explanation").exists()
    names = {label(group) for group in groups(dcmread(tmp_path / "report-0.dcm"))}
    assert not any("lobe" in name or "score" in name for name in names)
    page = dcmread(tmp_path / "summary.dcm")
    assert (page.Rows, page.Columns) == (HEIGHT, WIDTH)
    document = analyzed(case.plain, case.source, CONTEXT, written, banner="x")
    assert document.lobes is document.outlines is None
    assert document.involvement == ()


def test_what_holds_other_models_has_another_identity(case: Case, tmp_path: Path) -> None:
    plain = {item.slot: item.sop_instance_uid for item in case.write(tmp_path / "a", case.plain)}
    three = {item.slot: item.sop_instance_uid for item in case.write(tmp_path / "b")}
    assert plain.keys() < three.keys()
    changed = {slot for slot in plain if plain[slot] != three[slot]}
    assert changed == {"report", "summary"}  # what all of them say; the rest is the main model's
    for slot in ("segmentation", "key_objects"):
        name = f"{slot}.dcm"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    series = {
        str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID): path
        for path in (tmp_path / "b").rglob("*.dcm")
    }
    heads = [dcmread(path, stop_before_pixels=True) for path in series.values()]
    assert len({head.SeriesNumber for head in heads}) == len(heads)
    assert len({head.SeriesDescription for head in heads}) == len(heads)


def test_lobes_are_a_segmentation_that_others_read(case: Case, folder: Path) -> None:
    found = highdicom.seg.segread(folder / "segmentation-lobes.dcm")
    assert found.number_of_segments == 5
    for lobe in Lobe:
        item = found.get_segment_description(int(lobe))
        concept, side = LOBE[lobe]
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert kind.CodeValue == concept.code_value
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [m.CodeValue for m in modifiers] == ([] if side is None else [side.code_value])
        assert item.segment_label == lobe.label
    uids = [reference.sop_instance_uid for reference in case.volume.slices]
    labels = found.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(labels, case.findings.lobes.labels)
    equipment = found.ContributingEquipmentSequence
    assert [item.ManufacturerModelName for item in equipment][-1] == M2UNET.name


def test_outlines_are_a_segmentation_of_their_own_model(case: Case, folder: Path) -> None:
    found = highdicom.seg.segread(folder / "segmentation-lesions.dcm")
    item = found.get_segment_description(1)
    assert item.SegmentAlgorithmName == JCS.name
    uids = [reference.sop_instance_uid for reference in case.volume.slices]
    mask = found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(mask[..., 0] > 0, case.findings.segmented.mask)


def test_a_lobe_that_cannot_be_told_is_no_segment_and_no_number(case: Case, tmp_path: Path) -> None:
    doubtful = with_other_systems(case.plain, case.volume, doubtful=Lobe.RIGHT_MIDDLE)
    case.write(tmp_path, doubtful)
    found = highdicom.seg.segread(tmp_path / "segmentation-lobes.dcm")
    assert found.number_of_segments == 4
    report = dcmread(tmp_path / "report-0.dcm")
    names = [label(group) for group in groups(report)]
    assert not any(name.startswith("Right middle lobe") for name in names)
    assert not any("score of five lobes" in name for name in names)
    assert "RML not told" in said(report)
    assert "a lobe is missing" in said(report)


def test_the_report_names_the_source_of_each_number(case: Case, folder: Path) -> None:
    report = dcmread(folder / "report-0.dcm")
    by_label = {label(group): group for group in groups(report)}
    severe = next(group for name, group in by_label.items() if name.startswith("Severe"))
    assert numbers(severe) == {"122157": pytest.approx(0.8)}
    for model in (case.plain.model, JCS):
        for lobe, percent in zip(Lobe, case.findings.involvement[0].percent, strict=True):
            group = by_label[f"{lobe.label}: involvement by {model.name}"]
            found = numbers(group)
            assert found["LUNG_INVOLV_PCT"] == pytest.approx(percent, rel=0.06)
            assert 0 <= found["CT_SCORE_LOBE"] <= 5
            algorithm = [
                str(item.TextValue)
                for item in group.ContentSequence
                if item.ConceptNameCodeSequence[0].CodeMeaning == "Algorithm Name"
            ]
            assert algorithm == [f"{model.name} with {M2UNET.name}"]
        total = numbers(by_label[f"CT severity score of five lobes by {model.name}"])
        assert 0 <= total["CT_SCORE_TOTAL"] <= 25
    coded = {
        item.ConceptNameCodeSequence[0].CodeValue: item.ConceptCodeSequence[0].CodeMeaning
        for item in items(report)
        if item.ValueType == "CODE"
    }
    assert coded["246112005"] == "Severe"
    assert coded["JCS_CLASS"] == "Positive"
    for sentence in system_sentences(case.findings):
        assert sentence in said(report)
    names = [item.ManufacturerModelName for item in report.ContributingEquipmentSequence]
    assert names[-3:] == [case.plain.model.name, M2UNET.name, JCS.name]


def test_the_explanation_is_a_series_of_overlays(case: Case, folder: Path) -> None:
    shown = sorted((folder / "explanation").iterdir())
    wanted = np.flatnonzero(case.findings.segmented.slice_probability > 0.5)
    assert [int(path.stem) - 1 for path in shown] == wanted.tolist()
    picture = dcmread(shown[0])
    assert "explanation" in picture.DerivationDescription
    assert JCS.name in picture.DerivationDescription
    assert picture.SeriesDescription.startswith("AI map explanation")


def test_the_page_is_longer_and_the_document_holds_everything(case: Case, folder: Path) -> None:
    page = dcmread(folder / "summary.dcm")
    assert page.Rows > HEIGHT
    document = analyzed(case.findings, case.source, CONTEXT, (), banner="x")
    assert document.lobes.severe is True
    assert [item.lobe for item in document.lobes.lobes] == [lobe.key for lobe in Lobe]
    assert document.outlines.model.name == JCS.name
    assert [item.lesions_by for item in document.involvement] == [case.plain.model.name, JCS.name]


def test_percentages_carry_no_false_precision() -> None:
    assert [percent_words(value) for value in (None, 0.0, 0.4, 12.6)] == [
        "not told", "0 %", "< 1 %", "13 %",
    ]  # fmt: skip


def test_a_model_needs_its_bundle_and_the_main_one_is_always_there(tmp_path: Path) -> None:
    assert AnalysisSettings().models == ("m3lung",)
    assert AnalysisSettings().other_bundle("jcs") is None
    with pytest.raises(ValidationError, match="jcs needs jcs_bundle"):
        AnalysisSettings(models=("m3lung", "jcs"))
    with pytest.raises(ValidationError, match="always among them"):
        AnalysisSettings(models=("jcs",), jcs_bundle=tmp_path)
    named = AnalysisSettings(jcs_bundle=tmp_path)
    assert named.other_bundle("jcs") is None  # not switched on
    both = AnalysisSettings(models=("m3lung", "m2unet"), m2unet_bundle=tmp_path)
    assert both.other_bundle("m2unet") == tmp_path


def test_a_destination_may_get_some_systems_only(case: Case, tmp_path: Path) -> None:
    slots = {item.slot for item in case.write(tmp_path)}
    by_system: dict[str, set[str]] = {}
    for slot in slots:
        by_system.setdefault(system_of_slot(slot), set()).add(slot.split("/", maxsplit=1)[0])
    assert by_system == {
        "m3lung": {"report", "summary", "segmentation", "key_objects", "overlay"},
        "m2unet": {"segmentation"},
        "jcs": {"segmentation", "explanation"},
    }
    peer = {"name": "pacs", "ae_title": "PACS"}
    settings = NodeSettings(peers=[peer], analysis={"models_to": {"pacs": ["m3lung"]}})
    assert settings.analysis.models_to == {"pacs": ("m3lung",)}
    with pytest.raises(ValidationError, match="no destination is called so; known: pacs"):
        NodeSettings(peers=[peer], analysis={"models_to": {"pasc": ["m3lung"]}})


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(folder: Path) -> None:
    paths = [*folder.glob("*.dcm"), *sorted((folder / "explanation").iterdir())[:1]]
    for path in paths:
        run = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        errors = [line for line in (run.stdout + run.stderr).splitlines() if "Error" in line]
        assert not [line for line in errors if "Standard Extended" not in line], path
