"""Draw the documents' screenshots anew: ``make pictures``, or one part (console, viewer).

OHIF beside an Orthanc, and the console, over a phantom and made-up findings: no patient, and no
network's opinion. Needs what the browser tests need (`make peers`).
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from playwright.sync_api import Page, expect  # noqa: E402

from inference.domain import DiseaseClass  # noqa: E402
from support.browser import Chromium, decoded  # noqa: E402
from support.console_node import ServedConsole, filled_node  # noqa: E402
from support.console_tab import console_tab  # noqa: E402
from support.ohif import OHIF  # noqa: E402
from support.ohif_tab import CT, OhifTab  # noqa: E402
from support.orthanc import Orthanc  # noqa: E402
from support.viewer_study import store_study  # noqa: E402
from training.phantom import Case, write_case  # noqa: E402

PICTURES = ROOT / "docs" / "images"
GUTTER = 15  # the page leaves room for a scroll bar, which a headless browser does not draw
PATIENCE_S = 120.0


def keep(name: str, page: Page, *, wide: int = 0, **options: Any) -> None:
    """Write what the page shows as a small PNG, `wide` pixels across if that is not 0."""
    picture = Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")
    if wide:
        picture = picture.resize(
            (wide, picture.height * wide // picture.width), Image.Resampling.LANCZOS
        )
    path = PICTURES / f"{name}.png"
    reduced(picture).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def reduced(picture: Image.Image) -> Image.Image:
    """Reduce to 176 colours: 48 greys, so that CT stays grey, and the rest for the colours.

    Each colour counts once, however much of the picture has it: the map is small.
    """
    pixels = np.asarray(picture)  # (rows, columns, RGB)
    coloured = pixels[np.ptp(pixels, axis=-1) > 16]
    palette = [level for level in np.linspace(0, 255, 48).astype(int) for _ in range(3)]
    if len(coloured):
        once = np.unique(coloured // 8 * 8, axis=0)
        found = Image.fromarray(once[None]).quantize(128).getpalette() or []
        palette += found[: 3 * 128]
    chosen = Image.new("P", (1, 1))
    chosen.putpalette(palette)
    return picture.quantize(palette=chosen, dither=Image.Dither.NONE)


def keep_top(name: str, page: Page, height: int) -> None:
    width = page.evaluate("window.innerWidth") - GUTTER
    keep(name, page, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})


def draw_viewer(folder: Path, orthanc: Orthanc) -> None:
    """Draw the map beside the CT, and the SEG over it."""
    case = Case(DiseaseClass.COVID19, 7, slice_mm=5.0, rows=384, severity_percent=12.0)
    write_case(case, folder / "phantom")
    series = sorted((folder / "phantom" / "series").glob("*.dcm"))
    study = store_study(series, folder / "results", orthanc)
    with (
        OHIF(orthanc.http_port) as viewer,
        Chromium(webgl=True) as chromium,
        chromium.tab(width=1280, height=760, is_ours=False, patience_s=PATIENCE_S) as tab,
    ):
        ohif = OhifTab(tab.page)
        ohif.open(viewer.study(study.uid))
        right = ohif.put_beside("AI map")
        ohif.show_slice(right, study.overlays // 2)
        ohif.wait_for_z(CT, ohif.z_mm(right))
        tab.page.mouse.move(640, 700)
        keep("viewer-map", tab.page, wide=1024)
        ohif.load_segmentation()
        ohif.show_slice(right, study.overlays // 2)
        ohif.wait_for_colour(CT, present=True)
        keep("viewer-seg", tab.page, wide=1024)


def draw_console(folder: Path, orthanc: Orthanc) -> None:
    """Draw worklist, a series, its report, and the test of a destination."""
    filled = filled_node(folder / "console")
    node = filled.node
    node.now += 60
    read = node.read(slices=40, matrix=384)
    node.config.write_text(
        f'{node.config.read_text()}\n[[peers]]\nname = "pacs"\nae_title = "{orthanc.ae_title}"\n'
        f'host = "127.0.0.1"\nport = {orthanc.dicom_port}\n'
    )
    with (
        ServedConsole(node) as served,
        Chromium() as chromium,
        console_tab(chromium, served, patience_s=PATIENCE_S) as tab,
    ):
        page = tab.page
        keep_top("console-worklist", page, 800)
        page.goto(f"/series/{read}")
        page.locator("#thumbnails").wait_for()
        decoded(page)
        keep_top("console-series", page, 900)
        page.get_by_role("link", name="Report as text").click()
        page.locator(".report").first.wait_for()
        keep_top("console-report", page, 760)
        page.goto("/peers")
        page.get_by_role("button", name="Test pacs").click()
        expect(page.locator("#test .notice")).to_be_visible()
        keep_top("console-test", page, 800)
    node.ledger.close()


def main() -> None:
    parts = sys.argv[1:] or ["console", "viewer"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orthanc = Orthanc(folder / "orthanc")
        orthanc.start()
        try:
            if "console" in parts:
                draw_console(folder, orthanc)
            if "viewer" in parts:
                draw_viewer(folder, orthanc)
        finally:
            orthanc.kill()


if __name__ == "__main__":
    main()
