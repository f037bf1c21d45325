"""Which series of a study is read when one is enough.

Lung coverage first, then kernel, slice thickness, number of slices. The network learned from
medium kernels (Siemens D40s, 2 mm), so smooth and medium kernels win over sharp and bone
kernels, whose noise it has not seen; 1 to 2 mm wins over thinner and thicker.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicom_node.selection.stack import SelectedStack

__all__ = ["Candidate", "KernelClass", "choose_series", "kernel_class"]

# Lungs are hardly ever longer: what a series covers beyond says nothing about the lungs.
_LUNG_LENGTH_MM = 300.0
_COVERAGE_SHARE = 0.9
_IDEAL_THICKNESS_MM = (1.0, 2.0)


class KernelClass(enum.IntEnum):
    """How sharp a convolution kernel is; the lower, the better for reading."""

    MEDIUM = 0  # soft and medium
    UNKNOWN = 1
    SHARP = 2  # lung, sharp and bone


_SHARP_WORDS = re.compile(r"LUNG|BONE|SHARP|EDGE|ULTRA|HIGH|DETAIL ?PLUS|HRCT|CHST|CHEST")
_MEDIUM_WORDS = re.compile(r"STANDARD|STND|STD|SOFT|SMOOTH|DETAIL|MEDIUM")
_SIEMENS = re.compile(r"[A-Z][A-Z]?(\d{2})")  # B30f, D40s, I41f, Br40d, Bl57
_TOSHIBA = re.compile(r"FC(\d{2})")
_PHILIPS_MEDIUM = re.compile(r"[UEI]?[ABC]|[SI]?[ABC]")
_PHILIPS_SHARP = re.compile(r"[UEI]?[DEFGLX]|Y[A-F]")


def kernel_class(manufacturer: str, convolution_kernel: str) -> KernelClass:
    """Sort ConvolutionKernel (0018,1210) by the maker's own scheme.

    Siemens B/D/I/Br…: two digits, 50 and more is sharp. Canon and Toshiba: FC0x and FC1x body,
    FC3x, FC5x and FC8x bone and lung. Philips: A, B, C smooth; D, E, L and Y sharp. GE: words.
    """
    maker = manufacturer.upper()
    kernel = convolution_kernel.split("\\", maxsplit=1)[0].strip().upper()
    if "SIEMENS" in maker and (match := _SIEMENS.match(kernel)):
        return KernelClass.MEDIUM if int(match[1]) < 50 else KernelClass.SHARP
    if ("TOSHIBA" in maker or "CANON" in maker) and (match := _TOSHIBA.match(kernel)):
        series = int(match[1]) // 10
        if series in {0, 1}:
            return KernelClass.MEDIUM
        return KernelClass.SHARP if series in {3, 5, 8} else KernelClass.UNKNOWN
    if "PHILIPS" in maker:
        if _PHILIPS_MEDIUM.fullmatch(kernel):
            return KernelClass.MEDIUM
        if _PHILIPS_SHARP.fullmatch(kernel):
            return KernelClass.SHARP
    if _SHARP_WORDS.search(kernel):
        return KernelClass.SHARP
    return KernelClass.MEDIUM if _MEDIUM_WORDS.search(kernel) else KernelClass.UNKNOWN


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series of a study whose stack could be read."""

    series_instance_uid: str
    stack: SelectedStack

    @property
    def lung_coverage_mm(self) -> float:
        """Coverage, counted up to the length of lungs; frames times thickness if not known."""
        stack = self.stack
        guess = stack.slice_count * (stack.slice_thickness_mm or 0.0)
        coverage = guess if stack.coverage_mm is None else stack.coverage_mm
        return min(coverage, _LUNG_LENGTH_MM)

    @property
    def kernel_class(self) -> KernelClass:
        """How sharp the series is."""
        return kernel_class(self.stack.manufacturer, self.stack.convolution_kernel)

    @property
    def thickness_distance_mm(self) -> float:
        """How far the slice thickness is from 1 to 2 mm; infinite when unknown."""
        thickness = self.stack.slice_thickness_mm or self.stack.spacing_mm
        if thickness is None:
            return float("inf")
        thinnest, thickest = _IDEAL_THICKNESS_MM
        return round(max(thinnest - thickness, thickness - thickest, 0.0), 2)


_Keep = Callable[[Candidate], bool]
_Why = Callable[[Candidate, Candidate], str]


def choose_series(candidates: Sequence[Candidate]) -> tuple[str, dict[str, str]]:
    """Choose one series of a study; the order of `candidates` does not matter.

    Returns
    -------
    (str, dict of str to str)
        SeriesInstanceUID of the best, and of each other with a reason for a radiologist.

    Raises
    ------
    ValueError
        There is no candidate.
    """
    if not candidates:
        raise ValueError("there is no series to choose from")
    left = sorted(candidates, key=lambda candidate: candidate.series_instance_uid)
    lost: list[tuple[Candidate, _Why]] = []

    def keep(good: _Keep, why: _Why) -> None:
        lost.extend((candidate, why) for candidate in left if not good(candidate))
        left[:] = [candidate for candidate in left if good(candidate)]

    longest = max(candidate.lung_coverage_mm for candidate in left)
    keep(lambda c: c.lung_coverage_mm >= _COVERAGE_SHARE * longest, _shorter)
    softest = min(candidate.kernel_class for candidate in left)
    keep(lambda c: c.kernel_class == softest, _sharper)
    nearest = min(candidate.thickness_distance_mm for candidate in left)
    keep(lambda c: c.thickness_distance_mm == nearest, _thickness)
    most = max(candidate.stack.slice_count for candidate in left)
    keep(lambda c: c.stack.slice_count == most, _fewer)
    best = left[0]
    lost.extend((candidate, _equal) for candidate in left[1:])
    return best.series_instance_uid, {
        loser.series_instance_uid: f"another series of the study was read: {why(loser, best)}"
        for loser, why in lost
    }


def _shorter(loser: Candidate, best: Candidate) -> str:
    return (
        f"it covers {best.lung_coverage_mm:.0f} mm or more, "
        f"this one {loser.lung_coverage_mm:.0f} mm"
    )


def _sharper(loser: Candidate, best: Candidate) -> str:
    return (
        f"its kernel {best.stack.convolution_kernel or '(not named)'} suits the model better "
        f"than {loser.stack.convolution_kernel or '(not named)'}"
    )


def _thickness(loser: Candidate, best: Candidate) -> str:
    return (
        f"its slice thickness ({_mm(best)}) is nearer to 1 to 2 mm than this one's ({_mm(loser)})"
    )


def _mm(candidate: Candidate) -> str:
    thickness = candidate.stack.slice_thickness_mm or candidate.stack.spacing_mm
    return "not known" if thickness is None else f"{thickness:g} mm"


def _fewer(loser: Candidate, best: Candidate) -> str:
    return f"it has {best.stack.slice_count} slices, this one {loser.stack.slice_count}"


def _equal(_loser: Candidate, _best: Candidate) -> str:
    return "both are equally suitable"
