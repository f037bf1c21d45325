"""What lungs show without pneumonia: emphysema, scars, nodules, atelectasis, uneven ventilation.

Everybody has some of it, ill or not, so that density alone tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.focus import choose, points, subpleural_bands
from training.phantom.geometry import Array, Lattice, Plane, smooth_field, smooth_step, stream
from training.phantom.interior import Interior
from training.phantom.lungs import Lungs, Section
from training.phantom.person import Family, Person
from training.phantom.shares import Shares
from training.phantom.tubes import Tubes

__all__ = ["Incidental", "draw_incidental"]


@dataclass(frozen=True)
class Incidental:
    """Incidental findings of one person.

    Attributes
    ----------
    emphysema : float
        0 none, 1 severe.
    paraseptal : bool
        Emphysema lies under the pleura rather than within lobules.
    atelectasis_mm : float
        Thickness of the dependent strip.
    atelectasis_hu : float
    mosaic_hu : float
        Standard deviation of uneven ventilation.
    scars, nodules : Tubes
    nodule_hu : ndarray of float64
    names : tuple of str
        For the truth.
    """

    emphysema: float
    paraseptal: bool
    atelectasis_mm: float
    atelectasis_hu: float
    mosaic_hu: float
    scars: Tubes
    nodules: Tubes
    calcified: bool
    names: tuple[str, ...]
    holes: Lattice
    mosaic: Lattice

    def thin(self, lung: Array, plane: Plane, section: Section, person: Person) -> None:
        """Add emphysema, dependent atelectasis and uneven ventilation to `lung`, in place."""
        part = plane.depth_mm / person.lung_mm
        mosaic = self.mosaic.on(plane)
        if self.mosaic_hu > 0:
            # Whole lobules are darker or lighter, with rather sharp borders.
            lung += np.float32(self.mosaic_hu) * np.clip(mosaic * 1.2, -1, 1)
        if self.emphysema > 0:
            upper = float(np.clip(1.25 - 1.1 * part, 0.15, 1))
            level = np.float32(2.1 - 1.9 * self.emphysema * upper)
            holes = self.holes.on(plane)
            if self.paraseptal:
                level = level + np.clip(section.lung * 0.12 - 0.9, -0.8, 3)
            amount = smooth_step(holes - level, 0.6)
            lung += amount * (np.float32(-965) - lung) * np.float32(0.8)
        if self.atelectasis_mm > 0:
            back = plane.y - np.float32(30 * person.depth)
            strip = self.atelectasis_mm * np.clip(back / 45, 0, 1.2) * (0.35 + 0.8 * part)
            inside = strip - section.lung + 2.2 * mosaic
            amount = smooth_step(inside, 3.0 + 0.5 * self.atelectasis_mm)
            lung += amount * np.clip(np.float32(self.atelectasis_hu) - lung, 0, None)


def draw_incidental(
    seed: int, lungs: Lungs, interior: Interior, family: Family, shares: Shares
) -> Incidental:
    """Draw what one person has.

    Notes
    -----
    Emphysema and scars grow more frequent with age.
    """
    person = lungs.person
    random = stream(seed, f"incidental/{family}")
    more = 1.3 if family is Family.TEST else 1.0
    names = []
    emphysema = 0.0
    if random.random() < shares.of("emphysema", 0.06 + 0.004 * max(0, person.age - 35)):
        emphysema = float(random.beta(1.5, 2.5) * more)
        names.append("emphysema")
    atelectasis = 0.0
    if random.random() < shares.of("dependent_atelectasis", 0.40):
        atelectasis = float(random.gamma(2.0, 2.2) + 1)
        names.append("dependent_atelectasis")
    mosaic = 0.0
    if random.random() < shares.of("uneven_ventilation", 0.3):
        mosaic = float(random.uniform(6, 30))
        names.append("uneven_ventilation")
    scarred = random.random() < shares.of("scars", 0.25 + person.age / 200)
    scars = _scars(random, interior, person, int(random.integers(1, 6)) if scarred else 0)
    if scarred:
        names.append("scars")
    spotted = random.random() < shares.of("nodules", 0.55)
    count = int(random.choice([1, 1, 2, 4])) if spotted else 0
    nodules = _nodules(random, interior, count)
    if spotted:
        names.append("nodules")
    depths = (-0.2 * person.lung_mm, 1.2 * person.lung_mm)
    return Incidental(
        emphysema=min(emphysema, 1.0),
        paraseptal=bool(random.random() < 0.35),
        atelectasis_mm=atelectasis,
        atelectasis_hu=float(random.uniform(-720, -380)),
        mosaic_hu=mosaic,
        scars=scars,
        nodules=nodules,
        calcified=bool(random.random() < 0.3),
        names=tuple(names),
        holes=smooth_field(random, float(random.uniform(3.2, 6.5)), depths),
        mosaic=smooth_field(random, 12.0, depths),
    )


def _scars(random: np.random.Generator, interior: Interior, person: Person, count: int) -> Tubes:
    """Thin strands at the apices and bands above the diaphragm."""
    depth = (interior.depths_mm / person.lung_mm)[:, None, None]
    ends = np.where((depth < 0.2) | (depth > 0.72), 1.0, 0.12)
    weights = np.exp(-interior.pleura_mm / 5) * ends * (interior.lobes > 0)
    near = choose(random, interior, weights.astype(np.float32), max(1, count))
    return subpleural_bands(random, near, count)


def _nodules(random: np.random.Generator, interior: Interior, count: int) -> Tubes:
    weights: Array = (interior.pleura_mm > 2).astype(np.float32) * (interior.lobes > 0)
    centres = choose(random, interior, weights, count)
    radii: NDArray[np.float64] = random.uniform(1.2, 3.8, count)
    return points(centres, radii)
