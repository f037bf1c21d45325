"""The picture of a whole reading: every fifth slice, banner, classes, patient probabilities."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.figure import paint_figure, png
from dicom_node.results.page import ACCENT, AMBER
from dicom_node.results.result_set import ResultSet
from dicom_node.results.source import SourceSeries
from inference.domain import CtVolume, Findings, Training
from support.made_findings import made_findings, made_volume
from support.synthetic_ct import synthetic_series

Series = tuple[CtVolume, Findings, SourceSeries]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    made = synthetic_series(tmp_path_factory.mktemp("ct") / "a", slices=23, matrix=128)
    volume = made_volume(made.paths)
    return volume, made_findings(volume), SourceSeries.read(made.paths)


def figure_of(
    series: Series, findings: Findings | None = None, **options: object
) -> NDArray[np.uint8]:
    volume, made, source = series
    findings = findings or made
    context = ResultContext(
        instance_set_digest="0" * 64,
        configuration_digest="0" * 64,
        analysis_started_at=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        completeness=Completeness("a test", len(volume)),
        software_version="0",
        ae_title="M3LUNG",
    )
    results = ResultSet(source, findings.model, context, ResultOptions())
    return paint_figure(findings, volume, results, **options)  # type: ignore[arg-type]


def count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(axis=2).sum())


def test_there_is_a_pair_for_every_fifth_slice(series: Series) -> None:
    fifth, all_slices = figure_of(series), figure_of(series, step=1)
    assert fifth.shape[0] < all_slices.shape[0]  # 5 pairs in one row, 23 in three
    block = (all_slices.shape[0] - fifth.shape[0]) / 2
    assert block == pytest.approx(2 * 168 + 4 + 22)


def test_the_map_is_coloured_and_the_slice_above_it_is_grey(series: Series) -> None:
    picture = figure_of(series).astype(int)
    spread = picture.max(axis=2) - picture.min(axis=2)
    assert spread[132:290, 60:860].max() <= 12  # raw slices, and numbers in the page's grey
    assert spread[300:440, 60:860].max() > 60


def test_every_picture_says_what_it_must(series: Series) -> None:
    findings = series[1]
    warned = figure_of(series)
    assert count(warned, AMBER) > 500
    site = dataclasses.replace(
        findings, model=dataclasses.replace(findings.model, training=Training.SITE)
    )
    without = figure_of(series, site)
    assert 500 < count(without, AMBER) < count(warned, AMBER)  # the banner stays


def test_the_patients_probabilities_stand_at_the_end(series: Series) -> None:
    findings = series[1]
    whole = figure_of(series)[-200:]
    assert count(whole, ACCENT) > 200
    alone = dataclasses.replace(findings, patient=None, nonparametric=None)
    assert count(figure_of(series, alone)[-200:], ACCENT) == 0
    noted = figure_of(series, note="True: CAP")
    assert (noted != figure_of(series)).any()
    assert (noted[:-200] == figure_of(series)[:-200]).all()


def test_png_gives_the_same_pixels_back(series: Series) -> None:
    picture = figure_of(series)
    with Image.open(io.BytesIO(png(picture))) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == picture).all()


def test_a_short_stack_and_one_without_lung(series: Series) -> None:
    volume, findings, source = series
    slices = tuple(dataclasses.replace(found, has_lung=False) for found in findings.slices)
    blank = dataclasses.replace(
        findings, slices=slices, lung_mask=np.zeros_like(findings.lung_mask)
    )
    assert figure_of((volume, blank, source)).shape[2] == 3


def test_analyze_draws_it(tmp_path: Path) -> None:
    from inference.bundle import make_untrained_bundle
    from inference.lung_crop import CropParameters
    from inference.slice_net import SliceNetParameters

    make_untrained_bundle(
        tmp_path / "bundle",
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=64),
    )
    synthetic_series(tmp_path / "ct", slices=21, matrix=128)
    done = subprocess.run(
        [
            sys.executable, "-m", "dicom_node", "analyze", str(tmp_path / "ct"),
            "--out", str(tmp_path / "out"), "--bundle", str(tmp_path / "bundle"), "--figure",
        ],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "figure.png") as image:
        assert image.width >= 900
        assert count(np.asarray(image), AMBER) > 500
