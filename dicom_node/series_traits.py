"""What is known of a series beyond its pixels: what rules ask for, and what the drift panel counts.

Kept once for each series, not with each of its images: DICOM says that these are the same in all of
them. Kernel and thickness may differ from image to image; what most of them have, counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dicom_node.header import InstanceHeader

__all__ = ["KEPT_ELSEWHERE", "SeriesTraits", "age_in_years"]

_MOST = 128  # characters of a text
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
# Columns of the ledger's series: not kept a second time.
_COLUMNS = {"calling_ae", "modality", "description", "accession"}
KEPT_ELSEWHERE = {"study_description", "requested_procedure", "patient_age", "protocol_name"}
"""Fields of a header that the ledger keeps with the series, not with the image."""

_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True, slots=True)
class SeriesTraits:
    """A series as rules see it; text is empty and a number None where the series does not say.

    Attributes
    ----------
    procedure : tuple of str
        Study Description and Requested Procedure Description.
    thickness_mm : float or None
        Slice Thickness that most images have.
    age_years : float or None
    """

    calling_ae: str = ""
    called_ae: str = ""
    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    description: str = ""
    protocol: str = ""
    procedure: tuple[str, ...] = ()
    body_part: str = ""
    accession: str = ""
    kernel: str = ""
    thickness_mm: float | None = None
    age_years: float | None = None

    @classmethod
    def of_header(
        cls, header: InstanceHeader, *, calling_ae: str = "", called_ae: str = ""
    ) -> SeriesTraits:
        """Return what the header of one image says."""
        procedures = dict.fromkeys([header.study_description, header.requested_procedure])
        return cls(
            calling_ae=calling_ae,
            called_ae=called_ae,
            modality=header.modality,
            manufacturer=header.manufacturer[:_MOST],
            model=header.model_name[:_MOST],
            description=header.series_description,
            protocol=header.protocol_name[:_MOST],
            procedure=tuple(text[:_MOST] for text in procedures if text),
            body_part=header.body_part_examined[:_MOST],
            accession=header.accession_number,
            kernel=header.convolution_kernel[:_MOST],
            thickness_mm=header.slice_thickness_mm,
            age_years=age_in_years(header.patient_age),
        )

    def settled(self, headers: Iterable[InstanceHeader]) -> SeriesTraits:
        """Return these with the kernel and the thickness that most of `headers` have."""
        known = list(headers)
        return replace(
            self,
            kernel=_most(header.convolution_kernel[:_MOST] for header in known) or self.kernel,
            thickness_mm=_most(
                header.slice_thickness_mm
                for header in known
                if header.slice_thickness_mm is not None
            ),
        )

    def stored(self) -> dict[str, Any]:
        """Return what the ledger keeps beside its own columns: no empty field."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in self.__slots__
            if name not in _COLUMNS and (value := getattr(self, name)) not in ("", None, ())
        }

    @classmethod
    def restored(cls, stored: Mapping[str, Any] | None, **columns: str) -> SeriesTraits:
        """Return what :meth:`stored` gave, `columns` are those that the ledger has besides."""
        kept = {name: value for name, value in (stored or {}).items() if name in set(cls.__slots__)}
        return cls(**{**kept, "procedure": tuple(kept.get("procedure", ())), **columns})


def age_in_years(text: str) -> float | None:
    """Return an age string (PS3.5 §6.2, AS) in years, None for anything else."""
    match = _AGE.fullmatch(text.strip().upper())
    return None if match is None else round(int(match[1]) / _PER_YEAR[match[2]], 2)


def _most(values: Iterable[_Value]) -> _Value | None:
    """Return the value that is there most often; of equal ones the smallest, so that it stays."""
    counted = Counter(values)
    if not counted:
        return None
    return min(counted, key=lambda value: (-counted[value], str(value)))
