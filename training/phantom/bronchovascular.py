"""Arteries, veins and bronchi of both lungs, and the windpipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import stream
from training.phantom.interior import Interior
from training.phantom.person import Person
from training.phantom.tree import grow_tree
from training.phantom.tubes import Tubes, joined

__all__ = ["Bronchovascular", "grow_bronchovascular"]

_F64 = NDArray[np.float64]

_CARINA_PART = 0.335
_HILUM = {"right": (-40.0, 6.0, 0.455), "left": (38.0, 8.0, 0.435)}
_VEIN = {"right": (-34.0, 2.0, 0.56), "left": (30.0, 6.0, 0.55)}
_LOBES = {"right": (1, 2, 3), "left": (4, 5)}
_POINTS_PER_ML = 1.6  # arterial tips: an acinus or two each
_THINNEST_BRONCHUS_MM = 0.50


@dataclass(frozen=True)
class Bronchovascular:
    """The trees of one person.

    Attributes
    ----------
    arteries, veins : Tubes
    bronchi : Tubes
        Outer surface, the windpipe included.
    lumina : Tubes
        The air inside.
    tips : ndarray of float64, shape (n, 3)
        Where arterioles end: the middle of the secondary lobules, about.
    """

    arteries: Tubes
    veins: Tubes
    bronchi: Tubes
    lumina: Tubes
    tips: _F64


def grow_bronchovascular(interior: Interior, person: Person, seed: int) -> Bronchovascular:
    """Grow all trees of one person."""
    random = stream(seed, "bronchovascular")
    arteries, veins, followed = [], [], []
    for side, lobes in _LOBES.items():
        hilum = _placed(_HILUM[side], person, random)
        atrium = _placed(_VEIN[side], person, random)
        for lobe in lobes:
            artery, vein = _lobe(random, interior, person, lobe, (hilum, atrium))
            arteries.append(artery)
            veins.append(vein)
        followed.append(hilum)
    grown, drained = joined(*arteries), joined(*veins)
    bronchi, lumina = _bronchi(random, grown, followed, person)
    thin = grown.radius[:, 1] <= grown.radius.min() * 1.2
    return Bronchovascular(grown, drained, bronchi, lumina, grown.end[thin])


def _placed(place: tuple[float, float, float], person: Person, random: np.random.Generator) -> _F64:
    x, y, part = place
    centre = np.array([x * person.width, y * person.depth, part * person.lung_mm])
    return centre + random.normal(0, (3.5, 4.0, 6.0))


def _lobe(
    random: np.random.Generator,
    interior: Interior,
    person: Person,
    lobe: int,
    roots: tuple[_F64, _F64],
) -> tuple[Tubes, Tubes]:
    room = (interior.lobes == lobe) & (interior.pleura_mm > 3.5) & (interior.fissure_mm > 2.5)
    places = interior.places(room)
    if len(places) == 0:  # a lobe without room: a stump
        places = roots[0][None, :] + np.array([[0.0, 0.0, 4.0]])
    count = max(12, round(len(places) * 0.027 * _POINTS_PER_ML))
    trees = []
    for root, part, twig_mm in ((roots[0], 1.0, 0.27), (roots[1], 0.8, 0.27)):
        chosen = random.choice(len(places), min(len(places), round(count * part)), replace=False)
        points = places[chosen] + random.uniform(-1.5, 1.5, (len(chosen), 3))
        twig = twig_mm * person.vessel * random.uniform(0.92, 1.08)
        trees.append(grow_tree(random, root, points, twig_mm=twig, exponent=2.65))
    return trees[0], trees[1]


def _bronchi(
    random: np.random.Generator, arteries: Tubes, hila: list[_F64], person: Person
) -> tuple[Tubes, Tubes]:
    """Bronchi run beside the arteries, about as wide; the trunk is drawn by hand."""
    beside = arteries.pick(arteries.radius[:, 0] > _THINNEST_BRONCHUS_MM)
    lumen = beside.radius * random.uniform(0.66, 0.88)
    outer = lumen * 1.14 + 0.22
    # The same way aside everywhere, so that pieces stay joined.
    aside = np.array([0.55, -0.55, -0.62])
    apart = (beside.radius + 0.85 * outer)[:, :, None] * aside
    branches = (beside.start + apart[:, 0], beside.end + apart[:, 1])
    trunk = _trunk(hila, person, random)
    return (
        joined(trunk.scaled(1.0, 1.3), Tubes(*branches, outer)),
        joined(trunk, Tubes(*branches, lumen)),
    )


def _trunk(hila: list[_F64], person: Person, random: np.random.Generator) -> Tubes:
    """Windpipe and main bronchi."""
    length = person.lung_mm
    radius = (7.4 if person.female else 8.8) * random.uniform(0.9, 1.12)
    bend = random.normal(0, 2.0)
    carina = (_CARINA_PART + random.normal(0, 0.015)) * length
    course = [
        np.array([bend + 1, 0.0, -0.35 * length]),
        np.array([bend, 6.0, 0.10 * length]),
        np.array([-2.0, 12.0 + random.normal(0, 2.5), carina]),
    ]
    pieces = [(course[0], course[1], radius, radius), (course[1], course[2], radius, radius)]
    for hilum, wide in zip(hila, (0.80, 0.72), strict=True):
        middle = (course[2] + hilum) / 2 + np.array([0.0, 3.0, 0.0])
        pieces.append((course[2], middle, radius * wide, radius * wide * 0.92))
        pieces.append((middle, hilum + np.array([0, 4.0, 2.0]), radius * wide * 0.9, radius * 0.60))
    return Tubes(
        np.stack([piece[0] for piece in pieces]),
        np.stack([piece[1] for piece in pieces]),
        np.array([[piece[2], piece[3]] for piece in pieces]),
    )
