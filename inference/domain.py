"""The vocabulary of the model: volumes, findings, identities.

Needs numpy only, so that whoever handles findings (reports, overlays) need not load torch.

Conventions, everywhere: index 0 of the first axis is the most *superior* slice; arrays are
(slices, rows, columns); patient coordinates are LPS in millimetres (PS3.3 C.7.6.2);
classes come in the order of :class:`DiseaseClass`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BoundingBox",
    "CtVolume",
    "DiseaseClass",
    "Distribution",
    "Findings",
    "LesionBurden",
    "LesionSegmentation",
    "Lobe",
    "LobeFinding",
    "LobeInvolvement",
    "LobeSegmentation",
    "ModelIdentity",
    "NonparametricFindings",
    "PatientFindings",
    "QualityCode",
    "QualityStatement",
    "SliceFindings",
    "SliceReference",
    "Training",
    "lesion_pixels",
    "severity_score",
]


class DiseaseClass(enum.IntEnum):
    """The four classes of M3Lung-Sys, in the paper's order (Table I)."""

    HEALTHY = 0
    COVID19 = 1
    H1N1 = 2
    CAP = 3

    @property
    def key(self) -> str:
        """Lower-case name used in files: ``healthy``, ``covid19``, ``h1n1``, ``cap``."""
        return self.name.lower()

    @property
    def label(self) -> str:
        """Name for readers: ``Healthy``, ``COVID-19``, ``H1N1``, ``CAP``."""
        return ("Healthy", "COVID-19", "H1N1", "CAP")[self]


class Lobe(enum.IntEnum):
    """The five lobes; 0 in a mask of lobes is none of them."""

    RIGHT_UPPER = 1
    RIGHT_MIDDLE = 2
    RIGHT_LOWER = 3
    LEFT_UPPER = 4
    LEFT_LOWER = 5

    @property
    def key(self) -> str:
        """Lower-case name used in files, such as ``right_upper``."""
        return self.name.lower()

    @property
    def label(self) -> str:
        """Name for readers, such as ``Right upper lobe``."""
        return f"{self.name.capitalize().replace('_', ' ')} lobe"

    @property
    def short(self) -> str:
        """Name in tables and pictures: RUL, RML, RLL, LUL, LLL."""
        return ("RUL", "RML", "RLL", "LUL", "LLL")[self - 1]

    @property
    def is_right(self) -> bool:
        """Of the right lung."""
        return self <= Lobe.RIGHT_LOWER


