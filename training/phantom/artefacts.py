"""Movement during the scan: the heart's beat, and breath that was not held."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.phantom.geometry import Array, Plane, stream
from training.phantom.lungs import Lungs
from training.phantom.person import Family
from training.phantom.shares import Shares

__all__ = ["Motion", "draw_motion"]


@dataclass(frozen=True, slots=True)
class Motion:
    """How a person moved.

    Attributes
    ----------
    pulsation_mm : float
        How far the heart's border jumps between the halves of a turn.
    breath_mm : float
        How far the diaphragm travels during one slice.
    breath_at : float
        Around which height (part of the lungs' height) breath was drawn.
    drift_mm, drift_wave_mm : float
        Slow breathing: how far anatomy sways, over how much table travel.
    """

    pulsation_mm: float
    breath_mm: float
    breath_at: float
    drift_mm: float
    drift_wave_mm: float

    @property
    def names(self) -> tuple[str, ...]:
        """For the truth."""
        found = []
        if self.pulsation_mm > 0:
            found.append("pulsation")
        if self.breath_mm > 0:
            found.append("breathing")
        if self.drift_mm > 0:
            found.append("respiratory_drift")
        return tuple(found)

    def depth(self, depth_mm: float) -> float:
        """Return which anatomy lies at a place of the table."""
        sway = np.sin(2 * np.pi * depth_mm / self.drift_wave_mm) if self.drift_mm > 0 else 0.0
        return depth_mm + self.drift_mm * float(sway)

    def spread(self, part: float) -> float:
        """Return over how many more millimetres a slice is smeared."""
        near = np.exp(-(((part - self.breath_at) / 0.16) ** 2))
        return float(self.breath_mm * near)

    def beat(self, image: Array, plane: Plane, lungs: Lungs, random: np.random.Generator) -> Array:
        """Return the slice with a double contour beside the heart."""
        if self.pulsation_mm == 0:
            return image
        heart = lungs.heart(plane)
        if float(heart.max()) < -25:
            return image
        near = np.exp(-((np.minimum(heart + 6, 0) / 20) ** 2)) * np.clip(
            (plane.x + 10) / 40, 0.15, 1
        )
        shift = self.pulsation_mm * random.uniform(0.4, 1.3) / plane.grid.pixel_mm
        angle = random.uniform(-0.7, 0.7)
        move = np.array([[1, 0, shift * np.cos(angle)], [0, 1, shift * np.sin(angle)]], np.float32)
        moved = cv2.warpAffine(
            image, move, plane.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        share = np.float32(random.uniform(0.25, 0.5)) * near.astype(np.float32)
        return np.asarray(image + share * (moved - image), dtype=np.float32)


def draw_motion(seed: int, family: Family, shares: Shares) -> Motion:
    """Return how the person of a seed moved."""
    random = stream(seed, f"motion/{family}")
    usual = 0.3 if family is Family.TRAINING else 0.38
    breathes = random.random() < shares.of("breathing", usual)
    drifts = random.random() < shares.of("respiratory_drift", 0.12)
    pulses = random.random() < shares.of("pulsation", 0.7)
    return Motion(
        pulsation_mm=float(1.5 + random.gamma(2.0, 0.9)) if pulses else 0.0,
        breath_mm=float(random.uniform(3, 13)) if breathes else 0.0,
        breath_at=float(random.uniform(0.55, 0.9)),
        drift_mm=float(random.uniform(1.5, 5)) if drifts else 0.0,
        drift_wave_mm=float(random.uniform(18, 45)),
    )
