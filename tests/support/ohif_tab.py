"""What a radiologist does in OHIF: open a study, put two series side by side, scroll, toggle.

OHIF shows its services in the page (``services``, ``commandsManager``, ``cornerstone``); what has a
stable place on the screen is clicked, the rest goes through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page

__all__ = ["CT", "Drawn", "OhifTab"]

CT = "default"  # the viewport that a study opens in
_LOOK_EVERY_MS = 250
_VIEWPORT = "cornerstone.getRenderingEngines()[0]?.getViewport(id)"
_Z = (
    "cornerstone.metaData.get('imagePlaneModule', "
    + _VIEWPORT
    + ".getCurrentImageId())?.imagePositionPatient?.[2]"
)
_COUNTED = (
    """id => {
        const canvas = """
    + _VIEWPORT
    + """.getCanvas();
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let bright = 0, coloured = 0;
        for (let i = 0; i < data.length; i += 4) {
            const most = Math.max(data[i], data[i + 1], data[i + 2]);
            const least = Math.min(data[i], data[i + 1], data[i + 2]);
            bright += most > 40;
            coloured += most - least > 40;
        }
        return [bright, coloured];
    }"""
)


@dataclass(frozen=True)
class Drawn:
    """Pixels of a viewport that are not black, and those that are not grey."""

    bright: int
    coloured: int


class OhifTab:
    """A tab with a study in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, address: str) -> None:
        """Open a study; return when its CT is drawn."""
        # The tour for newcomers would lie over everything.
        self.page.add_init_script("localStorage.setItem('shownTours', '[\"basicViewerTour\"]')")
        self.page.goto(address, wait_until="commit")
        self.page.locator("[data-cy=viewport-pane]").wait_for()
        self._until(f"id => {_VIEWPORT}?.getCurrentImageId?.()", CT)
        self._until(f"id => ({_COUNTED})(id)[0] > 1000", CT)

    def display_sets(self) -> list[dict[str, Any]]:
        """Return modality, description, number of images and frame of reference of each series."""
        found: list[dict[str, Any]] = self.page.evaluate(
            """services.displaySetService.activeDisplaySets.map(one => ({
                modality: one.Modality, description: one.SeriesDescription,
                images: one.numImageFrames, frame_of_reference: one.FrameOfReferenceUID,
            }))"""
        )
        return found

    def put_beside(self, description: str) -> str:
        """Show the series whose description begins so at the right of the CT; return its viewport.

        Both then scroll together: the viewer's image slice synchronisation is on.
        """
        self.page.evaluate(
            "commandsManager.runCommand('setViewportGridLayout', {numRows: 1, numCols: 2})"
        )
        self.page.locator("[data-cy=viewport-pane]").nth(1).wait_for()
        right: str = self.page.evaluate(
            """description => {
                const grid = services.viewportGridService;
                const right = [...grid.getState().viewports.keys()].find(id => id !== "default");
                const wanted = services.displaySetService.activeDisplaySets.find(
                    one => one.SeriesDescription?.startsWith(description));
                grid.setDisplaySetsForViewport({
                    viewportId: right, displaySetInstanceUIDs: [wanted.displaySetInstanceUID]});
                return right;
            }""",
            description,
        )
        self._until(f"id => {_VIEWPORT}?.getCurrentImageId?.()", right)
        self._until(f"id => ({_COUNTED})(id)[0] > 1000", right)
        self.page.evaluate("commandsManager.runCommand('toggleSynchronizer', {type: 'imageSlice'})")
        return right

    def show_slice(self, viewport: str, index: int) -> None:
        """Go to a slice of one viewport, as its scroll bar does."""
        self.page.evaluate(
            f"([id, index]) => {_VIEWPORT}.setImageIdIndex(index)", [viewport, index]
        )

    def scroll(self, viewport: str, steps: int) -> None:
        """Turn the mouse wheel over a viewport."""
        box = self.page.evaluate(
            f"id => {_VIEWPORT}.element.getBoundingClientRect().toJSON()", viewport
        )
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(abs(steps)):
            self.page.mouse.wheel(0, 100 if steps > 0 else -100)

    def z_mm(self, viewport: str) -> float:
        """Return the position of the slice that is shown, from its metadata."""
        return float(self.page.evaluate(f"id => {_Z}", viewport))

    def wait_for_z(self, viewport: str, z_mm: float) -> None:
        """Return when a viewport shows the slice at this position."""
        self._until(f"([id, z]) => Math.abs({_Z} - z) < 0.01", [viewport, z_mm])

    def wait_for_same_z(self, one: str, other: str, *, other_than: float) -> None:
        """Return when both viewports have left a position and show one and the same."""
        self._until(
            f"""([one, other, left]) => {{
                const [a, b] = [one, other].map(id => {_Z});
                return Math.abs(a - left) > 0.01 && Math.abs(a - b) < 0.01;
            }}""",
            [one, other, other_than],
        )

    def drawn(self, viewport: str) -> Drawn:
        """Count what is on a viewport's canvas now."""
        return Drawn(*self.page.evaluate(_COUNTED, viewport))

    def wait_for_colour(self, viewport: str, *, present: bool) -> None:
        """Return when a viewport has colour on it, or none any more."""
        test = "> 100" if present else "=== 0"
        self._until(f"id => ({_COUNTED})(id)[1] {test}", viewport)

    def load_segmentation(self) -> None:
        """Open the SEG over the CT by a double click in the list of series, and confirm."""
        self.page.evaluate("services.viewportGridService.setActiveViewportId('default')")
        self.page.locator("[data-cy=study-browser-thumbnail-no-image]", has_text="SEG").dblclick()
        self.page.get_by_role("button", name="Yes", exact=True).click()
        self._until(
            "id => services.segmentationService.getSegmentationRepresentations(id).length", CT
        )

    def toggle_segmentation(self) -> None:
        """Press the eye in the panel of segmentations."""
        eye = self.page.locator("[data-cy=all-segments-visibility-toggle]")
        if not eye.is_visible():
            self.page.locator("[data-cy=panelSegmentation-btn]").click()
        eye.click()

    def _until(self, condition: str, argument: Any) -> None:
        # Now and then, and not at each frame: counting pixels holds up the drawing of them.
        self.page.wait_for_function(condition, arg=argument, polling=_LOOK_EVERY_MS)
