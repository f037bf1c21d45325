"""Choose the slices of a series that are read as one stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dicom_node.domain import is_legal_uid
from dicom_node.errors import SeriesRejected, SeriesSkipped
from dicom_node.header import InstanceHeader
from dicom_node.selection.frames import FrameGeometry, FrameReader
from dicom_node.selection.phases import Slice, split_into_stacks
from dicom_node.selection.suitability import (
    MULTI_FRAME_SOP_CLASSES,
    Unsuitable,
    geometry_defect,
    image_type_defect,
    object_defect,
)
from dicom_node.settings import SelectionSettings
from dicom_node.slice_geometry import height_mm, slice_normal, stack_spacing

__all__ = ["LeftOut", "SelectedStack", "select_stack"]

_ANOTHER_STACK = Unsuitable("belong to another stack of the series")


@dataclass(frozen=True, slots=True, order=True)
class LeftOut:
    """An instance (or some of its frames) that is not part of the stack, and why."""

    sop_instance_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class SelectedStack:
    """The slices of a series that are read together.

    Attributes
    ----------
    sop_instance_uids : tuple of str
        Most superior first; a multi-frame instance stands once.
    frames : dict of str to tuple of int
        The 1-based frames that belong to the stack, for multi-frame instances of which only
        some do. An instance that is not named here is read whole.
    slice_count : int
    coverage_mm : float or None
        From the first to the last slice, one spacing added; None where positions are not known
        before the pixels are read (multi-frame without a frame reader).
    spacing_mm, slice_thickness_mm : float or None
        Medians over the stack.
    convolution_kernel, manufacturer : str
    statements : tuple of str
        What a reader should know: what was left out and why, irregular spacing.
    left_out : tuple of LeftOut
        Sorted by UID.
    """

    sop_instance_uids: tuple[str, ...]
    frames: dict[str, tuple[int, ...]]
    slice_count: int
    coverage_mm: float | None
    spacing_mm: float | None
    slice_thickness_mm: float | None
    convolution_kernel: str
    manufacturer: str
    statements: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A stack with its measures. ``slices`` is empty for a whole multi-frame instance."""

    sop_instance_uids: tuple[str, ...]
    slices: tuple[Slice, ...]
    slice_count: int
    coverage_mm: float | None
    spacing_mm: float | None
    gaps: int
    slice_thickness_mm: float | None

    @property
    def rank(self) -> tuple[float, int, float, tuple[str, ...]]:
        """Longest coverage, then most slices, then thinnest, then UIDs (smallest is best)."""
        return (
            -round(self.coverage_mm or 0.0, 1),
            -self.slice_count,
            self.slice_thickness_mm or float("inf"),
            tuple(sorted(self.sop_instance_uids)),
        )


def select_stack(
    headers: Sequence[InstanceHeader],
    settings: SelectionSettings,
    frame_reader: FrameReader | None = None,
    *,
    slice_level: bool = False,
) -> SelectedStack:
    """Choose the stack of a series that is analysed as a whole volume.

    Parameters
    ----------
    headers : sequence of InstanceHeader
        All instances of one series, in any order.
    frame_reader : callable, optional
        Gives the frames of a multi-frame instance. Without it such an instance counts as one
        whole stack whose coverage is not checked here.
    slice_level : bool
        The slices are read one by one: one is enough, and no coverage is asked for.

    Raises
    ------
    SeriesSkipped
        The series is not meant to be analysed, or has too few slices for a volume.
    SeriesRejected
        The series is damaged: patients mixed, UIDs illegal, positions missing.
    """
    candidates, unsuitable = _candidates(headers, frame_reader)
    best = candidates[0]
    covered = "" if best.coverage_mm is None else f" covering {best.coverage_mm:.0f} mm"
    too_short = best.coverage_mm is not None and best.coverage_mm < settings.min_coverage_mm
    if not slice_level and (best.slice_count < settings.min_slices or too_short):
        few = "only " if best.slice_count < settings.min_slices else ""
        raise SeriesSkipped(
            f"{few}{_count(best.slice_count, 'axial slice')}{covered}; "
            f"at least {settings.min_slices} slices and {settings.min_coverage_mm:g} mm are needed"
        )
    return _selected(best, headers, unsuitable)


