"""DICOM series to Hounsfield volume: order, geometry, and what must agree between slices.

The rules are those of PS3.3 C.7.6.2 (image plane), C.8.2.1 (CT image) and C.8.15 (Enhanced
CT). Which instances form the stack has been decided before; here a stack that does not hold
together is refused with a reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.cpus import usable_cpus
from inference.domain import CtVolume, QualityCode, QualityStatement
from inference.errors import InconsistentSeries, UnusableGeometry
from inference.frames import Frame, read_frames
from inference.pixel_file import PixelReader, read_planes

__all__ = ["load_volume"]

ORIENTATION_TOLERANCE = 1e-3
AXIAL_COSINE = 0.9  # |n·z|: up to 26 degrees of gantry tilt is still axial
TILT_DEGREES = 5.0
GAP_TOLERANCE = 0.10
SAME_POSITION_MM = 0.01
THICK_MM = 5.0
MAX_SLICES = 4096
MAX_VOXELS = 1_200_000_000  # 2.4 GB as int16: 4,500 slices of 512 x 512

Progress = Callable[[str, int, int], None]


def load_volume(
    paths: Sequence[Path],
    *,
    frames: Mapping[Path, Sequence[int]] | None = None,
    pixels: PixelReader = read_planes,
    threads: int = 0,
    progress: Progress | None = None,
) -> CtVolume:
    """Load the files of one stack into a volume.

    Parameters
    ----------
    paths : sequence of Path
        The stack's files, in any order: single-frame CT, or multi-frame Enhanced CT.
    frames : mapping of Path to frame numbers, or None
        The 1-based frames of multi-frame files of which only some belong to the stack; a file
        that is not named is read whole.
    pixels : PixelReader
        Opens the files' pixel data: in this process, or an
        :class:`~inference.decoder_pool.DecoderPool`.
    threads : int
        Decoder threads; 0 takes the number of CPUs this process may use.
    progress : callable or None
        Called with ("load", slices done, slices in all).

    Returns
    -------
    CtVolume
        Most superior slice first, whatever the order of `paths`.

    Raises
    ------
    SeriesError
        UndecodablePixels, InconsistentSeries, UnusableGeometry or NotAChestCt, each with one
        sentence for a radiologist; no patient identifier in it.
    """
    if not paths:
        raise UnusableGeometry("The series holds no images.")
    workers = threads or usable_cpus()
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # pydicom warns about every oddity of a file; those that matter are raised as errors here.
        warnings.simplefilter("ignore")
        every = chain.from_iterable(pool.map(read_frames, paths))
        chosen = [frame for frame in every if _belongs(frame, frames or {})]
        _require_one_series(chosen)
        stack, z_mm = _in_anatomical_order(chosen)
        hu = _decode(stack, pixels, pool, progress)
    spacing_mm, quality = _assess(stack, z_mm, hu)
    return CtVolume(
        hu=hu,
        slices=tuple(frame.reference for frame in stack),
        z_mm=z_mm,
        positions_mm=np.array([frame.position_mm for frame in stack], dtype=np.float64),
        orientation=stack[0].orientation,
        pixel_spacing_mm=stack[0].pixel_spacing_mm,
        slice_spacing_mm=spacing_mm,
        quality=quality,
    )


def _belongs(frame: Frame, chosen: Mapping[Path, Sequence[int]]) -> bool:
    return frame.path not in chosen or frame.index + 1 in chosen[frame.path]


def _require_one_series(frames: Sequence[Frame]) -> None:
    if not frames:
        raise UnusableGeometry("The series holds no frames.")
    if len(frames) > MAX_SLICES:
        raise InconsistentSeries(f"The series has {len(frames)} slices, more than {MAX_SLICES}.")
    first = frames[0]
    if len(frames) * first.rows * first.columns > MAX_VOXELS:
        raise InconsistentSeries(
            f"The series is too large to be read ({len(frames)} slices of "
            f"{first.rows} x {first.columns} pixels)."
        )
    if any(frame.patient != first.patient for frame in frames):
        raise InconsistentSeries("The images of this series name different patients.")
    if any((f.study_uid, f.series_uid) != (first.study_uid, first.series_uid) for f in frames):
        raise InconsistentSeries("The images belong to different series.")
    if len({f.frame_of_reference_uid for f in frames if f.frame_of_reference_uid}) > 1:
        raise InconsistentSeries("The images do not share one frame of reference.")
    if len({frame.reference for frame in frames}) < len(frames):
        raise InconsistentSeries("Two images of this series carry the same SOP Instance UID.")
    for frame in frames:
        if (frame.rows, frame.columns) != (first.rows, first.columns):
            raise InconsistentSeries(
                f"The image {frame.label} has {frame.rows} x {frame.columns} pixels, "
                f"the image {first.label} {first.rows} x {first.columns}."
            )
        if not np.allclose(frame.pixel_spacing_mm, first.pixel_spacing_mm, rtol=1e-3, atol=0):
            raise InconsistentSeries(
                f"The images {first.label} and {frame.label} differ in pixel spacing."
            )
        if not np.allclose(
            frame.orientation, first.orientation, rtol=0, atol=ORIENTATION_TOLERANCE
        ):
            raise InconsistentSeries(
                f"The images {first.label} and {frame.label} are oriented differently."
            )


def _normal_to_head(frame: Frame) -> NDArray[np.float64]:
    """Unit normal of the slices, turned so that it points to the head (+z in LPS)."""
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    normal /= np.linalg.norm(normal)
    if abs(normal[2]) < AXIAL_COSINE:
        raise UnusableGeometry("The images are not axial slices (a coronal or sagittal reformat?).")
    return np.asarray(normal if normal[2] > 0 else -normal, dtype=np.float64)


def _in_anatomical_order(frames: Sequence[Frame]) -> tuple[list[Frame], NDArray[np.float64]]:
    normal = _normal_to_head(frames[0])
    z_mm = np.array([frame.position_mm for frame in frames]) @ normal
    order = np.argsort(-z_mm, kind="stable")
    ordered = [frames[index] for index in order]
    z_mm = z_mm[order]
    repeats = np.flatnonzero(-np.diff(z_mm) < SAME_POSITION_MM)
    if repeats.size:
        here, there = ordered[repeats[0]], ordered[repeats[0] + 1]
        raise UnusableGeometry(
            f"{repeats.size} position(s) are occupied twice, first by {here.label} and "
            f"{there.label}: the series mixes phases or reconstructions."
        )
    return ordered, z_mm


def _decode(
    frames: Sequence[Frame],
    pixels: PixelReader,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> NDArray[np.int16]:
    """HU of all frames; each file is opened once, files in parallel."""
    hu = np.empty((len(frames), frames[0].rows, frames[0].columns), dtype=np.int16)
    by_path: dict[Path, list[int]] = {}
    for index, frame in enumerate(frames):
        by_path.setdefault(frame.path, []).append(index)

    def fill(path: Path) -> int:
        indices = by_path[path]
        planes = pixels(path, [frames[index].plane for index in indices])
        for index, plane in zip(indices, planes, strict=True):
            hu[index] = plane
        return len(indices)

    done = 0
    try:
        for count in pool.map(fill, by_path):
            done += count
            if progress is not None:
                progress("load", done, len(frames))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return hu


def _assess(
    frames: Sequence[Frame], z_mm: NDArray[np.float64], hu: NDArray[np.int16]
) -> tuple[float | None, tuple[QualityStatement, ...]]:
    statements = [*_rescale_statements(frames, hu)]
    spacing_mm, gaps = _slice_spacing(z_mm)
    statements.extend(gaps)
    normal_z = abs(float(_normal_to_head(frames[0])[2]))
    tilt = float(np.degrees(np.arccos(min(1.0, normal_z))))
    if tilt > TILT_DEGREES:
        statements.append(
            QualityStatement(
                QualityCode.GANTRY_TILT,
                f"The slices are tilted by {tilt:.0f} degrees; where findings lie is less exact.",
            )
        )
    lossy = sum(frame.lossy for frame in frames)
    if lossy:
        statements.append(
            QualityStatement(
                QualityCode.LOSSY_COMPRESSION,
                f"{lossy} of {len(frames)} slices were compressed with loss; "
                "fine ground glass may be altered.",
            )
        )
    return spacing_mm, tuple(statements)


def _slice_spacing(z_mm: NDArray[np.float64]) -> tuple[float | None, Iterable[QualityStatement]]:
    """Median spacing (None when irregular or unknown) and what to say about it."""
    if len(z_mm) < 2:
        return None, ()
    distances = -np.diff(z_mm)
    median = float(np.median(distances))
    odd = np.abs(distances - median) > GAP_TOLERANCE * median
    if odd.any():
        text = (
            f"The slices are not evenly spaced ({distances.min():.2f} to {distances.max():.2f} mm, "
            f"{int(odd.sum())} irregular): slices may be missing, no percentages are given."
        )
        return None, (QualityStatement(QualityCode.IRREGULAR_SPACING, text),)
    if median > THICK_MM:
        text = f"The slices are {median:.1f} mm apart; small lesions may be missed."
        return median, (QualityStatement(QualityCode.THICK_SLICES, text),)
    return median, ()


def _rescale_statements(
    frames: Sequence[Frame], hu: NDArray[np.int16]
) -> Iterable[QualityStatement]:
    """Refuse values that are not HU; say so where they had to be taken on trust."""
    kinds = {frame.rescale_type for frame in frames} - {"", "HU", "US"}
    if kinds:
        raise InconsistentSeries(
            f"The pixel values are not Hounsfield units (Rescale Type {min(kinds)[:16]})."
        )
    missing = sum(frame.rescale is None for frame in frames)
    if missing and missing < len(frames):
        raise InconsistentSeries(f"{missing} of {len(frames)} images lack the rescale to HU.")
    if not missing and all(frame.rescale_type != "US" for frame in frames):
        return ()
    if not _look_like_hu(hu):
        raise InconsistentSeries(
            "The images lack the rescale to Hounsfield units, and their values are none."
        )
    if not missing:
        return ()
    text = "The images lack the rescale to Hounsfield units; stored values were taken as HU."
    return (QualityStatement(QualityCode.MISSING_RESCALE, text),)


def _look_like_hu(hu: NDArray[np.int16]) -> bool:
    """Whether the values can be a chest in HU: some air, and mostly soft tissue above it.

    Stored values with the usual intercept of -1024 left out have no value near -1000 at all,
    and their soft tissue lies near +1000.
    """
    sample = hu[:: max(1, len(hu) // 16), ::4, ::4]
    air = float(np.mean(sample < -700))
    soft = float(np.mean((sample > -200) & (sample < 300)))
    return air > 0.05 and soft > 0.05
