"""Community-acquired pneumonia: consolidation of a segment or a lobe, with open bronchi.

After descriptions of bacterial pneumonia on CT (Nambu et al., World J Radiol 6:779, 2014): lobar or
segmental consolidation that ends at a fissure, ground glass around it, sometimes patches along
bronchi, cavities, fluid.
"""

from __future__ import annotations

import numpy as np

from training.phantom.bronchovascular import Bronchovascular
from training.phantom.focus import choose, ellipsoids, points
from training.phantom.geometry import Array, Lattice, Mask
from training.phantom.interior import Interior
from training.phantom.patches import (
    Blobs,
    Effusion,
    Patches,
    Texture,
    levelled,
    no_tubes,
    uneven_on,
)
from training.phantom.person import Person

__all__ = ["cap"]

# Bacterial pneumonia is most frequent in the lower lobes.
_LOBE_ODDS = np.array([0.20, 0.12, 0.28, 0.16, 0.24])


def cap(
    random: np.random.Generator,
    interior: Interior,
    person: Person,
    texture: Texture,
    trees: Bronchovascular,
    percent: float,
) -> Patches:
    """Draw the lesions of one patient, filling `percent` of the lungs."""
    lobes = _lobes(random, interior, percent)
    where = np.isin(interior.lobes, lobes)
    patchy = bool(random.random() < 0.3)  # bronchopneumonia
    blobs = _foci(random, interior, where, lobes, percent, patchy)
    score = blobs.inside_mm(interior)
    unevenness_mm = float(random.uniform(2.5, 4.5))
    edge_mm = float(random.uniform(3.0, 7.0))
    noise = uneven_on(interior, texture, unevenness_mm)
    share = percent * float(random.uniform(0.45, 0.85))
    haze = levelled(score, noise, interior, where, percent, edge_mm)
    solid = levelled(score, 0.8 * noise, interior, where, share, 2.5)
    cavity = None
    if percent > 2 and random.random() < 0.2:
        cavity = _cavity(random, interior, where, solid.values)
    effusion = None
    if random.random() < 0.35:
        side = -1 if lobes[0] <= 3 else 1
        effusion = Effusion(side, float(random.uniform(10, 48)), float(random.uniform(0.35, 0.7)))
    nodules = no_tubes()
    if patchy or random.random() < 0.25:
        chosen = _tree_in_bud(random, interior, trees, lobes)
        nodules = points(chosen, random.uniform(1.0, 2.2, len(chosen)))
    return Patches(
        haze=haze,
        solid=solid,
        haze_hu=float(random.uniform(-600, -380)),
        solid_hu=float(random.uniform(10, 50)),
        haze_edge_mm=edge_mm,
        solid_edge_mm=2.0,
        unevenness_mm=unevenness_mm,
        lobes=lobes,
        nodules=nodules,
        nodule_hu=float(random.uniform(-150, 20)),
        cavity=cavity,
        effusion=effusion,
        severity_percent=percent,
        bronchograms=bool(random.random() < 0.85),
    )


def _lobes(random: np.random.Generator, interior: Interior, percent: float) -> tuple[int, ...]:
    """Choose lobes: one, or as many as the extent needs."""
    order = random.choice(5, 5, replace=False, p=_LOBE_ODDS) + 1
    sizes = np.bincount(interior.lobes.ravel(), minlength=6)[1:]
    whole = sizes.sum()
    wanted = 1 if random.random() < 0.72 else 2
    chosen: list[int] = []
    room = 0.0
    for lobe in order:
        if len(chosen) >= wanted and room > 1.25 * percent:
            break
        chosen.append(int(lobe))
        room += 100.0 * float(sizes[lobe - 1]) / float(whole)
    return tuple(chosen)


def _foci(
    random: np.random.Generator,
    interior: Interior,
    where: Mask,
    lobes: tuple[int, ...],
    percent: float,
    patchy: bool,
) -> Blobs:
    lung_ml = np.count_nonzero(interior.lobes) * 0.027
    ml = max(0.5, percent / 100 * lung_ml)
    count = int(random.integers(4, 12)) if patchy else len(lobes)
    radius_mm = 10 * (1.3 * ml / count / 4.19) ** (1 / 3)
    weights = where * np.exp(-interior.pleura_mm / np.float32(14))
    weights = weights * np.exp(-interior.fissure_mm / np.float32(25))
    centres = []
    for index in range(count):
        only: Array = weights * (interior.lobes == lobes[index % len(lobes)])
        centres.append(choose(random, interior, only.astype(np.float32), 1)[0])
    shape = (1.15, 0.95, 0.95)
    spread = 0.4 if patchy else 0.1
    return ellipsoids(random, np.array(centres), radius_mm, shape, spread=spread).filling(ml)


def _cavity(random: np.random.Generator, interior: Interior, where: Mask, solid: Array) -> Lattice:
    """Return mm inside a cavity, somewhere deep in the consolidation."""
    inside = np.where(where, np.clip(solid, 0, None), 0)
    deep = np.clip(inside - 0.6 * inside.max(), 0, None)
    centre = choose(random, interior, np.asarray(deep, np.float32), 1)
    blob = ellipsoids(random, centre, float(random.uniform(6, 14)), (1, 1, 1), spread=0.1)
    return interior.lattice(blob.inside_mm(interior))


def _tree_in_bud(
    random: np.random.Generator,
    interior: Interior,
    trees: Bronchovascular,
    lobes: tuple[int, ...],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    tips = trees.tips[np.isin(interior.lobes[interior.index(trees.tips)], lobes)]
    around = tips[random.integers(len(tips))]
    near = tips[np.linalg.norm(tips - around, axis=1) < random.uniform(22, 45)]
    wanted = min(len(near), int(random.integers(10, 70)))
    return np.asarray(near[random.choice(len(near), wanted, replace=False)], np.float64)
