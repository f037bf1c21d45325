"""Which rule decides about a series, and why the others before it do not.

The same function decides in earnest and in a dry run. Patterns are globs: ``*`` any text, ``?`` any
character, ``[ab]`` one of these; the whole value has to fit, capital letters do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dicom_node.series_traits import SeriesTraits
from dicom_node.settings import DEFAULT_RULE, Peer, Rule
from dicom_node.settings.rule import GLOBS, RANGES

__all__ = ["Judgement", "Miss", "action_in_words", "conditions_in_words", "judge_by_rules"]

_WORDS = {
    "calling_ae": "the calling AE title",
    "called_ae": "the called AE title",
    "modality": "the modality",
    "manufacturer": "the manufacturer",
    "model": "the model of the scanner",
    "description": "the series description",
    "protocol": "the protocol",
    "procedure": "the procedure",
    "body_part": "the body part",
    "accession": "the accession number",
    "kernel": "the kernel",
    "thickness_mm": "the slice thickness",
    "age_years": "the patient's age",
}
_UNITS = {"thickness_mm": "mm", "age_years": "years"}


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that does not fit, and its first condition that fails, in words."""

    rule: str
    words: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The rule that decides, and those before it."""

    rule: Rule
    misses: tuple[Miss, ...]


def judge_by_rules(
    rules: Sequence[Rule], traits: SeriesTraits, peers: Iterable[Peer] = ()
) -> Judgement:
    """Return the first of `rules` that fits; where none does, the default rule.

    Parameters
    ----------
    peers : iterable of Peer
        To know a sender by the name of its peer.
    """
    senders = _sender_names(traits, peers)
    misses: list[Miss] = []
    for rule in rules:
        words = _miss(rule, traits, senders)
        if not words:
            return Judgement(rule, tuple(misses))
        misses.append(Miss(rule.name, words))
    return Judgement(DEFAULT_RULE, tuple(misses))


def _sender_names(traits: SeriesTraits, peers: Iterable[Peer]) -> frozenset[str]:
    """Return the names of the peers that the series may have come from."""
    return frozenset(
        peer.name for peer in peers if peer.is_source and peer.ae_title == traits.calling_ae
    )


def _miss(rule: Rule, traits: SeriesTraits, senders: frozenset[str]) -> str:
    """Return the first condition of `rule` that fails, in words; empty where all hold."""
    if rule.source and not senders & set(rule.source):
        known = " or ".join(sorted(senders)) or f"no known peer ({traits.calling_ae or 'unnamed'})"
        return f"the source is {known}, not {_either(rule.source)}"
    for field in GLOBS:
        patterns: tuple[str, ...] = getattr(rule, field)
        if patterns and (words := _no_match(field, patterns, traits)):
            return words
    for field, (low, high) in RANGES.items():
        words = _outside(field, getattr(rule, low), getattr(rule, high), traits)
        if words:
            return words
    return ""


def _no_match(field: str, patterns: Sequence[str], traits: SeriesTraits) -> str:
    value = getattr(traits, field)
    values = [text for text in (value if isinstance(value, tuple) else (value,)) if text]
    if not values:
        return f"{_WORDS[field]} is not stated; {_either(patterns)} is asked for"
    folded = [text.casefold() for text in values]
    if any(fnmatchcase(text, glob.casefold()) for text in folded for glob in patterns):
        return ""
    shown = " and ".join(f'"{text}"' for text in values)
    return f"{_WORDS[field]} is {shown}, not {_either(patterns)}"


def _outside(field: str, least: float | None, most: float | None, traits: SeriesTraits) -> str:
    if least is None and most is None:
        return ""
    value: float | None = getattr(traits, field)
    unit = _UNITS[field]
    if value is None:
        return f"{_WORDS[field]} is not stated"
    if least is not None and value < least:
        return f"{_WORDS[field]} is {value:g} {unit}, less than {least:g} {unit}"
    if most is not None and value > most:
        return f"{_WORDS[field]} is {value:g} {unit}, more than {most:g} {unit}"
    return ""


def _either(names: Sequence[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


# -- a rule in words -------------------------------------------------------------------------------


def conditions_in_words(rule: Rule) -> list[str]:
    """Return what a rule asks for, one condition each; nothing: it fits every series."""
    words = [f"the source is {_either(rule.source)}"] if rule.source else []
    words += [
        f"{_WORDS[field]} is like {_either(patterns)}"
        for field in GLOBS
        if (patterns := getattr(rule, field))
    ]
    for field, (low, high) in RANGES.items():
        least, most, unit = getattr(rule, low), getattr(rule, high), _UNITS[field]
        if least is not None and most is not None:
            words.append(f"{_WORDS[field]} is {least:g} to {most:g} {unit}")
        elif least is not None or most is not None:
            side = "at least" if most is None else "at most"
            words.append(f"{_WORDS[field]} is {side} {least if most is None else most:g} {unit}")
    return words


def action_in_words(rule: Rule) -> str:
    """Return what a rule does with a series."""
    if rule.action == "skip":
        return f"not analysed: {rule.reason}"
    words = {"urgent": "analysed, urgent", "off_peak": "analysed off-peak"}.get(
        rule.priority, "analysed"
    )
    if rule.shadow:
        return f"{words}; in shadow, nothing is delivered"
    if rule.destinations:
        return f"{words}; results go to {', '.join(rule.destinations)}"
    return f"{words}; results go to all destinations"
