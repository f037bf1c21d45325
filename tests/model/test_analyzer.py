"""The whole way from volume to findings, with small untrained networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from inference.analyzer import Analyzer
from inference.bundle import make_untrained_bundle
from inference.domain import CtVolume, DiseaseClass, QualityCode, SliceReference, Training
from inference.errors import DeviceError, NotAChestCt
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters
from inference.volume import load_volume
from support.synthetic_ct import chest_hu


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "small"
    make_untrained_bundle(
        folder,
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=96),
    )
    return folder


@pytest.fixture(scope="module")
def analyzer(bundle: Path) -> Analyzer:
    return Analyzer.load(bundle, device="cpu", precision="float32", threads=1)


def chest(slices: int = 24, *, slice_mm: float | None = 10.0) -> CtVolume:
    hu = chest_hu(slices, matrix=192, lesion=True)
    hu[0] = np.where(hu[0] < -500, 40, hu[0])  # nothing but neck
    hu[0, :4] = -1000
    return CtVolume(
        hu=hu,
        slices=tuple(SliceReference(f"1.{i}", "1.2") for i in range(slices)),
        z_mm=-(slice_mm or 10.0) * np.arange(slices),
        positions_mm=np.zeros((slices, 3)),
        orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing_mm=(400 / 192, 400 / 192),
        slice_spacing_mm=slice_mm,
    )


def part_of(volume: CtVolume, part: slice) -> CtVolume:
    return dataclasses.replace(
        volume, hu=volume.hu[part], slices=volume.slices[part], z_mm=volume.z_mm[part],
        positions_mm=volume.positions_mm[part],
    )  # fmt: skip


def codes(findings) -> set[QualityCode]:
    return {statement.code for statement in findings.quality}


def test_findings_are_complete(analyzer):
    volume = chest()
    findings = analyzer.analyze(volume)
    assert findings.model.training is Training.UNTRAINED
    assert len(findings.slices) == 24
    assert [s.reference for s in findings.slices] == list(volume.slices)
    assert sum(findings.patient.probabilities) == pytest.approx(1)
    assert findings.lesion_map.shape == findings.lung_mask.shape == volume.hu.shape
    assert findings.lesion_map.dtype == np.float16
    assert 0 <= findings.lesion_map.min() <= findings.lesion_map.max() <= 1
    assert 0 <= findings.burden.percent_of_lung <= 100
    assert set(findings.timing_s) == {"crop", "slices", "patient", "burden"}
    for found, mask, lesion in zip(
        findings.slices, findings.lung_mask, findings.lesion_map, strict=True
    ):
        assert sum(found.probabilities) == pytest.approx(1, abs=1e-5)
        assert found.lung_area_px == mask.sum()
        assert found.lesion_area_px == ((lesion > np.float16(0.5)) & mask).sum()
        box = found.lung_box
        outside = lesion.copy()
        outside[box.top : box.bottom, box.left : box.right] = 0
        assert outside.max() == 0


def test_slices_without_lung_are_not_read_and_say_so(analyzer):
    findings = analyzer.analyze(chest())
    assert [s.has_lung for s in findings.slices] == [False] + [True] * 23
    first = findings.slices[0]
    assert first.probabilities == (1.0, 0.0, 0.0, 0.0)
    assert first.lesion_probability == 0.0
    assert first.predicted is DiseaseClass.HEALTHY
    assert findings.lesion_map[0].max() == 0
    assert sum(findings.nonparametric.counts) == 23
    assert QualityCode.NO_LUNG_SLICES in codes(findings)
    assert any("1 of 24 slices show no lung" in s.text for s in findings.quality)


def test_every_statement_has_its_cause(analyzer):
    findings = analyzer.analyze(chest())
    expected = {QualityCode.UNTRAINED_MODEL, QualityCode.NO_LUNG_SLICES}
    if findings.patient.predicted != findings.nonparametric.predicted:
        expected.add(QualityCode.READERS_DISAGREE)
    assert codes(findings) == expected
    assert findings.quality[0].code is QualityCode.UNTRAINED_MODEL


def test_lungs_cut_off_below_are_said(analyzer):
    findings = analyzer.analyze(part_of(chest(40), slice(0, 25)))
    (statement,) = (s for s in findings.quality if s.code is QualityCode.CLIPPED_LUNG)
    assert "below the last slice" in statement.text
    assert "above" not in statement.text


def test_batches_do_not_change_the_reading(bundle, analyzer):
    whole = analyzer.analyze(chest())
    single = Analyzer.load(bundle, device="cpu", precision="float32", batch_slices=1).analyze(
        chest()
    )
    assert np.allclose(whole.lesion_map, single.lesion_map, atol=2e-3)
    for a, b in zip(whole.slices, single.slices, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
    assert whole.patient.probabilities == pytest.approx(single.patient.probabilities, abs=1e-4)


def test_a_second_reading_is_the_same(analyzer):
    first, second = analyzer.analyze(chest()), analyzer.analyze(chest())
    assert np.array_equal(first.lesion_map, second.lesion_map)
    assert first.slices == second.slices
    assert first.patient == second.patient


@pytest.mark.parametrize("axes", [(2,), (1,), (1, 2)])
def test_a_mirrored_image_is_read_as_displayed(analyzer, axes):
    """The same patient stored with reversed rows or columns: same scores, mirrored map."""
    volume = chest()
    mirrored = dataclasses.replace(
        volume,
        hu=np.ascontiguousarray(np.flip(volume.hu, axes)),
        orientation=(-1 if 2 in axes else 1, 0, 0, 0, -1 if 1 in axes else 1, 0),
    )
    plain, other = analyzer.analyze(volume), analyzer.analyze(mirrored)
    # the even opening element leans by one row, so boxes may differ by a pixel
    assert np.mean(np.abs(np.flip(other.lesion_map, axes) - plain.lesion_map)) < 0.02
    for a, b in zip(plain.slices, other.slices, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=0.05)
    if axes == (2,) and plain.burden.distribution is not None:
        assert other.burden.distribution.right_left == pytest.approx(
            plain.burden.distribution.right_left, abs=0.03
        )


def test_few_slices_are_read_one_by_one(analyzer):
    findings = analyzer.analyze(part_of(chest(), slice(8, 12)))
    assert findings.patient is None
    assert findings.nonparametric is None
    assert len(findings.slices) == 4
    assert QualityCode.FEW_SLICES in codes(findings)


def test_slice_level_on_request(analyzer):
    findings = analyzer.analyze(chest(), slice_level=True)
    assert findings.patient is None
    assert QualityCode.SLICE_LEVEL_ONLY in codes(findings)
    assert QualityCode.FEW_SLICES not in codes(findings)


def test_without_spacing_there_is_a_class_but_no_percentage(analyzer):
    findings = analyzer.analyze(chest(slice_mm=None))
    assert findings.patient is not None
    assert findings.burden.percent_of_lung is None


def test_what_is_no_chest_is_refused(analyzer):
    volume = chest()
    solid = dataclasses.replace(volume, hu=np.full_like(volume.hu, 40))
    with pytest.raises(NotAChestCt):
        analyzer.analyze(solid)
    with pytest.raises(NotAChestCt):
        analyzer.analyze(solid, slice_level=True)


def test_progress_comes_in_order_and_reaches_the_end(analyzer):
    calls: list[tuple[str, int, int]] = []
    analyzer.analyze(chest(), progress=lambda *call: calls.append(call))
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["crop", "slices", "patient"]
    for stage in stages:
        own = [(done, total) for name, done, total in calls if name == stage]
        assert own == sorted(own)
        assert own[-1][0] == own[-1][1]
    assert [c for c in calls if c[0] == "slices"][-1] == ("slices", 23 * 3, 23 * 3)


def test_an_absent_gpu_is_an_error(bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError):
        Analyzer.load(bundle, device="cuda")


@pytest.mark.real_data
def test_bfloat16_agrees_with_float32_on_real_slices(bundle, p001):
    """Random weights of a small network; trained ones have to be measured again."""
    few = part_of(p001, slice(40, 100, 6))
    exact = Analyzer.load(bundle, device="cpu", precision="float32").analyze(few)
    rough = Analyzer.load(bundle, device="cpu", precision="bfloat16").analyze(few)
    for a, b in zip(exact.slices, rough.slices, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=0.02)
        assert a.lesion_probability == pytest.approx(b.lesion_probability, abs=0.02)
    assert np.mean(np.abs(exact.lesion_map - rough.lesion_map)) < 0.01


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder", ["lung-pet-ct-dx/siemens_A0002_B40f", "lung-pet-ct-dx/philips_A0001_5mm_part"]
)
def test_other_vendors_are_read_at_slice_level(analyzer, series, folder):
    findings = analyzer.analyze(load_volume(series(folder)), slice_level=True)
    assert all(s.has_lung for s in findings.slices)
    assert findings.patient is None


@pytest.mark.real_data
def test_a_real_series_whole(analyzer, p001):
    findings = analyzer.analyze(p001)
    assert findings.patient is not None
    assert 5000 < findings.burden.lung_ml < 7500
    assert sum(s.has_lung for s in findings.slices) > 130
    assert QualityCode.IRREGULAR_SPACING not in codes(findings)
