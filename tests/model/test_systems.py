"""The three systems behind one door: one crop, sources kept apart, disagreements said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.analyzer import Analyzer
from inference.bundle import make_untrained_bundle
from inference.domain import (
    CtVolume,
    Lobe,
    PatientFindings,
    QualityCode,
    SliceReference,
    severity_score,
)
from inference.errors import BundleError
from inference.jcs.bundle import make_untrained_jcs
from inference.jcs.network import JcsParameters
from inference.jcs.reader import LesionReader, deciding_probability
from inference.jcs.res2net import Res2NetParameters
from inference.lung_crop import CropParameters, crop_lungs
from inference.m2unet.bundle import make_untrained_m2unet
from inference.m2unet.network import M2UNetParameters
from inference.m2unet.reader import LobeReader, heights
from inference.slice_net import SliceNetParameters
from inference.systems import disagreements, involved_lobes
from support.synthetic_ct import chest_hu

CROP = CropParameters(input_size=64)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    make_untrained_bundle(
        folder / "m3lung", slice_net=SliceNetParameters(backbone="resnet18"), crop=CROP
    )
    make_untrained_m2unet(
        folder / "m2unet", architecture=M2UNetParameters(4, 32, 32, hidden=8), crop=CROP
    )
    make_untrained_jcs(
        folder / "jcs",
        architecture=JcsParameters(Res2NetParameters((1, 1, 1, 1), 4), 32, 4, frozen_norms=False),
        crop=CROP,
    )
    return folder


@pytest.fixture(scope="module")
def volume() -> CtVolume:
    hu = chest_hu(22, matrix=96, lesion=True)
    return CtVolume(
        hu=hu,
        slices=tuple(SliceReference(f"1.{i}", "1.2") for i in range(len(hu))),
        z_mm=-10.0 * np.arange(len(hu)),
        positions_mm=np.zeros((len(hu), 3)),
        orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing_mm=(400 / 96, 400 / 96),
        slice_spacing_mm=10.0,
    )


@pytest.fixture(scope="module")
def found(bundles: Path, volume: CtVolume):
    analyzer = Analyzer.load(
        bundles / "m3lung", m2unet=bundles / "m2unet", jcs=bundles / "jcs",
        device="cpu", precision="float32", engine="torch", threads=1,
    )  # fmt: skip
    seen = []
    findings = analyzer.analyze(volume, progress=lambda *said: seen.append(said))
    return analyzer, findings, seen


def test_all_three_read_after_one_crop(found, volume):
    analyzer, findings, seen = found
    assert [model.name for model in findings.models] == [
        "m3lung-untrained", "m2unet-untrained", "jcs-untrained",
    ]  # fmt: skip
    assert findings.models == analyzer.identities
    assert findings.lobes.labels.shape == volume.hu.shape
    assert findings.segmented.mask.shape == volume.hu.shape
    assert not (findings.segmented.mask & ~findings.lung_mask).any()
    assert 0 <= findings.lobes.severe_probability <= 1
    assert len(findings.involvement) == 2
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["crop", "slices", "patient", "lobes", "lesions"]
    assert sum("untrained" in item.text for item in findings.quality) == 3


def test_alone_the_main_model_says_what_it_always_said(bundles, volume, found):
    alone = Analyzer.load(
        bundles / "m3lung", device="cpu", precision="float32", engine="torch", threads=1
    )
    findings = alone.analyze(volume)
    assert findings.lobes is findings.segmented is None
    assert findings.involvement == ()
    assert findings.slices == found[1].slices
    assert findings.patient == found[1].patient
    assert set(findings.timing_s) == {"crop", "slices", "patient", "burden"}


def test_the_crop_has_to_be_shared(bundles, tmp_path):
    other = CropParameters(input_size=64, margin_px=20)
    make_untrained_m2unet(
        tmp_path / "m", architecture=M2UNetParameters(4, 32, 32, hidden=8), crop=other
    )
    with pytest.raises(BundleError, match="crops once"):
        Analyzer.load(bundles / "m3lung", m2unet=tmp_path / "m", device="cpu")


def test_a_slice_level_reading_has_no_severity_and_no_patient(bundles, volume):
    crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, CROP)
    lobes = LobeReader.load(bundles / "m2unet", device="cpu", precision="float32")
    assert lobes.read(volume, crop, whole=False).severe is None
    lesions = LesionReader.load(bundles / "jcs", device="cpu", precision="float32")
    read = lesions.read(volume, crop, whole=False)
    assert read.positive is None
    assert read.probability is None


def test_mirrored_columns_give_mirrored_lobes(bundles, volume):
    reader = LobeReader.load(bundles / "m2unet", device="cpu", precision="float32")
    turned = replace(
        volume, hu=np.ascontiguousarray(volume.hu[:, :, ::-1]), orientation=(-1, 0, 0, 0, 1, 0)
    )
    crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, CROP)
    other = crop_lungs(turned.hu, turned.pixel_spacing_mm, CROP)
    one = reader.read(volume, crop, whole=True)
    two = reader.read(turned, other, whole=True)
    assert (one.labels == two.labels[:, :, ::-1]).mean() > 0.95


def test_one_lung_is_reported_and_has_no_numbers(bundles, volume):
    reader = LobeReader.load(bundles / "m2unet", device="cpu", precision="float32")
    labels = np.zeros(volume.hu.shape, np.uint8)
    labels[:, 20:60, 10:40] = Lobe.RIGHT_UPPER
    labels[:, 60:80, 10:40] = Lobe.RIGHT_LOWER
    sure = np.ones(6)
    lobes = {item.lobe: item for item in reader._findings(volume, labels, sure)}
    assert lobes[Lobe.RIGHT_UPPER].is_told
    assert lobes[Lobe.RIGHT_UPPER].volume_ml > 0
    assert "hardly any of it" in lobes[Lobe.RIGHT_MIDDLE].doubt
    assert "hardly any left lung" in lobes[Lobe.LEFT_LOWER].doubt
    assert lobes[Lobe.LEFT_LOWER].volume_ml is None
    sure[Lobe.RIGHT_UPPER] = 0.4
    unsure = reader._findings(volume, labels, sure)
    assert "borders" in unsure[0].doubt


def test_lesions_are_counted_in_their_lobe(found):
    findings = found[1]
    labels = np.zeros_like(findings.lobes.labels)
    labels[:, :40], labels[:, 40:] = Lobe.RIGHT_UPPER, Lobe.LEFT_LOWER
    lobes = tuple(
        replace(item, volume_ml=1.0 if item.lobe in (1, 5) else None, doubt="")
        for item in findings.lobes.lobes
    )
    mask = np.zeros_like(findings.segmented.mask)
    mask[:, :10] = True
    made = replace(
        findings,
        lobes=replace(findings.lobes, labels=labels, lobes=lobes),
        segmented=replace(findings.segmented, mask=mask),
    )
    by_jcs = involved_lobes(made)[1]
    assert by_jcs.percent == (pytest.approx(25.0), None, None, None, pytest.approx(0.0))
    assert by_jcs.scores == (2, None, None, None, 0)
    assert by_jcs.total_score is None


def test_disagreement_is_said(found):
    findings = found[1]
    healthy = PatientFindings((0.9, 0.05, 0.03, 0.02))
    covid = PatientFindings((0.05, 0.9, 0.03, 0.02))
    positive = replace(findings.segmented, probability=0.9, percent_of_lung=40.0)
    burden = replace(findings.burden, percent_of_lung=5.0)
    severe = replace(findings.lobes, severe_probability=0.9)
    made = replace(findings, patient=healthy, segmented=positive, burden=burden, lobes=severe)
    said = [i.text for i in disagreements(made) if i.code is QualityCode.SYSTEMS_DISAGREE]
    assert len(said) == 3
    assert "reads COVID-19" in said[0]
    assert "5 %" in said[1]
    assert "40 %" in said[1]
    assert "severe" in said[2]
    agreed = replace(
        made,
        patient=covid,
        segmented=replace(positive, percent_of_lung=6.0),
        lobes=replace(severe, severe_probability=0.1),
    )
    assert not [i for i in disagreements(agreed) if i.code is QualityCode.SYSTEMS_DISAGREE]


@pytest.mark.parametrize(
    ("percent", "score"),
    [(0, 0), (0.05, 0), (0.5, 1), (4.9, 1), (5, 2), (25, 2), (26, 3), (49.9, 3), (50, 4),
     (75, 4), (75.1, 5), (100, 5)],
)  # fmt: skip
def test_the_severity_score_of_a_lobe(percent, score):
    assert severity_score(percent) == score


def test_the_deciding_slice_and_the_rule_never_disagree():
    random = np.random.default_rng(0)
    for allowed in (0, 3, 19, 40):
        for _ in range(20):
            values = random.random(20)
            positive = int((values > 0.5).sum()) > min(allowed, 19)
            assert (deciding_probability(values, allowed) > 0.5) == positive


def test_heights_go_from_apex_to_base():
    assert heights(np.array([3, 5, 7])).tolist() == [0, 0.5, 1]
    assert heights(np.array([4])).tolist() == [0.5]
