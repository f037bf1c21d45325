"""Results of a series in OHIF: listed, drawn, scrolling with the CT, SEG on and off.

One tab for all, and a small series: a study takes its time to open where no graphics card draws it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import Chromium
from support.ohif import OHIF
from support.ohif_tab import CT, OhifTab
from support.orthanc import Orthanc
from support.peers import require_peer
from support.synthetic_ct import synthetic_series
from support.viewer_study import ViewerStudy, store_study

pytestmark = [
    *(pytest.mark.peer(name) for name in ("orthanc", "dcmtk", "chromium", "ohif")),
    pytest.mark.slow,
]

PATIENCE_S = 120.0  # for one condition, on a machine with other work; the whole takes a minute
SLICES, MATRIX = 24, 256


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    for name in ("orthanc", "dcmtk", "chromium", "ohif"):
        require_peer(name)
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    pacs.start()
    yield pacs
    pacs.kill()


@pytest.fixture(scope="module")
def study(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> ViewerStudy:
    folder = tmp_path_factory.mktemp("study")
    chosen = os.environ.get("VIEWER_SERIES")  # `make viewer SERIES=DIR`
    if chosen:
        paths = sorted(path for path in Path(chosen).iterdir() if path.is_file())
    else:
        series = synthetic_series(folder / "ct", slices=SLICES, matrix=MATRIX, lesion=True)
        paths = list(series.paths)
    return store_study(paths, folder / "results", orthanc)


@pytest.fixture(scope="module")
def ohif(study: ViewerStudy, orthanc: Orthanc) -> Iterator[OhifTab]:
    with (
        OHIF(orthanc.http_port) as viewer,
        Chromium(webgl=True) as chromium,
        chromium.tab(width=1280, height=720, is_ours=False, patience_s=PATIENCE_S) as tab,
    ):
        opened = OhifTab(tab.page)
        opened.open(viewer.study(study.uid))
        yield opened


def test_every_series_is_listed(ohif: OhifTab, study: ViewerStudy) -> None:
    found = ohif.display_sets()
    assert sorted(one["modality"] for one in found) == ["CT", "KO", "OT", "OT", "SEG", "SR"]
    [ct] = [one for one in found if one["modality"] == "CT"]
    [overlay] = [one for one in found if str(one["description"]).startswith("AI map")]
    [segmentation] = [one for one in found if one["modality"] == "SEG"]
    assert (ct["images"], overlay["images"]) == (study.slices, study.overlays)
    assert ct["frame_of_reference"]
    assert {overlay["frame_of_reference"], segmentation["frame_of_reference"]} == {
        ct["frame_of_reference"]
    }
    assert ohif.drawn(CT).coloured == 0
    # What a reader sees first of each series tells what it is.
    labels = ohif.page.locator("[data-cy=series-description-label]").all_inner_texts()
    for words in ("AI page", "AI map"):
        assert any(label.startswith(words) for label in labels)


def test_the_map_lies_beside_the_ct_and_scrolls_with_it(ohif: OhifTab, study: ViewerStudy) -> None:
    right = ohif.put_beside("AI map")
    drawn = ohif.drawn(right)
    assert drawn.bright > 10_000
    assert drawn.coloured > 100  # banner, bar and map
    # The viewer is told that OT is no film: no player lies over it.
    assert ohif.page.locator("[data-cy=cine-player-play-pause]").count() == 0
    ohif.show_slice(right, study.overlays // 2)
    wanted = ohif.z_mm(right)
    ohif.wait_for_z(CT, wanted)
    # The other way round, by the wheel: one step, to a slice that has a map.
    ohif.scroll(CT, 1)
    ohif.wait_for_same_z(CT, right, other_than=wanted)


def test_the_segmentation_goes_on_and_off(ohif: OhifTab) -> None:
    assert ohif.drawn(CT).coloured == 0
    ohif.load_segmentation()
    ohif.wait_for_colour(CT, present=True)
    ohif.toggle_segmentation()
    ohif.wait_for_colour(CT, present=False)
    ohif.toggle_segmentation()
    ohif.wait_for_colour(CT, present=True)
