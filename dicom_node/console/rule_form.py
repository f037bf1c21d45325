"""A rule as a form: what is entered, and what the fields are called for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_node.errors import ConfigurationError
from dicom_node.settings import Rule
from dicom_node.settings.rule import GLOBS, RANGES

__all__ = ["FIELDS", "RuleForm"]

FIELDS = {
    "calling_ae": "Calling AE title",
    "called_ae": "Called AE title",
    "modality": "Modality",
    "manufacturer": "Manufacturer",
    "model": "Model of the scanner",
    "description": "Series description",
    "protocol": "Protocol",
    "procedure": "Procedure or study description",
    "body_part": "Body part",
    "accession": "Accession number",
    "kernel": "Kernel",
    "min_thickness_mm": "Slice thickness, least (mm)",
    "max_thickness_mm": "Slice thickness, greatest (mm)",
    "min_age_years": "Age, least (years)",
    "max_age_years": "Age, greatest (years)",
}
"""Conditions that are entered as text, in the order of the form."""
_NUMBERS = {name for pair in RANGES.values() for name in pair}
_LISTS = (*GLOBS, "source", "destinations")
_TEXTS = ("name", "action", "reason", "priority")
_LONGEST = 2000


@dataclass(frozen=True)
class RuleForm:
    """What a form holds, field by field."""

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Rule) -> RuleForm:
        """Return the form of a rule."""
        values = {}
        for name, value in rule.model_dump(mode="json", exclude_defaults=True).items():
            if isinstance(value, list):
                values[name] = ", ".join(value)
            elif isinstance(value, float):
                values[name] = f"{value:g}"
            else:
                values[name] = "on" if value is True else str(value)
        return cls(values)

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def fields(self) -> dict[str, Any]:
        """Return the fields of a rule as they were entered.

        Raises
        ------
        ConfigurationError
            A number is none; the text names the field.
        """
        found: dict[str, Any] = {name: self[name].strip() for name in _TEXTS if self[name].strip()}
        for name in _LISTS:
            parts = [part.strip() for part in self[name][:_LONGEST].split(",")]
            if any(parts):
                found[name] = [part for part in parts if part]
        for name in _NUMBERS:
            if text := self[name].strip():
                found[name] = _number(name, text)
        if self["shadow"]:
            found["shadow"] = True
        if found.get("action") != "skip":
            found.pop("reason", None)  # of the other choice
        else:
            for name in ("priority", "destinations", "shadow"):
                found.pop(name, None)
        return found

    def last(self, most: int) -> int:
        """Return on how many series it is to be tried."""
        text = self["last"]
        return min(most, max(1, int(text))) if text.isdecimal() else 20


def _number(name: str, text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ConfigurationError(f"{name}: {text!r} is no number") from None