class Training(enum.StrEnum):
    """What a model bundle was made from; printed wherever its output is read."""

    UNTRAINED = "untrained"
    DEMONSTRATION = "demonstration"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class SliceReference:
    """One source image: an instance, or one frame of a multi-frame instance.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid : str
    frame_number : int or None
        1-based frame of a multi-frame instance, None for single-frame CT.
    """

    sop_instance_uid: str
    sop_class_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """A half-open rectangle in pixel indices: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows in the box."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns in the box."""
        return self.right - self.left

    def as_tuple(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        return (self.top, self.left, self.bottom, self.right)


class QualityCode(enum.StrEnum):
    """What may weaken a reading. The statement's text says it to the reader."""

    IRREGULAR_SPACING = "irregular_spacing"  # gaps: class, but no percentage
    GANTRY_TILT = "gantry_tilt"
    FEW_SLICES = "few_slices"
    THICK_SLICES = "thick_slices"
    NO_LUNG_SLICES = "no_lung_slices"
    LOSSY_COMPRESSION = "lossy_compression"
    MISSING_RESCALE = "missing_rescale"
    CLIPPED_LUNG = "clipped_lung"  # lung reaches the edge of the field of view or the stack
    READERS_DISAGREE = "readers_disagree"  # patient network and non-parametric rule differ
    UNTRAINED_MODEL = "untrained_model"
    INCOMPLETE_SERIES = "incomplete_series"
    SLICE_LEVEL_ONLY = "slice_level_only"
    SYSTEMS_DISAGREE = "systems_disagree"  # two of the three systems say different things
    LOBES_UNCERTAIN = "lobes_uncertain"  # some lobe cannot be told


@dataclass(frozen=True, slots=True)
class QualityStatement:
    """One sentence about the quality of the input or of the reading."""

    code: QualityCode
    text: str


@dataclass(frozen=True, slots=True)
class CtVolume:
    """A stack of axial CT slices in Hounsfield units.

    Attributes
    ----------
    hu : ndarray of int16, shape (slices, rows, columns)
        Hounsfield units in [-1024, 3071]; padding is -1024.
    slices : tuple of SliceReference, length ``slices``
        The source image of each slice.
    z_mm : ndarray of float64, shape (slices,)
        Projection of ImagePositionPatient on the slice normal, pointing to the head;
        strictly decreasing.
    positions_mm : ndarray of float64, shape (slices, 3)
        ImagePositionPatient (LPS) of each slice.
    orientation : tuple of 6 float
        ImageOrientationPatient: row cosines, then column cosines.
    pixel_spacing_mm : (float, float)
        (between rows, between columns), as PixelSpacing.
    slice_spacing_mm : float or None
        Median distance of neighbours; None where gaps exceed 10 % (no percentages then).
    quality : tuple of QualityStatement
    """

    hu: NDArray[np.int16]
    slices: tuple[SliceReference, ...]
    z_mm: NDArray[np.float64]
    positions_mm: NDArray[np.float64]
    orientation: tuple[float, float, float, float, float, float]
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None
    quality: tuple[QualityStatement, ...] = ()

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def as_displayed(self) -> tuple[slice, slice, slice]:
        """Flips that bring a slice to the usual display: patient's right at the left, front up.

        The network's coordinate maps mean something only there. LPS: x grows to the patient's
        left, y to the back. Indexing twice gives the source grid back.
        """
        columns = slice(None, None, -1) if self.orientation[0] < 0 else slice(None)
        rows = slice(None, None, -1) if self.orientation[4] < 0 else slice(None)
        return slice(None), rows, columns

    @property
    def voxel_ml(self) -> float | None:
        """Volume of one voxel in millilitres, None without a regular slice spacing."""
        if self.slice_spacing_mm is None:
            return None
        return self.pixel_spacing_mm[0] * self.pixel_spacing_mm[1] * self.slice_spacing_mm / 1000.0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model read the series.

    Attributes
    ----------
    name, version : str
    sha256 : str
        Digest over the manifest and all weights: changes whenever any output can change.
    training : Training
        Untrained and demonstration models say so wherever their output is read.
    lesion_threshold : float
        Value of the location map above which a pixel counts as lesion, in (0, 1).
    """

    name: str
    version: str
    sha256: str
    training: Training
    lesion_threshold: float


@dataclass(frozen=True, slots=True)
class SliceFindings:
    """What the slice network says of one slice (mean over the window centres).

    Attributes
    ----------
    reference : SliceReference
    z_mm : float
    lesion_probability : float
        Of the two-way head (paper III-B.1), in [0, 1].
    probabilities : tuple of 4 float
        Of the four-way head, in class order, summing to 1.
    lung_box : BoundingBox
        The crop the network saw, in pixels of the source image.
    has_lung : bool
        False: no lung was found; the box was interpolated from neighbours.
    lung_area_px, lesion_area_px : int
        Pixels of the lung mask, and of those above the bundle's lesion threshold.
    """

    reference: SliceReference
    z_mm: float
    lesion_probability: float
    probabilities: tuple[float, float, float, float]
    lung_box: BoundingBox
    has_lung: bool
    lung_area_px: int
    lesion_area_px: int

    @property
    def predicted(self) -> DiseaseClass:
        """Class of the highest probability."""
        return DiseaseClass(int(np.argmax(self.probabilities)))


@dataclass(frozen=True, slots=True)
class PatientFindings:
    """What the patient network says of the whole volume (paper III-C)."""

    probabilities: tuple[float, float, float, float]

    @property
    def predicted(self) -> DiseaseClass:
        """Class of the highest probability."""
        return DiseaseClass(int(np.argmax(self.probabilities)))


@dataclass(frozen=True, slots=True)
class NonparametricFindings:
    """The paper's rule without a patient network (Appendix).

    ``counts`` are the slices whose combined argmax is each class; Healthy when
    counts[0] / N > threshold, else the class with most slices among 1..3.
    """

    counts: tuple[int, int, int, int]
    threshold: float
    predicted: DiseaseClass


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where in the lungs the lesions lie: fractions of the lesion volume, summing to 1 per axis.

    Attributes
    ----------
    right_left : (float, float)
    craniocaudal : (float, float, float)
        Upper, middle, lower third of the lungs' height.
    central_peripheral : (float, float)
        Split at half of the depth from the lung surface, slice by slice.
    profile : ndarray of float32, shape (slices,)
        Lesion fraction of the lung area per slice.
    map : ndarray of float32, shape (64, 64)
        Coronal view in lung-normalised coordinates: rows from apex to base, columns from the
        patient's right to left; mean lesion fraction.
    """

    right_left: tuple[float, float]
    craniocaudal: tuple[float, float, float]
    central_peripheral: tuple[float, float]
    profile: NDArray[np.float32]
    map: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LesionBurden:
    """How much of the lung lies above the lesion threshold: an estimate from the location maps.

    ``percent_of_lung`` and the volumes are None where slice spacing is irregular;
    ``distribution`` is None where there is no lesion.
    """

    percent_of_lung: float | None
    lung_ml: float | None
    lesion_ml: float | None
    distribution: Distribution | None = None


@dataclass(frozen=True, slots=True)
class LobeFinding:
    """One lobe.

    Attributes
    ----------
    lobe : Lobe
    volume_ml : float or None
        None where slice spacing is irregular, or the lobe cannot be told.
    doubt : str
        Why the lobe cannot be told, in words; empty where it can.
    """

    lobe: Lobe
    volume_ml: float | None
    doubt: str = ""

    @property
    def is_told(self) -> bool:
        """Whether the lobe was told from the others."""
        return not self.doubt


@dataclass(frozen=True, slots=True)
class LobeSegmentation:
    """What M²UNet says of a series.

    Attributes
    ----------
    model : ModelIdentity
    labels : ndarray of uint8, shape (slices, rows, columns)
        :class:`Lobe` of each pixel on the source grid, 0 none. Lobes that cannot be told are 0.
    lobes : tuple of 5 LobeFinding
        In the order of :class:`Lobe`.
    severe_probability : float or None
        In [0, 1]; None for a slice-level reading.
    severe_threshold : float
        Probability from which the patient counts as severe.
    severe_from_percent : float
        What severe meant in training: at least this share of the lungs.
    """

    model: ModelIdentity
    labels: NDArray[np.uint8]
    lobes: tuple[LobeFinding, ...]
    severe_probability: float | None
    severe_threshold: float
    severe_from_percent: float

    @property
    def severe(self) -> bool | None:
        """Severe or not; None for a slice-level reading."""
        if self.severe_probability is None:
            return None
        return self.severe_probability >= self.severe_threshold


@dataclass(frozen=True, slots=True)
class LesionSegmentation:
    """What JCS says of a series.

    Attributes
    ----------
    model : ModelIdentity
    positive_words, negative_words : str
        What its two classes are, such as "COVID-19" and "Healthy".
    slice_probability : ndarray of float32, shape (slices,)
        Of the positive class; 0 where there is no lung.
    positive_slices, allowed_slices : int
        Slices above the slice threshold, and how many a negative patient may have.
    probability : float or None
        Of the slice that decides: the patient is positive exactly where it is above the slice
        threshold. None for a slice-level reading.
    slice_threshold : float
    explanation : ndarray of float16, shape (slices, rows, columns)
        Class activation in [0, 1] on the source grid, fixed scale, 0 outside the crop.
    mask : ndarray of bool, shape (slices, rows, columns)
        Lesion. Only positive slices of positive patients are segmented: nothing elsewhere.
    percent_of_lung, lesion_ml : float or None
        None where slice spacing is irregular.
    """

    model: ModelIdentity
    positive_words: str
    negative_words: str
    slice_probability: NDArray[np.float32]
    positive_slices: int
    allowed_slices: int
    probability: float | None
    slice_threshold: float
    explanation: NDArray[np.float16]
    mask: NDArray[np.bool_]
    percent_of_lung: float | None
    lesion_ml: float | None

    @property
    def positive(self) -> bool | None:
        """Positive or not; None for a slice-level reading."""
        return None if self.probability is None else self.probability > self.slice_threshold


@dataclass(frozen=True, slots=True)
class LobeInvolvement:
    """How much of each lobe is lesion, by one system's lesions and M²UNet's lobes.

    Attributes
    ----------
    lesions_by, lobes_by : ModelIdentity
        No number without its source.
    percent : tuple of 5 (float or None)
        In the order of :class:`Lobe`; None where the lobe cannot be told or the slice spacing is
        irregular.
    """

    lesions_by: ModelIdentity
    lobes_by: ModelIdentity
    percent: tuple[float | None, ...]

    @property
    def scores(self) -> tuple[int | None, ...]:
        """CT severity score of each lobe, 0 to 5 (:func:`severity_score`)."""
        return tuple(None if value is None else severity_score(value) for value in self.percent)

    @property
    def total_score(self) -> int | None:
        """Sum over the lobes, 0 to 25; None unless all five can be told."""
        known = [score for score in self.scores if score is not None]
        return sum(known) if len(known) == len(Lobe) else None


@dataclass(frozen=True, slots=True)
class Findings:
    """The whole reading of one series.

    Attributes
    ----------
    model : ModelIdentity
    slices : tuple of SliceFindings
        In the order of the volume, most superior first.
    patient, nonparametric : or None
        None for a slice-level reading (a single slice or a few).
    burden : LesionBurden
    lesion_map : ndarray of float16, shape (slices, rows, columns)
        Lesion probability per pixel in [0, 1] on the source grid, fixed scale, 0 outside the crop.
    lung_mask : ndarray of bool, shape (slices, rows, columns)
    quality : tuple of QualityStatement
    timing_s : dict of str to float
        Seconds by stage.
    lobes : LobeSegmentation or None
        Of M²UNet, where the node runs it.
    segmented : LesionSegmentation or None
        Of JCS, where the node runs it.
    involvement : tuple of LobeInvolvement
        One per system that locates lesions, where the lobes are known.
    """

    model: ModelIdentity
    slices: tuple[SliceFindings, ...]
    patient: PatientFindings | None
    nonparametric: NonparametricFindings | None
    burden: LesionBurden
    lesion_map: NDArray[np.float16]
    lung_mask: NDArray[np.bool_]
    quality: tuple[QualityStatement, ...] = ()
    timing_s: dict[str, float] = field(default_factory=dict)
    lobes: LobeSegmentation | None = None
    segmented: LesionSegmentation | None = None
    involvement: tuple[LobeInvolvement, ...] = ()

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """Every model that read the series, the main one first."""
        others = (self.lobes, self.segmented)
        return (self.model, *(other.model for other in others if other is not None))


def lesion_pixels(
    lesion_map: NDArray[np.float16], lung_mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Which pixels count as lesion: lung where the location map is above the threshold.

    The one rule behind percentages, overlays and segmentation. Both sides are compared in the
    map's own precision.

    Parameters
    ----------
    lesion_map : ndarray of float16, any shape
    lung_mask : ndarray of bool, the same shape
    threshold : float
        :attr:`ModelIdentity.lesion_threshold`.
    """
    return np.asarray((lesion_map > np.float16(threshold)) & lung_mask, dtype=np.bool_)


def severity_score(percent: float) -> int:
    """CT severity score of a lobe: 0 none, 1 below 5 %, 2 to 25 %, 3 below 50 %, 4 to 75 %, 5.

    Of five lobes at most 25 (Francone et al., Eur Radiol 2020; Pan et al., Radiology 2020).
    Less than a thousandth of a lobe is none **(decided)**: a few pixels are no finding.
    """
    if percent < 0.1:
        return 0
    for score, limit in ((1, 5.0), (2, 25.0), (3, 50.0), (4, 75.0)):
        if percent < limit or (percent == limit and score in (2, 4)):
            return score
    return 5
