"""The child of :mod:`dicom_node.console.thumbnails`: reads pixels within limits, writes JPEG.

An order comes in as JSON: the overlays' files by layer, the CT files by SOP Instance UID, the
folder for the pictures. ``index.json`` is written last. What cannot be read is left out.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

__all__: list[str] = []

_EDGE = 256  # pixels
_QUALITY = 88
_MEMORY_BYTES = 2 << 30
_CPU_S = 80


def main() -> None:
    """Do what standard input orders."""
    order = json.loads(sys.stdin.buffer.read())
    folder = Path(order["folder"])
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    index: dict[int, dict[str, Any]] = {}
    for layer, paths in order["overlays"].items():
        for path in paths:
            try:
                found = _write_pair(Path(path), layer, order["sources"], folder)
            except Exception:  # noqa: BLE001, S112  whatever a decoder raises: no picture of it
                continue
            known = index.setdefault(found["number"], found | {"layers": []})
            known["layers"].append(layer)
    partial = folder / "index.part"
    partial.write_text(json.dumps([index[number] for number in sorted(index)]), encoding="ascii")
    partial.rename(folder / "index.json")


def _write_pair(path: Path, layer: str, sources: dict[str, str], folder: Path) -> dict[str, Any]:
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    overlay = dcmread(path)
    number = int(overlay.InstanceNumber)
    _write(pixel_array(overlay), folder / f"{number:04d}-{layer}.jpg")
    reference = overlay.SourceImageSequence[0]
    source = sources.get(str(reference.ReferencedSOPInstanceUID))
    ct = folder / f"{number:04d}-ct.jpg"
    has_ct = ct.is_file()  # of another layer
    if source is not None and not has_ct:
        frame = int(reference.get("ReferencedFrameNumber") or 1) - 1
        try:
            _write(_lung_window(Path(source), frame), ct)
            has_ct = True
        except Exception:  # noqa: BLE001  as above: the map alone is shown
            has_ct = False
    return {"number": number, "has_ct": has_ct}


def _lung_window(path: Path, frame: int) -> Any:
    import numpy as np
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    from dicom_node.results.colour import lung_window_grey

    ct = dcmread(path)
    stored = pixel_array(ct, index=frame) if ct.get("NumberOfFrames") else pixel_array(ct)
    groups = [
        *ct.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1],
        *ct.get("SharedFunctionalGroupsSequence", []),
    ]
    rescales = [g.PixelValueTransformationSequence[0] for g in groups
                if "PixelValueTransformationSequence" in g]  # fmt: skip
    rescale = rescales[0] if rescales else ct
    slope, intercept = (
        float(rescale.get("RescaleSlope", 1)),
        float(rescale.get("RescaleIntercept", 0)),
    )
    hu = np.clip(np.rint(stored.astype(np.float32) * slope + intercept), -1024, 3071)
    return lung_window_grey(hu.astype(np.int16))


def _write(pixels: Any, path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((_EDGE, _EDGE), Image.Resampling.LANCZOS)
    picture.save(path, quality=_QUALITY)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    main()