def _candidates(
    headers: Sequence[InstanceHeader], frame_reader: FrameReader | None
) -> tuple[list[_Candidate], dict[str, Unsuitable]]:
    """Return all stacks, best first, and why instances are in none."""
    _check_identities(headers)
    unsuitable: dict[str, Unsuitable] = {}
    slices: list[Slice] = []
    whole: list[_Candidate] = []
    for header in headers:
        defect = object_defect(header) or image_type_defect(
            header.image_type, header.transfer_syntax_uid
        )
        if defect is None and header.sop_class_uid in MULTI_FRAME_SOP_CLASSES:
            if frame_reader is None:
                whole.append(_whole_instance(header))
            else:
                found, defect = _frame_slices(header, frame_reader(header))
                slices.extend(found)
        elif defect is None:
            defect = geometry_defect(header.image_position, header.image_orientation)
            if defect is None:
                slices.append(_slice(header, None))
        if defect is not None:
            unsuitable[header.sop_instance_uid] = defect
    candidates = [_measure(stack) for stack in split_into_stacks(slices)] + whole
    if not candidates:
        raise _refusal(unsuitable.values())
    return sorted(candidates, key=lambda candidate: candidate.rank), unsuitable


def _check_identities(headers: Sequence[InstanceHeader]) -> None:
    """Refuse what must not be read as one series (PS3.3 A.1.2.3, PS3.5 §9)."""
    if not headers:
        raise SeriesRejected("the series holds no images")
    illegal = sum(not is_legal_uid(header.sop_instance_uid) for header in headers)
    if illegal:
        raise SeriesRejected(
            f"images without a legal SOP Instance UID: {illegal} of {len(headers)}; "
            "no result could refer to them"
        )
    times = Counter(header.sop_instance_uid for header in headers)
    repeated = sum(count > 1 for count in times.values())
    if repeated:
        raise SeriesRejected(
            f"SOP Instance UIDs that stand for several images of the series: {repeated}"
        )
    if len({header.series_instance_uid for header in headers}) > 1:
        raise SeriesRejected("the images belong to several series")
    if not is_legal_uid(headers[0].series_instance_uid):
        raise SeriesRejected("the Series Instance UID is not legal")
    if len({header.study_instance_uid for header in headers}) > 1:
        raise SeriesRejected("the images of the series belong to several studies")
    if not is_legal_uid(headers[0].study_instance_uid):
        raise SeriesRejected("the Study Instance UID is not legal")
    if _patients_differ(headers):
        raise SeriesRejected("the images of the series belong to several patients")


def _patients_differ(headers: Sequence[InstanceHeader]) -> bool:
    """Whether IDs differ, or issuers or names where they are given."""
    ids = {header.patient_id for header in headers}
    issuers = {header.issuer_of_patient_id for header in headers} - {""}
    names = {_plain_name(header.patient_name) for header in headers} - {""}
    return max(len(ids), len(issuers), len(names)) > 1


def _plain_name(name: str) -> str:
    """The alphabetic group, without padding, empty components and case (PS3.5 §6.2.1)."""
    components = name.split("=", maxsplit=1)[0].casefold().split("^")
    return "^".join(component.strip() for component in components).rstrip("^")


def _slice(header: InstanceHeader, frame: FrameGeometry | None) -> Slice:
    position = frame.position if frame else header.image_position
    orientation = frame.orientation if frame else header.image_orientation
    normal = None if orientation is None else slice_normal(orientation)
    if position is None or orientation is None or normal is None:
        raise ValueError("a slice without geometry has to be sorted out before")
    image_type = (frame.image_type if frame else ()) or header.image_type
    return Slice(
        sop_instance_uid=header.sop_instance_uid,
        frame_number=frame.number if frame else None,
        height_mm=height_mm(position, normal),
        orientation=orientation,
        pixel_spacing=frame.pixel_spacing if frame else header.pixel_spacing,
        slice_thickness_mm=_plausible_mm(
            frame.slice_thickness_mm if frame else header.slice_thickness_mm
        ),
        matrix=(header.rows, header.columns),
        convolution_kernel=(frame.convolution_kernel if frame else "") or header.convolution_kernel,
        flavour=tuple(value.strip().upper() for value in image_type[2:]),
        frame_of_reference_uid=header.frame_of_reference_uid,
        acquisition_number=frame.acquisition_number if frame else header.acquisition_number,
        instance_number=header.instance_number,
    )


def _plausible_mm(thickness: float | None) -> float | None:
    """None for a thickness that no slice has: zero, negative, above a decimetre, no number."""
    return thickness if thickness is not None and 0 < thickness <= 100 else None


def _frame_slices(
    header: InstanceHeader, frames: Sequence[FrameGeometry]
) -> tuple[list[Slice], Unsuitable | None]:
    """Return the usable frames of an instance, or the commonest reason why there are none."""
    slices: list[Slice] = []
    defects: list[Unsuitable] = []
    for frame in frames:
        defect = image_type_defect(frame.image_type, header.transfer_syntax_uid) or geometry_defect(
            frame.position, frame.orientation
        )
        if defect is None:
            slices.append(_slice(header, frame))
        else:
            defects.append(defect)
    if slices:
        return slices, None
    unreadable = Unsuitable("are multi-frame without readable functional groups", broken=True)
    return [], _commonest(defects) if defects else unreadable


