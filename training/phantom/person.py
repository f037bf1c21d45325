"""Who lies on the table: sizes, habits and breath, drawn at random."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from training.phantom.geometry import stream

__all__ = ["Family", "Person", "draw_person"]

# Of lung_mm × width × depth. At 469 a chest held 10.9 litres of air; nobody does (the node takes
# no more than 10, inference.anatomy).
_LARGEST_MM = 395.0


class Family(enum.StrEnum):
    """Training phantoms and test phantoms come from other settings of the generator."""

    TRAINING = "training"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Person:
    """One synthetic person.

    Attributes
    ----------
    female : bool
    age : int
        Years.
    lung_mm : float
        Height of the lungs, apex to the deepest recess.
    width, depth : float
        Scale of the chest across and from front to back.
    power_mix : float
        0 a round, 1 a boxy chest.
    fat_mm, muscle_mm : float
        Thickness in the chest wall.
    breast_mm : float
        How far breasts stand out; 0 where there is nothing to see.
    arms_up : bool
    lung_hu : float
        Mean density of healthy lung at this breath.
    gradient_hu : float
        Denser at the back than in front by so much.
    domes : (float, float)
        Where the diaphragm's right and left dome stand, as part of the lungs' height.
    heart : float
        Scale of the heart.
    blood_hu : float
        More with contrast medium.
    mediastinal_fat_hu : float
        Young people have more thymus, old ones more fat.
    kyphosis_mm : float
        How far the spine bends to the back.
    vessel : float
        Scale of the vessels' calibre.
    """

    female: bool
    age: int
    lung_mm: float
    width: float
    depth: float
    power_mix: float
    fat_mm: float
    muscle_mm: float
    breast_mm: float
    arms_up: bool
    lung_hu: float
    gradient_hu: float
    domes: tuple[float, float]
    heart: float
    blood_hu: float
    mediastinal_fat_hu: float
    kyphosis_mm: float
    vessel: float


def draw_person(seed: int, family: Family) -> Person:
    """Return the person of a seed.

    Notes
    -----
    Test persons reach further: older, larger, leaner, breathing less deeply.
    """
    random = stream(seed, f"person/{family}")
    wide = 1.25 if family is Family.TEST else 1.0
    female = bool(random.random() < 0.48)
    age = int(random.uniform(20, 80 + 8 * (wide > 1)))
    stout = float(random.beta(2, 3.2))
    breath = float(random.beta(5, 1.6))  # 1 is a full breath
    size = random.normal(0.95 if female else 1.03, 0.045 * wide)
    right_dome = random.uniform(0.66, 0.76) - 0.05 * (1 - breath)
    lung_mm = float(size * random.uniform(235, 275) * (0.80 + 0.20 * breath))
    width = float(size * random.normal(1.0, 0.045 * wide))
    depth = float(size * random.normal(1.0 + age / 1000, 0.05 * wide) * (0.94 + 0.06 * breath))
    slimmer = min(1.0, math.sqrt(_LARGEST_MM / (lung_mm * width * depth)))
    return Person(
        female=female,
        age=age,
        lung_mm=lung_mm,
        width=width * slimmer,
        depth=depth * slimmer,
        power_mix=float(random.uniform(0, 1)),
        fat_mm=float(3 + 30 * stout * random.uniform(0.6, 1.3) * wide),
        muscle_mm=float(random.uniform(10, 21) * (0.85 if female else 1.1) * (1 - age / 400)),
        breast_mm=float(random.uniform(12, 50)) if female else 0.0,
        arms_up=bool(random.random() < 0.85),
        lung_hu=float(-885 + 75 * (1 - breath) + random.normal(0, 14 * wide)),
        gradient_hu=float(random.uniform(25, 80) + 45 * (1 - breath)),
        domes=(float(right_dome), float(right_dome + random.uniform(0.0, 0.06))),
        heart=float(random.normal(0.98 + age / 900, 0.06 * wide)),
        blood_hu=float(random.normal(42, 5) if random.random() < 0.8 else random.uniform(110, 260)),
        mediastinal_fat_hu=float(-100 + max(0, 45 - age) * 1.6 + random.normal(0, 6)),
        kyphosis_mm=float(random.uniform(0, 14) + age / 8),
        vessel=float(random.normal(0.93, 0.09 * wide)),
    )
