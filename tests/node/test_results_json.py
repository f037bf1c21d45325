"""``result.json``: the documented schema, every field, both ways of ending."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.domain import Disposition
from dicom_node.errors import SeriesRejected
from dicom_node.results import result_json
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.result_json import ResultDocument, analyzed, not_analyzed, write_document
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from inference.domain import Training
from support.made_findings import MODEL, made_findings, made_volume
from support.synthetic_ct import synthetic_series

CONTEXT = ResultContext(
    "1" * 64,
    "2" * 64,
    datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
    Completeness("a folder was given", 6),
    "0.1.0",
    "M3LUNG",
)
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs/result-json.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    series = synthetic_series(tmp_path_factory.mktemp("ct"), slices=6, matrix=64)
    out = tmp_path_factory.mktemp("out")
    volume = made_volume(series.paths)
    findings = made_findings(volume)
    source = SourceSeries.read(series.paths)
    objects = write_results(findings, volume, source, out, ResultOptions(), CONTEXT)
    document = analyzed(
        findings, source, CONTEXT, objects, banner="TRIAL", timing_s={"results": 0.5}
    )
    write_document(document, out / "result.json")
    return out, json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_holds_all_that_readers_rely_on(written: tuple[Path, dict[str, object]]) -> None:
    out, document = written
    assert document["schema_version"] == "1"
    assert document["disposition"] == "analyzed"
    assert document["reason"] is None
    assert document["patient"] == {
        "probabilities": {"healthy": 0.08, "covid19": 0.71, "h1n1": 0.06, "cap": 0.15},
        "predicted": "covid19",
    }
    assert document["nonparametric"] == {
        "predicted": "cap",
        "counts": {"healthy": 5, "covid19": 3, "h1n1": 1, "cap": 1},
        "threshold": 0.99,
        "agrees": False,
    }
    assert document["model"] == {
        "name": "M3Lung-Sys",
        "version": "0.1.0",
        "sha256": MODEL.sha256,
        "trained": False,
        "training": "untrained",
    }
    assert document["timing_s"] == {"slices": 1.5, "results": 0.5}
    assert document["banner"] == "TRIAL"
    slices = document["slices"]
    assert isinstance(slices, list)
    assert len(slices) == 6
    assert set(slices[0]) >= {
        *("sop_instance_uid", "frame_number", "z_mm", "lesion_probability", "probabilities"),
        *("lung_box", "has_lung"),
    }
    assert [s["z_mm"] for s in slices] == sorted((s["z_mm"] for s in slices), reverse=True)
    lesion = document["lesion"]
    assert isinstance(lesion, dict)
    assert 0 < lesion["percent_of_lung"] < 100
    objects = document["objects"]
    assert isinstance(objects, list)
    for item in objects:
        assert (out / item["path"]).stat().st_size == item["size_bytes"]
    assert {item["kind"] for item in objects} == {
        *("report", "overlay", "summary", "segmentation", "key_objects")
    }


def test_reads_back_as_the_same_document(written: tuple[Path, dict[str, object]]) -> None:
    out, _ = written
    text = (out / "result.json").read_text(encoding="utf-8")
    document = ResultDocument.model_validate_json(text)
    assert document.model_dump_json(indent=1) + "\n" == text


@pytest.mark.parametrize("training", Training)
def test_only_untrained_models_are_untrained(training: Training, tmp_path: Path) -> None:
    series = synthetic_series(tmp_path, slices=2, matrix=32)
    volume = made_volume(series.paths)
    findings = made_findings(volume, model=dataclasses.replace(MODEL, training=training))
    document = analyzed(findings, SourceSeries.read(series.paths), CONTEXT, (), banner="B")
    assert document.model is not None
    assert document.model.trained == (training != Training.UNTRAINED)
    assert document.model.training == training.value


@pytest.mark.parametrize("disposition", [Disposition.SKIPPED, Disposition.REJECTED])
def test_a_series_without_reading_has_a_reason(disposition: Disposition, tmp_path: Path) -> None:
    reason = SeriesRejected("Two slices lie at the same position.").reason
    document = not_analyzed(
        disposition, reason, software_version="0.1.0", series_instance_uid="1.2.3"
    )
    write_document(document, tmp_path / "result.json")
    read = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (read["disposition"], read["reason"]) == (disposition.value, reason)
    assert read["series"]["series_instance_uid"] == "1.2.3"
    assert read["patient"] is None
    assert read["slices"] == read["objects"] == []


def test_an_analysed_series_is_not_without_findings() -> None:
    with pytest.raises(ValueError, match="findings"):
        not_analyzed(Disposition.ANALYZED, "?", software_version="0.1.0")


def test_documented_schema_is_the_codes() -> None:
    match = re.search(r"```json schema\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    assert match is not None
    assert json.loads(match[1]) == ResultDocument.model_json_schema(mode="serialization")


def test_every_field_is_described() -> None:
    text = DOCUMENTATION.read_text("utf-8")
    for name in ResultDocument.model_fields:
        assert f"`{name}`" in text, name


def test_documented_example_is_a_legal_document() -> None:
    match = re.search(r"```json example\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    assert match is not None
    document = result_json.ResultDocument.model_validate_json(match[1])
    assert document.disposition == Disposition.ANALYZED