def _whole_instance(header: InstanceHeader) -> _Candidate:
    return _Candidate(
        sop_instance_uids=(header.sop_instance_uid,),
        slices=(),
        slice_count=max(header.number_of_frames or 1, 1),
        coverage_mm=None,
        spacing_mm=None,
        gaps=0,
        slice_thickness_mm=_plausible_mm(header.slice_thickness_mm),
    )


def _measure(stack: Sequence[Slice]) -> _Candidate:
    spacing = stack_spacing([item.height_mm for item in stack])
    thicknesses = sorted(
        item.slice_thickness_mm for item in stack if item.slice_thickness_mm is not None
    )
    thickness = thicknesses[len(thicknesses) // 2] if thicknesses else None
    return _Candidate(
        # dict: each multi-frame instance once, in the order of its first frame
        sop_instance_uids=tuple(dict.fromkeys(item.sop_instance_uid for item in stack)),
        slices=tuple(stack),
        slice_count=len(stack),
        coverage_mm=spacing.extent_mm + (spacing.spacing_mm or thickness or 0.0),
        spacing_mm=spacing.spacing_mm,
        gaps=spacing.gaps,
        slice_thickness_mm=thickness,
    )


def _selected(
    best: _Candidate, headers: Sequence[InstanceHeader], unsuitable: dict[str, Unsuitable]
) -> SelectedStack:
    chosen = set(best.sop_instance_uids)
    reasons = {
        header.sop_instance_uid: unsuitable.get(header.sop_instance_uid, _ANOTHER_STACK)
        for header in headers
        if header.sop_instance_uid not in chosen
    }
    frames = _partial_frames(best, headers)
    first = min(
        (header for header in headers if header.sop_instance_uid in chosen),
        key=lambda header: header.sop_instance_uid,
    )
    return SelectedStack(
        sop_instance_uids=best.sop_instance_uids,
        frames=frames,
        slice_count=best.slice_count,
        coverage_mm=best.coverage_mm,
        spacing_mm=best.spacing_mm,
        slice_thickness_mm=best.slice_thickness_mm,
        convolution_kernel=best.slices[0].convolution_kernel
        if best.slices
        else first.convolution_kernel,
        manufacturer=first.manufacturer,
        statements=tuple(_statements(best, reasons, frames)),
        left_out=tuple(sorted(LeftOut(uid, why.reason) for uid, why in reasons.items())),
    )


def _partial_frames(
    best: _Candidate, headers: Sequence[InstanceHeader]
) -> dict[str, tuple[int, ...]]:
    """Frames of the stack for each multi-frame instance that is not read whole."""
    totals = {header.sop_instance_uid: header.number_of_frames for header in headers}
    chosen: dict[str, list[int]] = {}
    for item in best.slices:
        if item.frame_number is not None:
            chosen.setdefault(item.sop_instance_uid, []).append(item.frame_number)
    return {uid: tuple(numbers) for uid, numbers in chosen.items() if len(numbers) != totals[uid]}


def _statements(
    best: _Candidate,
    reasons: dict[str, Unsuitable],
    frames: dict[str, tuple[int, ...]],
) -> Iterable[str]:
    for reason, count in sorted(Counter(why.reason for why in reasons.values()).items()):
        yield f"Images left out because they {reason}: {count}."
    for numbers in frames.values():
        yield f"Only {len(numbers)} frames of a multi-frame image form the stack."
    if best.gaps:
        yield (
            "Distances between slices that differ from the usual "
            f"{best.spacing_mm:.1f} mm by more than 10 %: {best.gaps}."
        )
    if best.coverage_mm is None:
        yield "The coverage of the multi-frame image was not checked before reading."


def _refusal(defects: Iterable[Unsuitable]) -> SeriesRejected:
    """Return the exception for a series without any usable image."""
    all_defects = list(defects)
    worst = _commonest(all_defects)
    reason = f"the images {worst.reason}"
    different = len({defect.reason for defect in all_defects}) - 1
    if different:
        reason += f" (most of {len(all_defects)}; the rest cannot be read as axial CT either)"
    # A reason of kind outweighs damage: a series of reports that lack positions is no damage.
    return SeriesRejected(reason) if worst.broken else SeriesSkipped(reason)


def _commonest(defects: Sequence[Unsuitable]) -> Unsuitable:
    times = Counter(defects)
    return min(times, key=lambda defect: (-times[defect], defect))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
