"""What cohort of phantoms is wanted: a TOML document."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.domain import DiseaseClass
from training.errors import PhantomError
from training.phantom.case import SEVERITIES
from training.phantom.person import Family
from training.phantom.shares import SHARES, Shares

__all__ = ["EXAMPLE", "CohortSpec", "FamilySpec", "read_spec"]

EXAMPLE = """\
# A cohort of phantoms: `m3lung phantom cohort --spec FILE --out DIR`.
seed = 1                         # another seed, other people

[training]                       # generator settings of training phantoms
healthy = 30                     # patients per class
covid19 = 30
h1n1 = 30
cap = 30
rows = 256                       # rows and columns of a slice
slices = [24, 60]                # fewest and most slices of a series
slice_mm = [4.0, 10.0]           # distance of slices, from … to
thickness_mm = [1.0, 8.0]        # of slices, at most their distance; left out: their distance
severity_percent = [0.5, 50.0]   # diseased part of the lungs, from … to

[training.artefacts]             # share of patients with each; left out: as the generator has it
breathing = 0.3                  # blurred diaphragm
pulsation = 0.7                  # double contours beside the heart
respiratory_drift = 0.12
emphysema = 0.2
dependent_atelectasis = 0.4
uneven_ventilation = 0.3
scars = 0.5
nodules = 0.55

[test]                           # held-out vendors, kernels, noise, anatomy
healthy = 30
covid19 = 30
h1n1 = 30
cap = 30
rows = 256
slices = [24, 60]
slice_mm = [4.0, 10.0]
severity_percent = [0.3, 60.0]
"""


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """What is wanted of one family.

    Attributes
    ----------
    family : Family
    counts : tuple of 4 int
        Patients in the order of :class:`inference.domain.DiseaseClass`.
    rows : int
    slices : (int, int)
    slice_mm, severity_percent : (float, float)
    thickness_mm : (float, float) or None
        None: the distance.
    shares : Shares
    """

    family: Family
    counts: tuple[int, int, int, int]
    rows: int
    slices: tuple[int, int]
    slice_mm: tuple[float, float]
    thickness_mm: tuple[float, float] | None
    severity_percent: tuple[float, float]
    shares: Shares


@dataclass(frozen=True, slots=True)
class CohortSpec:
    """What cohort is wanted."""

    seed: int
    families: tuple[FamilySpec, ...]


def read_spec(path: Path) -> CohortSpec:
    """Read and check a specification.

    Raises
    ------
    PhantomError
        Names the file and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PhantomError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PhantomError(f"{path}: is no TOML: {error}") from error
    reader = _Reader(path)
    reader.no_others(document, "", {"seed", *Family})
    seed = reader.whole(document, "seed", 1, 0, 2**40)
    families = tuple(
        _family(reader, family, reader.table(document, family))
        for family in Family
        if family in document
    )
    if not any(sum(spec.counts) for spec in families):
        raise PhantomError(f"{path}: asks for no patient: give [training] or [test] counts")
    return CohortSpec(seed, families)


def _family(reader: _Reader, family: Family, table: dict[str, Any]) -> FamilySpec:
    prefix = f"{family}."
    classes = [label.key for label in DiseaseClass]
    sizes = {"rows", "slices", "slice_mm", "thickness_mm", "severity_percent"}
    keys = {*classes, *sizes, "artefacts"}
    reader.no_others(table, prefix, keys)
    counts = [reader.whole(table, key, 0, 0, 1_000_000, prefix) for key in classes]
    slices = reader.span(table, "slices", (24, 495), (4, 495), prefix)
    artefacts = reader.table(table, "artefacts", prefix)
    reader.no_others(artefacts, f"{prefix}artefacts.", set(SHARES))
    shares = {
        key: reader.number(artefacts, key, 0.0, 1.0, f"{prefix}artefacts.") for key in artefacts
    }
    return FamilySpec(
        family,
        (counts[0], counts[1], counts[2], counts[3]),
        reader.whole(table, "rows", 512, 64, 1024, prefix),
        (int(slices[0]), int(slices[1])),
        reader.span(table, "slice_mm", (1.0, 10.0), (0.3, 20.0), prefix),
        reader.span(table, "thickness_mm", (1.0, 10.0), (0.3, 20.0), prefix)
        if "thickness_mm" in table
        else None,
        reader.span(table, "severity_percent", SEVERITIES[family], (0.1, 80.0), prefix),
        Shares(**shares),
    )


class _Reader:
    """Reads values and names the key of what is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _wrong(self, key: str, text: str) -> PhantomError:
        return PhantomError(f"{self._path}: {key}: {text}")

    def no_others(self, table: dict[str, Any], prefix: str, known: set[str]) -> None:
        """Refuse unknown keys."""
        for key in table:
            if key not in known:
                names = ", ".join(sorted(known))
                raise self._wrong(prefix + key, f"unknown key; there are {names}")

    def table(self, table: dict[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
        """Return a table, empty where absent."""
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(prefix + key, "must be a table")
        return value

    def whole(
        self, table: dict[str, Any], key: str, default: int, low: int, high: int, prefix: str = ""
    ) -> int:
        """Return a whole number."""
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(prefix + key, f"must be a whole number of {low} to {high}")
        return value

    def number(
        self, table: dict[str, Any], key: str, low: float, high: float, prefix: str
    ) -> float:
        """Return a number."""
        value = table[key]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self._wrong(prefix + key, f"must be a number of {low:g} to {high:g}")
        return float(value)

    def span(
        self,
        table: dict[str, Any],
        key: str,
        default: tuple[float, float],
        limits: tuple[float, float],
        prefix: str,
    ) -> tuple[float, float]:
        """Return two numbers, the first not above the second."""
        value = table.get(key, list(default))
        good = (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
            and limits[0] <= value[0] <= value[1] <= limits[1]
        )
        if not good:
            words = f"must be [from, to] within {limits[0]:g} and {limits[1]:g}"
            raise self._wrong(prefix + key, words)
        return float(value[0]), float(value[1])
