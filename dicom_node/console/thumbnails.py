"""Small pictures of a reading's slices, with and without its maps: made when first asked for.

Pixel data came from elsewhere, so a child process with limits reads it and this one does not. The
pictures are kept under the state directory; those of the readings that were last looked at stay.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.logs import get_logger

__all__ = ["Layer", "Thumbnail", "Thumbnails"]

_log = get_logger(__name__)

Layer = Literal["map", "explanation", "ct"]
"""The main model's map, the explanation of JCS, the CT alone."""

_MOST_PICTURES = 24
_MOST_FOLDERS = 300
_TIME_LIMIT_S = 90.0
_NEW = ".new"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A slice that has pictures; `number` is its place from head to feet, 1-based.

    Attributes
    ----------
    layers : tuple of Layer
        What is drawn over it.
    """

    number: int
    has_ct: bool
    layers: tuple[Layer, ...] = ("map",)


class Thumbnails:
    """The pictures of all readings.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._one_at_a_time = threading.Lock()

    def of_reading(
        self,
        analysis_id: int,
        overlays: Mapping[Layer, Sequence[Path]],
        sources: Mapping[str, Path],
    ) -> list[Thumbnail]:
        """Return the slices with pictures, of each layer at most 24; make them if need be.

        Parameters
        ----------
        overlays : mapping of Layer to sequence of Path
            Secondary Captures of the reading, in order; shown are evenly spread ones.
        sources : mapping of SOP Instance UID to Path
            The CT images that are still held.
        """
        kept = self._kept(analysis_id)
        if kept is not None or not any(overlays.values()):
            return kept or []
        with self._one_at_a_time:
            kept = self._kept(analysis_id)
            if kept is None:
                few = {layer: _evenly(all_, _MOST_PICTURES) for layer, all_ in overlays.items()}
                self._make(analysis_id, few, sources)
                kept = self._kept(analysis_id)
        return kept or []

    def path(self, analysis_id: int, number: int, layer: Layer) -> Path | None:
        """Return the file of one picture, None if there is none."""
        path = self._folder / str(analysis_id) / f"{number:04d}-{layer}.jpg"
        return path if path.is_file() else None

    def _kept(self, analysis_id: int) -> list[Thumbnail] | None:
        try:
            text = (self._folder / str(analysis_id) / "index.json").read_text(encoding="ascii")
        except OSError:
            return None
        return [
            # Pictures of before there was a second layer say nothing of layers.
            Thumbnail(item["number"], item["has_ct"], tuple(item.get("layers", ("map",))))
            for item in json.loads(text)
        ]

    def _make(
        self,
        analysis_id: int,
        overlays: Mapping[Layer, Sequence[Path]],
        sources: Mapping[str, Path],
    ) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room()
        # A folder of its own: another console over the same state may be making the same pictures.
        fresh = Path(tempfile.mkdtemp(prefix=f"{analysis_id}.", suffix=_NEW, dir=self._folder))
        order = {
            "overlays": {layer: [str(path) for path in some] for layer, some in overlays.items()},
            "sources": {uid: str(path) for uid, path in sources.items()},
            "folder": str(fresh),
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "dicom_node.console.thumbnail_child"],
                input=json.dumps(order).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # it may quote attribute values
                timeout=_TIME_LIMIT_S,
                check=False,
            )
            code: int | None = done.returncode
        except subprocess.TimeoutExpired:
            code = None
        if not (fresh / "index.json").is_file():
            _log.warning("no thumbnails", analysis_id=analysis_id, code=code)
        else:
            with contextlib.suppress(OSError):  # the other one was faster
                fresh.rename(self._folder / str(analysis_id))
        shutil.rmtree(fresh, ignore_errors=True)

    def _make_room(self) -> None:
        for path in self._folder.glob(f"*{_NEW}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 2 * _TIME_LIMIT_S:  # its console was killed
                    shutil.rmtree(path, ignore_errors=True)
        folders = [path for path in self._folder.iterdir() if path.name.isdigit()]
        if len(folders) >= _MOST_FOLDERS:
            for path in sorted(folders, key=lambda path: path.stat().st_mtime)[
                : _MOST_FOLDERS // 4
            ]:
                shutil.rmtree(path, ignore_errors=True)


def _evenly(paths: Sequence[Path], most: int) -> list[Path]:
    if len(paths) <= most:
        return list(paths)
    return [paths[int((part + 0.5) * len(paths) / most)] for part in range(most)]
