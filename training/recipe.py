"""Recipes: everything that decides what a training gives, with the paper's as defaults.

A recipe and a cache (and the weights started from) determine the result; where it is computed
does not belong here. Recipes are saved in each run and inside each checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from inference.patient_net import PatientNetParameters
from inference.slice_net import SliceNetParameters
from training.errors import CheckpointError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Augmentation",
    "JointRecipe",
    "PatientRecipe",
    "Recipe",
    "Schedule",
    "SliceRecipe",
    "Stage",
    "parse_stages",
    "read_recipe",
    "recipe_json",
]

Balance = Literal["classes", "none"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Some epochs at one input size.

    Attributes
    ----------
    size : int
        Rows and columns of the input, a multiple of 32; 0 takes the cache's.
    epochs : int
    lr : float or None
        Learning rate at the stage's first step; from there it falls by a cosine to a hundredth.
        None: the recipe's schedule, counted over all epochs.
    """

    size: int
    epochs: int
    lr: float | None = None

    def __post_init__(self) -> None:
        if (
            self.epochs < 1
            or self.size < 0
            or self.size % 32
            or (self.lr is not None and self.lr <= 0)
        ):
            raise ValueError("a stage has 1 epoch at least, a size in multiples of 32 and lr > 0")


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Read ``128:40,256:10,512:2:0.001``: size, epochs and, optionally, learning rate.

    Raises
    ------
    ValueError
    """
    stages = []
    for part in text.split(","):
        try:
            size, epochs, *rate = part.strip().split(":")
            stages.append(Stage(int(size), int(epochs), float(rate[0]) if rate else None))
        except ValueError as error:
            raise ValueError(f"{part.strip()!r} is no stage size:epochs[:lr] ({error})") from error
    return tuple(stages)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate over the epochs.

    Attributes
    ----------
    lr : float
        At the start.
    kind : "step", "cosine" or "poly"
        step (paper): times `gamma` every `step_epochs`. cosine: to a hundredth at the end. poly
        (JCS): what is left of the training, to the power of 0.9.
    step_epochs : int
        0 takes 40/110 of the epochs, as the paper.
    gamma : float
    warmup_steps : int
        Steps over which the rate rises linearly from 0, at the very start.
    """

    lr: float = 0.01
    kind: Literal["step", "cosine", "poly"] = "step"
    step_epochs: int = 0
    gamma: float = 0.1
    warmup_steps: int = 0


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is changed at random in each training slice, each time.

    The paper draws the window centre and flips; the rest is off by default (0) and answers
    ``models.md`` §1.7-1: other scanners, and pulsation and breathing of healthy people.

    Attributes
    ----------
    center_hu : (float, float)
        Range of the window's centre.
    flip_columns, flip_rows : float
        Probability of mirroring left-right and front-back.
    zoom : float
        Scale by up to this fraction, either way.
    rotate_deg, shift : float
        Largest rotation, and largest shift as a fraction of the input.
    gain, offset_hu : float
        HU are scaled by up to this fraction and shifted by up to this much.
    noise_hu : float
        Largest standard deviation of added noise; half of the draws are correlated noise, as
        soft kernels leave it.
    blur_px : float
        Largest sigma of a blur, in pixels of a 512-column input.
    motion : float
        Probability of simulated pulsation (a blurred double contour beside the heart) or
        breathing (the whole slice).
    """

    center_hu: tuple[float, float] = (-700.0, -500.0)
    flip_columns: float = 0.5
    flip_rows: float = 0.5
    zoom: float = 0.0
    rotate_deg: float = 0.0
    shift: float = 0.0
    gain: float = 0.0
    offset_hu: float = 0.0
    noise_hu: float = 0.0
    blur_px: float = 0.0
    motion: float = 0.0

    @classmethod
    def strong(cls) -> Augmentation:
        """Everything on, at strengths seen between scanners."""
        return cls(
            flip_rows=0.0,
            zoom=0.12,
            rotate_deg=10.0,
            shift=0.04,
            gain=0.05,
            offset_hu=30.0,
            noise_hu=45.0,
            blur_px=1.2,
            motion=0.25,
        )


@dataclass(frozen=True, slots=True)
class SliceRecipe:
    """Training of the slice network (paper III-B).

    Attributes
    ----------
    net : SliceNetParameters
    zero_init_residual : bool
        Without other weights to start from, let each residual block start as the identity, which
        keeps the first steps calm (Goyal et al., arXiv 1706.02677, 5.1).
    stages : tuple of Stage
        Paper: 110 epochs at the cache's size.
    schedule : Schedule
    augmentation : Augmentation
    batch : int
        Slices per step, over all devices (paper: 32).
    micro_batch : int
        Slices at a time through the network, for less memory; gradients are summed up to
        `batch`. Batch norm sees these only. 0: all of a device's share.
    optimizer : "sgd" or "adamw"
        Paper: sgd, from ImageNet weights. From random weights adamw needs fewer slices.
    momentum, weight_decay : float
    label_smoothing : float
        Of the four-way loss.
    balance : "classes" or "none"
        classes: each epoch draws the same number of slices of each class, going round through
        all of them, and both sides of the lesion head get the same weight in its loss. none:
        each slice once, without weights.
    slices_per_epoch : int
        0: as many as there are.
    normal_slices : bool
        True: slices of patients labelled as without lesion train the lesion head (not the
        four-way head) as a further group. False (paper): they are left out.
    mask_weight : float
        Weight of the location map's loss on slices whose lesions have been drawn
        (:mod:`training.location_loss`). 0 (paper): category labels alone.
    weak_warmup, weak_interval : int
        For slices whose label is not known: epochs until the first self-labelling, and between
        two of them.
    validation_slices : int
        Slices of each validation patient, evenly spaced; 0: all.
    checkpoint_steps : int
        A checkpoint is written every so many steps and after each epoch.
    seed : int
    """

    net: SliceNetParameters = field(default_factory=SliceNetParameters)
    zero_init_residual: bool = True
    stages: tuple[Stage, ...] = (Stage(0, 110),)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch: int = 32
    micro_batch: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    balance: Balance = "classes"
    slices_per_epoch: int = 0
    normal_slices: bool = False
    mask_weight: float = 0.0
    weak_warmup: int = 5
    weak_interval: int = 5
    validation_slices: int = 0
    checkpoint_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mask_weight and self.net.location_mode != "lesion":
            raise ValueError("mask_weight needs a location map of mode lesion")


@dataclass(frozen=True, slots=True)
class PatientRecipe:
    """Training of the patient network (paper III-C); the slice network stays as it is.

    Attributes
    ----------
    net : PatientNetParameters
        ``feature_size`` is taken from the slice network.
    stages : tuple of Stage
        Paper: 90 epochs. The size means nothing here.
    schedule : Schedule
        Paper: 0.001, times 0.1 every 30 of 90 epochs.
    optimizer : "sgd" or "adamw"
    batch : int
        Patients per step (paper: 16).
    momentum, weight_decay, label_smoothing : float
    balance : "classes" or "none"
        As for :class:`SliceRecipe`, by patient.
    patients_per_epoch : int
        0: as many as there are.
    slice_dropout : float
        Up to this fraction of a patient's slices is left out at random, in order.
    centers_hu : tuple of float
        Window centres that features are read at; empty (paper): those of serving, which averages
        them. One centre costs a third, and its features lie where that average does.
    mix_centers : bool
        True: the features of the window centres are averaged with random weights. Validation
        and serving use the plain mean.
    checkpoint_steps, seed : int
    """

    net: PatientNetParameters = field(default_factory=PatientNetParameters)
    stages: tuple[Stage, ...] = (Stage(0, 90),)
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=0.001))
    optimizer: Literal["sgd", "adamw"] = "sgd"
    batch: int = 16
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    balance: Balance = "classes"
    patients_per_epoch: int = 0
    slice_dropout: float = 0.5
    centers_hu: tuple[float, ...] = ()
    mix_centers: bool = True
    checkpoint_steps: int = 500
    seed: int = 0


@dataclass(frozen=True, slots=True)
class JointRecipe:
    """Fine-tuning of both networks end to end (the paper's open point 2).

    Each step takes `batch` patients, of each `slices_per_patient` slices, one at random out of
    each of as many equal parts, in order; activations of the residual stages are computed again
    in the backward pass (gradient checkpointing), so memory holds one patient's subset at a
    time. Batch norm keeps its statistics, since one patient is no fair sample. The loss is the
    patient's cross-entropy plus `slice_weight` times both slice losses.
    """

    stages: tuple[Stage, ...] = (Stage(0, 10),)
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=0.0005, kind="cosine"))
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch: int = 8
    slices_per_patient: int = 16
    slice_weight: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    balance: Balance = "classes"
    patients_per_epoch: int = 0
    checkpoint_steps: int = 100
    seed: int = 0


Recipe = SliceRecipe | PatientRecipe | JointRecipe
_Kind = TypeVar("_Kind")


def recipe_json(recipe: DataclassInstance) -> dict[str, Any]:
    """Return a recipe as JSON values."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return document


def read_recipe(document: object, kind: type[_Kind]) -> _Kind:
    """Return the recipe of JSON values.

    Raises
    ------
    CheckpointError
        They are no recipe of this kind.
    """
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"the recipe cannot be read: {where}: {first['msg']}") from error
