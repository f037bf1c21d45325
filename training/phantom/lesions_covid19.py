"""COVID-19: ground glass in both lungs, below the pleura, low and at the back.

After the descriptions of chest CT in COVID-19 (Bernheim et al., Radiology 295:200463, 2020; Pan
et al., Radiology 295:715, 2020): ground glass early, crazy paving and consolidation later, round
and bilateral, peripheral, lower lobes; bands while it heals.
"""

from __future__ import annotations

import numpy as np

from training.phantom.focus import choose, ellipsoids, subpleural_bands
from training.phantom.interior import Interior
from training.phantom.patches import Patches, Texture, levelled, no_tubes, uneven_on
from training.phantom.person import Person

__all__ = ["covid19"]


def covid19(
    random: np.random.Generator,
    interior: Interior,
    person: Person,
    texture: Texture,
    percent: float,
) -> Patches:
    """Draw the lesions of one patient, filling `percent` of the lungs."""
    stage = float(random.beta(1.3, 2.0))  # 0 early, 1 late
    edge_mm = float(random.uniform(4.0, 9.0))
    unevenness_mm = float(random.uniform(3.0, 5.5))
    radius_mm = float(np.clip(random.normal(9 + 3.2 * percent**0.5, 2.5), 5, 32))
    weights = _weights(random, interior, person)
    ml = 4.2 * (radius_mm / 10) ** 3
    lung_ml = np.count_nonzero(interior.lobes) * 0.027
    count = int(np.clip(1.6 * percent / 100 * lung_ml / ml, 1 + (percent > 1), 90))
    centres = choose(random, interior, weights, count)
    shape = (0.62, 1.15, 1.0)
    blobs = ellipsoids(random, centres, radius_mm, shape, spread=0.35)
    score = blobs.filling(percent / 100 * lung_ml).inside_mm(interior)
    score -= 0.30 * np.clip(interior.pleura_mm - 16, 0, 40)
    noise = uneven_on(interior, texture, unevenness_mm)
    inside = interior.lobes > 0
    haze = levelled(score, noise, interior, inside, percent, edge_mm)
    solid = None
    if stage > 0.30:
        share = percent * min(0.55, (stage - 0.25) * 0.7) * random.uniform(0.5, 1.0)
        core = haze.values + 1.2 * noise + 0.12 * np.clip(12 - interior.pleura_mm, 0, 12)
        solid = levelled(core, 0.8 * noise, interior, inside, share, 3.5)
    bands = no_tubes()
    if stage > 0.55:
        bands = subpleural_bands(random, centres, int(random.integers(2, 9)))
    return Patches(
        haze=haze,
        solid=solid,
        haze_hu=float(random.uniform(-700, -480) + 90 * stage),
        solid_hu=float(random.uniform(-150, 20)),
        haze_edge_mm=edge_mm,
        solid_edge_mm=3.5,
        unevenness_mm=unevenness_mm,
        net=float(max(0.0, random.uniform(-0.2, 0.9)) * min(1.0, 0.4 + stage)),
        bands=bands,
        severity_percent=percent,
        bronchograms=bool(random.random() < 0.6),
    )


def _weights(
    random: np.random.Generator, interior: Interior, person: Person
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """How likely a focus is at each point: peripheral, low, at the back."""
    depth = (interior.depths_mm / person.lung_mm).astype(np.float32)[:, None, None]
    back = (interior.grid.y[:, 0] / np.float32(95 * person.depth))[None, :, None]
    low = 1 / (1 + np.exp(-(depth - random.uniform(0.42, 0.55)) * random.uniform(6, 12)))
    behind = 1 / (1 + np.exp(-(back - 0.1) * random.uniform(2, 5)))
    rim = np.exp(-interior.pleura_mm / np.float32(random.uniform(6, 11)))
    weights = rim * (0.10 + low) * (0.12 + behind) * (interior.lobes > 0)
    side = np.where(interior.grid.x < 0, random.uniform(0.6, 1.4), 1.0)[None]
    return np.asarray(weights * side, dtype=np.float32)
