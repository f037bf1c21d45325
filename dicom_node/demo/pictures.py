"""The results as PNG: the summary page, some overlays, and overlays beside their CT slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from dicom_node.demo.comparison import Comparison
from dicom_node.domain import ObjectKind
from inference.errors import InferenceError
from inference.volume import load_volume

__all__ = ["write_pictures"]

_MOST_OVERLAYS = 8
_TILE = 384  # pixels
_CAPTION = 18
_LUNG_WINDOW = (-600.0, 1500.0)  # centre, width in HU
_TRUTH_COLOUR = (86, 180, 233)  # sky blue: told apart by the colour-blind (Okabe and Ito)


def write_pictures(
    returned: Iterable[Comparison],
    source: Mapping[str, Path],
    folder: Path,
    truth: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Path]:
    """Write the pictures of one reading into `folder`.

    Parameters
    ----------
    returned : iterable of Comparison
        What came back from the PACS; the pictures are made from these files.
    source : mapping of str to Path
        CT files by SOP Instance UID.
    truth : mapping of str to ndarray of bool, or None
        True lesions by SOP Instance UID, where they are known: outlined on the CT slices.

    Returns
    -------
    list of Path
        ``summary.png``, ``overlay-NNN.png`` (at most 8, evenly over the series) and
        ``contact-sheet.png``, as far as there is something to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {}
    for item in returned:
        if item.path is not None:
            files.setdefault(item.sent.kind, []).append(item.path)
    written = []
    for number, path in enumerate(files.get(ObjectKind.SUMMARY, []), start=1):
        target = folder / ("summary.png" if number == 1 else f"summary-{number}.png")
        _picture(dcmread(path)).save(target)
        written.append(target)
    overlays = _evenly(_in_order(files.get(ObjectKind.OVERLAY, [])), _MOST_OVERLAYS)
    for number, dataset in overlays:
        target = folder / f"overlay-{number:03d}.png"
        _picture(dataset).save(target)
        written.append(target)
    if overlays:
        target = folder / "contact-sheet.png"
        _contact_sheet(overlays, source, truth or {}).save(target)
        written.append(target)
    return written


def _in_order(paths: Sequence[Path]) -> list[tuple[int, Dataset]]:
    datasets = [dcmread(path) for path in paths]
    return sorted(
        ((int(item.get("InstanceNumber") or 0), item) for item in datasets),
        key=lambda pair: pair[0],
    )


def _evenly(items: list[tuple[int, Dataset]], most: int) -> list[tuple[int, Dataset]]:
    if len(items) <= most:
        return items
    # The middle of each of `most` equal parts: the ends of a lung show little.
    return [items[int((part + 0.5) * len(items) / most)] for part in range(most)]


def _picture(dataset: Dataset) -> Image.Image:
    pixels = pixel_array(dataset)
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        pixels = pixels[0]  # multi-frame: its first page
    return Image.fromarray(np.ascontiguousarray(pixels).astype(np.uint8)).convert("RGB")


def _contact_sheet(
    overlays: Sequence[tuple[int, Dataset]],
    source: Mapping[str, Path],
    truth: Mapping[str, NDArray[np.bool_]],
) -> Image.Image:
    """Return pairs of CT slice and overlay, two pairs in a row."""
    rows = (len(overlays) + 1) // 2
    columns = min(2, len(overlays))
    sheet = Image.new("RGB", (columns * 2 * _TILE, rows * (_TILE + _CAPTION)), "black")
    draw = ImageDraw.Draw(sheet)
    for place, (number, dataset) in enumerate(overlays):
        left, top = (place % 2) * 2 * _TILE, (place // 2) * (_TILE + _CAPTION)
        sheet.paste(_tile(_source_slice(dataset, source, truth)), (left, top + _CAPTION))
        sheet.paste(_tile(_picture(dataset)), (left + _TILE, top + _CAPTION))
        words = "true lesion outlined" if truth else "lung window"
        draw.text((left + 6, top + 3), f"overlay {number}: CT, {words}", fill="white")
        draw.text((left + _TILE + 6, top + 3), "what the node made of it", fill="white")
    return sheet


def _tile(picture: Image.Image | None) -> Image.Image:
    """Fit a picture into a square tile without distorting it."""
    tile = Image.new("RGB", (_TILE, _TILE), "black")
    if picture is not None:
        scale = _TILE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        resized = picture.resize(size, Image.Resampling.LANCZOS)
        tile.paste(resized, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return tile


def _source_slice(
    overlay: Dataset, source: Mapping[str, Path], truth: Mapping[str, NDArray[np.bool_]]
) -> Image.Image | None:
    """Return the CT slice under an overlay in a lung window, None where it cannot be shown."""
    items = overlay.get("SourceImageSequence") or overlay.get("ReferencedImageSequence") or []
    for item in items:
        uid = str(item.get("ReferencedSOPInstanceUID", ""))
        if uid not in source:
            continue
        frame = int(item.get("ReferencedFrameNumber") or 1)
        try:
            volume = load_volume([source[uid]])
        except InferenceError:
            return None
        for index, reference in enumerate(volume.slices):
            if (reference.frame_number or 1) == frame:
                picture = Image.fromarray(_lung_window(volume.hu[index])).convert("RGB")
                return _outlined(picture, truth[uid]) if uid in truth else picture
    return None


def _outlined(picture: Image.Image, lesion: NDArray[np.bool_]) -> Image.Image:
    pixels = np.array(picture)
    inside = cv2.erode(lesion.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=2) > 0
    rim = lesion & ~inside
    pixels[rim] = _TRUTH_COLOUR
    return Image.fromarray(pixels)


def _lung_window(
    hu: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    centre, width = _LUNG_WINDOW
    part = (hu.astype(np.float32) - (centre - width / 2)) / width
    return (np.clip(part, 0.0, 1.0) * 255).astype(np.uint8)
