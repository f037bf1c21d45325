"""The scanner: kernels, dose, noise, slice thickness, field of view, and how it stores numbers.

Noise has the spectrum that filtered backprojection gives: a ramp, cut off by the kernel
(Hanson, Med Phys 6:441, 1979), stronger and streaky where the body is wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from training.phantom.geometry import Array, Plane, stream
from training.phantom.person import Family

__all__ = ["Kernel", "Scanner", "acquire", "draw_scanner"]

_REFERENCE_NYQUIST = 0.5 / 0.7  # cycles per mm at a pixel of 0.7 mm


@dataclass(frozen=True, slots=True)
class Kernel:
    """A reconstruction kernel.

    Attributes
    ----------
    name : str
        As the vendor writes it.
    blur_mm : float
        Standard deviation of the point spread.
    edge : float
        How much edges are enhanced.
    cutoff : float
        Where noise has fallen to 1/e, cycles per mm.
    noise : float
        Relative to a medium kernel.
    """

    name: str
    blur_mm: float
    edge: float
    cutoff: float
    noise: float


_SMOOTH = (0.60, 0.0, 0.30, 0.75)
_MEDIUM = (0.48, 0.15, 0.42, 1.0)
_SHARP = (0.38, 0.55, 0.58, 1.9)
_SHARPEST = (0.32, 0.95, 0.70, 2.7)

_VENDORS: dict[Family, dict[str, tuple[Kernel, ...]]] = {
    Family.TRAINING: {
        "SIEMENS": (
            Kernel("B30f", *_SMOOTH), Kernel("B40s", *_MEDIUM), Kernel("B60f", *_SHARP),
            Kernel("B70f", *_SHARPEST),
        ),
        "GE MEDICAL SYSTEMS": (
            Kernel("SOFT", *_SMOOTH), Kernel("STANDARD", *_MEDIUM), Kernel("LUNG", *_SHARPEST),
        ),
        "Philips": (
            Kernel("A", *_SMOOTH), Kernel("B", *_MEDIUM), Kernel("C", 0.44, 0.25, 0.48, 1.3),
            Kernel("L", *_SHARP),
        ),
    },
    Family.TEST: {
        "TOSHIBA": (
            Kernel("FC03", 0.66, 0.05, 0.27, 0.8), Kernel("FC13", 0.52, 0.22, 0.38, 1.1),
            Kernel("FC51", 0.36, 0.75, 0.62, 2.1),
        ),
        "UIH": (
            Kernel("B_SOFT_B", 0.56, 0.1, 0.33, 0.85), Kernel("B_SHARP_C", 0.4, 0.6, 0.54, 1.7),
        ),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scanner:
    """One acquisition.

    Attributes
    ----------
    manufacturer : str
    kernel : Kernel
    thickness_mm : float
    pixel_mm : float
    rows : int
    centre_mm : (float, float)
    tilt_deg : float
    noise_hu : float
        Standard deviation in the middle of a chest.
    streaks : float
        Share of noise that is streaky.
    kvp, current_ma : int
    intercept : int
    signed : bool
    padding_hu : int or None
        Stored outside the reconstructed circle; None where the square is full.
    windows : tuple of (centre, width, name)
    table : int
        Which table top.
    """

    manufacturer: str
    kernel: Kernel
    thickness_mm: float
    pixel_mm: float
    rows: int
    centre_mm: tuple[float, float]
    tilt_deg: float
    noise_hu: float
    streaks: float
    kvp: int
    current_ma: int
    intercept: int
    signed: bool
    padding_hu: int | None
    windows: tuple[tuple[int, int, str], ...]
    table: int

    @property
    def field_of_view_mm(self) -> float:
        """Edge length of the image."""
        return self.rows * self.pixel_mm

    def with_rows(self, rows: int) -> Scanner:
        """Return the same field of view in another matrix."""
        return replace(self, rows=rows, pixel_mm=self.pixel_mm * self.rows / rows)


def draw_scanner(
    seed: int, family: Family, chest_mm: float, thickness_mm: float | None, rows: int
) -> Scanner:
    """Return the scanner of a seed.

    Parameters
    ----------
    seed : int
    family : Family
        Vendors and kernels of one are unknown to the other.
    chest_mm : float
        Width of the chest, which the field of view follows.
    thickness_mm : float or None
        Drawn where None.
    rows : int
    """
    random = stream(seed, f"scanner/{family}")
    vendors = _VENDORS[family]
    maker = str(random.choice(list(vendors)))
    kernel = vendors[maker][int(random.integers(len(vendors[maker])))]
    common = [0.5, 0.625, 1.0, 1.25, 2.0, 2.5, 3.0, 5.0, 8.0, 10.0]
    odds = np.array([2, 4, 12, 12, 16, 12, 12, 22, 6, 2], float)
    drawn = float(random.choice(common, p=odds / odds.sum()))
    thickness = thickness_mm or drawn
    # Pixels above 5 mm are no CT: a small matrix sees a small field.
    field = float(np.clip(chest_mm * random.uniform(1.12, 1.45), 280, min(500, 4.9 * rows)))
    base = float(random.uniform(11, 24) * (1.25 if family is Family.TEST else 1.0))
    # Thinner slices catch fewer photons; scanners make up for part of it.
    noise = base * kernel.noise**0.55 * (2.5 / thickness) ** 0.25
    signed = maker.startswith("GE") or maker == "TOSHIBA"
    circle = bool(random.random() < 0.4) or maker.startswith("GE")
    lung = (int(random.choice([-700, -600, -500])), int(random.choice([1200, 1500, 1600])), "LUNG")
    soft = (int(random.choice([35, 40, 50])), int(random.choice([350, 400])), "SOFT TISSUE")
    return Scanner(
        manufacturer=maker,
        kernel=kernel,
        thickness_mm=thickness,
        pixel_mm=field / rows,
        rows=rows,
        centre_mm=(float(random.normal(0, 7)), float(random.normal(4, 7))),
        tilt_deg=float(random.uniform(-9, 9)) if random.random() < 0.05 else 0.0,
        noise_hu=float(min(noise, 48)),
        streaks=float(random.uniform(0.05, 0.4)),
        kvp=int(random.choice([100, 110, 120, 120, 120, 130, 140])),
        current_ma=int(random.uniform(40, 320)),
        intercept=0 if signed and maker == "TOSHIBA" else -1024,
        signed=signed,
        padding_hu=(-2000 if signed else -1024) if circle else None,
        windows=(lung, soft) if kernel.edge > 0.3 else (soft, lung),
        table=int(random.integers(4)),
    )


def acquire(
    ideal: Array, body: Array, plane: Plane, scanner: Scanner, random: np.random.Generator
) -> Array:
    """Return what the scanner makes of a slice: blurred, sharpened, noisy; float32 HU.

    Parameters
    ----------
    ideal : ndarray of float32, shape (rows, columns)
        HU.
    body : ndarray of float32, same shape
        Millimetres inside the body.
    plane : Plane
    scanner : Scanner
    random : numpy Generator
    """
    kernel, pixel_mm = scanner.kernel, plane.grid.pixel_mm
    sigma = max(0.25, kernel.blur_mm / pixel_mm)
    seen = cv2.GaussianBlur(ideal, (0, 0), sigma)
    if kernel.edge > 0:
        wide = cv2.GaussianBlur(seen, (0, 0), max(0.5, 0.9 / pixel_mm))
        seen = seen + np.float32(kernel.edge) * (seen - wide)
    noise = _noise(plane, scanner, random)
    return np.asarray(seen + noise * _strength(body, plane, scanner), dtype=np.float32)


def _noise(plane: Plane, scanner: Scanner, random: np.random.Generator) -> Array:
    """Return noise of the kernel's spectrum; unit variance at a pixel of 0.7 mm."""
    rows, columns = plane.shape
    pixel_mm, cutoff = plane.grid.pixel_mm, scanner.kernel.cutoff
    fy = np.fft.fftfreq(rows, pixel_mm).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(columns, pixel_mm).astype(np.float32)[None, :]
    frequency = np.sqrt(fx * fx + fy * fy)
    power = (frequency + 0.03) * np.exp(-((frequency / cutoff) ** 2))
    if scanner.streaks > 0:
        # Streaks run across the body: their power gathers at low frequencies of x.
        power = power * (1 + 6 * scanner.streaks * np.exp(-((fx / 0.05) ** 2)))
    # The integral of the round part up to the reference's Nyquist frequency, in closed steps.
    steps = np.linspace(0, _REFERENCE_NYQUIST, 64)
    whole = np.trapezoid(
        2 * np.pi * steps * (steps + 0.03) * np.exp(-((steps / cutoff) ** 2)), steps
    )
    amplitude = np.sqrt(power / np.float32(whole)) / np.float32(pixel_mm)
    white = random.standard_normal((rows, columns), dtype=np.float32)
    spectrum = np.fft.rfft2(white) * amplitude
    return np.fft.irfft2(spectrum, s=(rows, columns)).astype(np.float32)


def _strength(body: Array, plane: Plane, scanner: Scanner) -> Array:
    """Return the standard deviation of noise: strongest inside, less in the air around."""
    small = cv2.resize((body > 0).astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    edge_mm = plane.grid.rows * plane.grid.pixel_mm
    across = small.sum(axis=1, keepdims=True) * edge_mm / 64
    through = small.sum(axis=0, keepdims=True) * edge_mm / 64
    path = cv2.GaussianBlur(
        np.minimum(across, 520) * 0.6 + np.minimum(through, 400) * 0.4 * np.ones((64, 1)), (0, 0), 4
    )
    inside = cv2.GaussianBlur(small, (0, 0), 6)
    strength = np.exp((path - 290) / 420) * (0.5 + 0.55 * inside)
    wide = cv2.resize(strength.astype(np.float32), plane.shape[::-1])
    return np.asarray(wide * np.float32(scanner.noise_hu), dtype=np.float32)
