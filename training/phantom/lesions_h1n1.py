"""H1N1 influenza: consolidation along bronchi and vessels, nodules in the middle of lobules.

After descriptions of pandemic influenza on CT (Agarwal et al., AJR 193:1488, 2009; Marchiori et
al., Eur J Radiol 74:93, 2010): consolidation and ground glass along bronchi as well as below the
pleura, several lobes, with small nodules.
"""

from __future__ import annotations

import numpy as np

from training.phantom.bronchovascular import Bronchovascular
from training.phantom.focus import ellipsoids, points
from training.phantom.interior import Interior
from training.phantom.patches import Patches, Texture, levelled, no_tubes, uneven_on
from training.phantom.person import Person

__all__ = ["h1n1"]


def h1n1(
    random: np.random.Generator,
    interior: Interior,
    person: Person,
    texture: Texture,
    trees: Bronchovascular,
    percent: float,
) -> Patches:
    """Draw the lesions of one patient, filling `percent` of the lungs."""
    arteries = trees.arteries
    radius = arteries.radius.mean(axis=1)
    low = 1 / (1 + np.exp(-(arteries.end[:, 2] / person.lung_mm - 0.42) * 7))
    weights = ((radius > 0.85) & (radius < 2.3)) * (0.15 + low)
    radius_mm = float(np.clip(random.normal(7.5 + 1.9 * percent**0.5, 1.5), 5, 22))
    ml = 4.2 * (radius_mm / 10) ** 3
    lung_ml = np.count_nonzero(interior.lobes) * 0.027
    count = int(np.clip(1.4 * percent / 100 * lung_ml / ml, 2, 90))
    # Foci come in groups around a few bronchi.
    stems = random.choice(len(radius), max(2, count // 4), p=weights / weights.sum())
    stem = arteries.end[stems[random.integers(len(stems), size=count)]]
    centres = stem + random.normal(0, radius_mm * 0.9, (count, 3))
    blobs = ellipsoids(random, centres, radius_mm, (1.15, 0.85, 1.0), spread=0.4)
    score = blobs.filling(percent / 100 * lung_ml).inside_mm(interior)
    unevenness_mm = float(random.uniform(3.5, 5.5))
    noise = uneven_on(interior, texture, unevenness_mm)
    inside = interior.lobes > 0
    edge_mm = float(random.uniform(3.0, 6.0))
    share = percent * float(random.uniform(0.35, 0.75))
    haze = levelled(score, noise, interior, inside, percent, edge_mm)
    solid = levelled(score, 0.8 * noise, interior, inside, share, 2.5)
    nodules = no_tubes()
    if random.random() < 0.85:
        chosen = _lobular(random, trees, centres)
        nodules = points(chosen, random.uniform(1.3, 3.0, len(chosen)))
    return Patches(
        haze=haze,
        solid=solid,
        haze_hu=float(random.uniform(-620, -430)),
        solid_hu=float(random.uniform(-20, 40)),
        haze_edge_mm=edge_mm,
        unevenness_mm=unevenness_mm,
        net=float(max(0.0, random.uniform(-0.8, 0.5))),
        nodules=nodules,
        nodule_hu=float(random.uniform(-250, 0)),
        severity_percent=percent,
        bronchograms=True,
    )


def _lobular(
    random: np.random.Generator,
    trees: Bronchovascular,
    centres: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return ends of arterioles around the foci."""
    near = np.zeros(len(trees.tips), bool)
    for centre in centres[: int(random.integers(2, 9))]:
        away = np.linalg.norm(trees.tips - centre, axis=1)
        near |= away < random.uniform(14, 30)
    found = trees.tips[near]
    wanted = min(len(found), int(random.integers(15, 110)))
    return found[random.choice(len(found), wanted, replace=False)]
