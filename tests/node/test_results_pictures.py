"""Colours, layout and pages: what a reader may and may not see."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_node.results.colour import (
    MOST_ALPHA,
    SCALE_LOGITS,
    blended,
    lesion_colours,
    lung_window_grey,
    scale_colours,
    scale_value,
    srgb_profile,
)
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.layout import Block, clear_of, place_blocks
from dicom_node.results.not_analyzed import paint_not_analyzed
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import lesion_mask
from dicom_node.results.source import SourceSeries
from dicom_node.results.summary import paint_summary
from dicom_node.results.typeface import text_width, wrapped
from inference.domain import CtVolume, Findings, LesionBurden, Training
from support.made_findings import MODEL, made_findings, made_volume
from support.synthetic_ct import synthetic_series

STARTED = datetime(2026, 3, 5, 14, 56, tzinfo=UTC)
CONTEXT = ResultContext(
    "i" * 64, "c" * 64, STARTED, Completeness("quiet for 60 s", 12), "0.1.0", "A"
)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[CtVolume, Findings, SourceSeries]:
    made = synthetic_series(tmp_path_factory.mktemp("ct"), slices=12, matrix=256)
    volume = made_volume(made.paths)
    return volume, made_findings(volume), SourceSeries.read(made.paths)


def result_set(source: SourceSeries, **options: str) -> ResultSet:
    return ResultSet(source, MODEL, CONTEXT, ResultOptions(**options))  # type: ignore[arg-type]


# -- colours ----------------------------------------------------------------------------------


def test_lung_window_is_centre_minus_600_width_1500() -> None:
    grey = lung_window_grey(np.array([-1024, -1350 + 1500 // 2, 150, 3071], np.int16))
    assert grey.tolist() == [55, 128, 255, 255]
    ramp = lung_window_grey(np.arange(-1024, 3072, dtype=np.int16)).astype(int)
    assert (np.diff(ramp) >= 0).all()


def test_colours_rise_in_lightness() -> None:
    red, green, blue = lesion_colours().astype(float).T / 255
    lightness = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    assert (np.diff(lightness)[8:] > -1e-3).all()  # 8-bit steps at the dark end may tie
    assert lightness[-1] > 0.7


def test_blend_leaves_what_is_not_shown_untouched_and_is_never_opaque() -> None:
    random = np.random.default_rng(1)
    hu = random.integers(-1024, 400, (64, 64)).astype(np.int16)
    lesion = random.random((64, 64)).astype(np.float16)
    visible = lesion > np.float16(0.5)
    rgb = blended(hu, lesion, visible, 0.5).astype(float)
    grey = lung_window_grey(hu).astype(float)[:, :, None]
    assert (rgb[~visible] == grey.repeat(3, 2)[~visible]).all()
    value = np.clip(lesion[visible].astype(float), 0, 1 - 1e-7)
    place = np.clip(np.log(value / (1 - value)) / SCALE_LOGITS, 0, 1)
    colour = scale_colours()[np.rint(place * 255).astype(int)].astype(float)
    change = np.abs(rgb - grey)[visible]
    assert (change <= MOST_ALPHA * np.abs(colour - grey[visible]) + 0.51 + 3 * MOST_ALPHA).all()
    assert change.mean() > 5  # and it is seen


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.956])
def test_the_whole_scale_is_used_wherever_the_threshold_lies(threshold: float) -> None:
    assert scale_value(0, threshold) == pytest.approx(threshold)
    places = np.array([0, 0.5, 1], np.float32)
    lesion = np.array([[scale_value(float(at), threshold) for at in places]], np.float32)
    rgb = blended(
        np.full((1, 3), -1024, np.int16),
        lesion.astype(np.float64),
        np.ones((1, 3), bool),
        threshold,
    ).astype(float)
    grey = float(lung_window_grey(np.array([-1024], np.int16))[0])
    for pixel, row in zip(rgb[0], (0, 128, 255), strict=True):
        tint = pixel - grey
        towards = scale_colours()[row].astype(float) - grey
        cosine = tint @ towards / np.linalg.norm(tint) / np.linalg.norm(towards)
        assert cosine > 0.999
    assert np.linalg.norm(rgb[0, 2] - rgb[0, 0]) > 40


def test_a_certain_place_has_the_last_colour() -> None:
    ones = np.ones((1, 1), np.float16)
    rgb = blended(np.full((1, 1), 3000, np.int16), ones, ones > 0, 0.956)[0, 0].astype(float)
    wanted = 255 + MOST_ALPHA * (scale_colours()[-1].astype(float) - 255)
    assert rgb == pytest.approx(wanted, abs=0.51)


def test_profile_has_fixed_bytes_and_is_srgb() -> None:
    profile = srgb_profile()
    assert profile[36:40] == b"acsp"
    assert profile[16:20] == b"RGB "
    assert b"s\0R\0G\0B" in profile or b"sRGB" in profile
    srgb_profile.cache_clear()
    assert srgb_profile() == profile


# -- layout -----------------------------------------------------------------------------------

CORNERS = (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right"))


def lung_leaving(*free: tuple[slice, slice]) -> NDArray[np.bool_]:
    lung = np.ones((512, 512), bool)
    for place in free:
        lung[place] = False
    return lung


def covered(lung: NDArray[np.bool_], blocks: list[Block]) -> int:
    placed = place_blocks(blocks, clear_of(lung))
    taken = np.zeros(lung.shape, int)
    for item in placed:
        box = item.box
        taken[box.top : box.bottom, box.left : box.right] += 1
    assert taken.max() == 1  # blocks never cover each other
    return int(np.count_nonzero((taken > 0) & lung))


def test_text_takes_its_first_corner_where_it_is_free() -> None:
    lung = np.zeros((512, 512), bool)
    lung[100:400, 80:430] = True
    (placed,) = place_blocks([Block(("RESEARCH USE ONLY",), CORNERS, 12)], clear_of(lung))
    assert (placed.box.top, placed.box.left) == (5, 5)
    assert placed.is_clear


@pytest.mark.parametrize(
    "free",
    [
        (slice(430, 512), slice(0, 340)),
        (slice(0, 90), slice(300, 512)),
        (slice(400, 512), slice(380, 512)),  # narrow: has to wrap
        (slice(0, 130), slice(0, 110)),  # narrower: wraps and shrinks
    ],
)
def test_text_moves_wraps_and_shrinks_before_it_covers_lung(free: tuple[slice, slice]) -> None:
    words = "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"
    assert covered(lung_leaving(free), [Block((words,), CORNERS, 12)]) == 0


def test_four_blocks_in_four_corners_of_a_tight_picture() -> None:
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    lung = x**2 + y**2 < 1.0  # touches all four edges
    blocks = [
        Block(("RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE",), (corner,), 12) for corner in CORNERS
    ]
    assert covered(lung, blocks) == 0


def test_wrapping_keeps_every_word() -> None:
    words = "one two three four five six seven"
    lines = wrapped(words, 14, 60)
    assert " ".join(lines) == words
    assert all(text_width(line, 14) <= 60 for line in lines)
    assert wrapped("", 14, 60) == []


# -- overlay picture --------------------------------------------------------------------------


def test_annotation_never_covers_lung(
    series: tuple[CtVolume, Findings, SourceSeries],
) -> None:
    volume, findings, source = series
    painter = OverlayPainter(findings, volume, result_set(source))
    for index in range(len(volume)):
        changed = (painter.paint(index) != painter.blend(index)).any(axis=2)
        assert changed.sum() > 500  # there is an annotation
        assert not (changed & findings.lung_mask[index]).any()


def test_a_lung_under_every_steady_place_moves_the_annotation_slice_by_slice(
    series: tuple[CtVolume, Findings, SourceSeries],
) -> None:
    volume, findings, source = series
    lung = np.zeros_like(findings.lung_mask)
    lung[0, :128] = True  # the whole upper half
    lung[1, 128:] = True  # the whole lower half: together no place is free
    crowded = dataclasses.replace(findings, lung_mask=lung)
    painter = OverlayPainter(crowded, volume, result_set(source))
    for index in (0, 1):
        changed = (painter.paint(index) != painter.blend(index)).any(axis=2)
        assert changed.sum() > 500
        assert not (changed & lung[index]).any()


def test_colour_lies_exactly_on_the_segmentation(
    series: tuple[CtVolume, Findings, SourceSeries],
) -> None:
    volume, findings, source = series
    painter = OverlayPainter(findings, volume, result_set(source))
    for index in range(len(volume)):
        rgb = painter.blend(index).astype(int)
        coloured = rgb.max(axis=2) != rgb.min(axis=2)
        mask = lesion_mask(findings, index)
        assert not (coloured & ~mask).any()
        assert np.count_nonzero(coloured) >= 0.98 * np.count_nonzero(mask)


def test_banner_and_training_change_the_picture(
    series: tuple[CtVolume, Findings, SourceSeries],
) -> None:
    volume, findings, source = series
    usual = OverlayPainter(findings, volume, result_set(source)).paint(6)
    other = OverlayPainter(findings, volume, result_set(source, banner="TRIAL ONLY")).paint(6)
    trained = dataclasses.replace(MODEL, training=Training.SITE)
    results = ResultSet(source, trained, CONTEXT, ResultOptions())
    site = OverlayPainter(dataclasses.replace(findings, model=trained), volume, results).paint(6)
    assert (usual != other).any()
    assert (usual != site).any()


# -- summary page -----------------------------------------------------------------------------


def page_of(volume: CtVolume, findings: Findings, source: SourceSeries) -> NDArray[np.uint8]:
    results = result_set(source)
    return paint_summary(findings, results, OverlayPainter(findings, volume, results))


def test_summary_shows_every_part(series: tuple[CtVolume, Findings, SourceSeries]) -> None:
    volume, findings, source = series
    whole = page_of(volume, findings, source)
    assert whole.shape == (1476, 1080, 3)
    changes = {
        "patient": dataclasses.replace(findings, patient=None, nonparametric=None),
        "second opinion": dataclasses.replace(findings, nonparametric=None),
        "burden": dataclasses.replace(findings, burden=LesionBurden(None, None, None)),
        "quality": dataclasses.replace(findings, quality=()),
        "lesions": made_findings(volume, lesions=False),
    }
    pages = {name: page_of(volume, changed, source) for name, changed in changes.items()}
    for name, page in pages.items():
        assert (page != whole).any(), name


def test_page_of_a_series_that_was_not_analysed_holds_its_reason(
    series: tuple[CtVolume, Findings, SourceSeries],
) -> None:
    _, _, source = series
    results = ResultSet(source, None, CONTEXT, ResultOptions())
    one = paint_not_analyzed("This is not a chest CT.", results)
    two = paint_not_analyzed("Two slices lie at the same position.", results)
    assert one.shape == (576, 1080, 3)
    assert (one != two).any()
