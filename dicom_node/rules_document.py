"""The ``[[rules]]`` of ``node.toml``, edited in place.

Comments and layout of the document stay; a comment right above a rule moves with it. How a change
is validated, kept and written stands in :mod:`dicom_node.configuration`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from pydantic import ValidationError

from dicom_node.configuration import Change, ConfigurationDocument, Version
from dicom_node.errors import ConfigurationError
from dicom_node.settings import Rule, find_config, load_settings

__all__ = ["RulesDocument", "rule_from"]

_TABLE_HEADER = re.compile(r"\s*\[\[?\s*[\w\"'.-]+\s*\]")
_RULES_HEADER = re.compile(r"\s*\[\[\s*rules\s*\]\]")
_BY_HAND = "rules: written in a way that cannot be edited here; edit the document by hand"
_WORDS = {"name": "small letters, digits, - and _, starting with a letter or digit, at most 32"}


class RulesDocument:
    """The rules of a configuration document that may be about to change.

    Parameters
    ----------
    path : Path or None
        None: where :func:`dicom_node.settings.find_config` finds it, else ``./node.toml``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or find_config() or Path("node.toml")
        self._document = ConfigurationDocument(self.path)

    def rules(self) -> tuple[Rule, ...]:
        """Return the rules of the document, none if it does not exist.

        Raises
        ------
        ConfigurationError
            The document is wrong.
        """
        return load_settings(self.path).rules if self.path.exists() else ()

    def digest(self) -> str:
        """Return what stands for the document as it is now: see :meth:`add`."""
        return self._document.digest()

    def add(self, rule: Rule, change: Change, *, seen: str = "") -> Version | None:
        """Add `rule` as the last one; return the version before.

        Parameters
        ----------
        seen : str
            The digest of the document that the change was thought of for; empty: any.

        Raises
        ------
        ConfigurationError
            The document would be wrong with it, or changed since it was `seen`.
        """
        return self._edit(change, seen, lambda blocks: [*blocks, _Block(_entry(rule), rule.name)])

    def replace(self, name: str, rule: Rule, change: Change, *, seen: str = "") -> Version | None:
        """Put `rule` in the place of the one called `name`.

        Raises
        ------
        ConfigurationError
            There is none of that name, or as for :meth:`add`.
        """

        def make(blocks: list[_Block]) -> list[_Block]:
            index = _index(blocks, name)
            made = _Block(blocks[index].comment + _entry(rule), rule.name)
            return [*blocks[:index], made, *blocks[index + 1 :]]

        return self._edit(change, seen, make)

    def remove(self, name: str, change: Change, *, seen: str = "") -> Version | None:
        """Remove the rule called `name`, and the comment right above it.

        Raises
        ------
        ConfigurationError
            There is none of that name, or as for :meth:`add`.
        """

        def make(blocks: list[_Block]) -> list[_Block]:
            index = _index(blocks, name)
            return blocks[:index] + blocks[index + 1 :]

        return self._edit(change, seen, make)

    def move(self, name: str, places: int, change: Change, *, seen: str = "") -> Version | None:
        """Move the rule called `name` down by `places`, up if that is less than 0.

        Raises
        ------
        ConfigurationError
            There is none of that name, or as for :meth:`add`.
        """

        def make(blocks: list[_Block]) -> list[_Block]:
            index = _index(blocks, name)
            left = blocks[:index] + blocks[index + 1 :]
            place = max(0, min(len(left), index + places))
            return [*left[:place], blocks[index], *left[place:]]

        return self._edit(change, seen, make)

    def _edit(
        self, change: Change, seen: str, make: Callable[[list[_Block]], list[_Block]]
    ) -> Version | None:
        def edited(text: str) -> str:
            if seen and self.path.exists() and seen != self._document.digest():
                raise ConfigurationError(
                    "the configuration was changed meanwhile; look at it and try again"
                )
            return _rewritten(text, make)

        return self._document.edit(change, edited)


def rule_from(fields: Mapping[str, Any]) -> Rule:
    """Return a validated rule of what a user entered.

    Raises
    ------
    ConfigurationError
        The text names the first field that is wrong, and why.
    """
    try:
        return Rule(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        words = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # the text names the field
            raise ConfigurationError(words) from error
        field = str(first["loc"][0])
        raise ConfigurationError(f"{field}: {_WORDS.get(field, words)}") from error


# -- the text --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of one rule, the comment right above it included."""

    text: str
    name: str

    @property
    def comment(self) -> str:
        """What stands above the table."""
        lines = self.text.splitlines(keepends=True)
        first = next(number for number, line in enumerate(lines) if _RULES_HEADER.match(line))
        return "".join(lines[:first])


def _index(blocks: list[_Block], name: str) -> int:
    names = [block.name for block in blocks]
    if name not in names:
        known = ", ".join(names) or "none"
        raise ConfigurationError(f"name: no rule is called {name!r}; known: {known}")
    return names.index(name)


def _rewritten(text: str, make: Callable[[list[_Block]], list[_Block]]) -> str:
    """Return the document `text` with other rules, all else as it was."""
    try:
        content = tomlkit.parse(text).unwrap()
    except tomlkit.exceptions.ParseError as error:
        raise ConfigurationError(str(error)) from error
    before, blocks, behind = _parts(text, content)
    made = make(blocks)
    new = "\n".join(block.text.rstrip() + "\n" for block in made)
    if behind:
        rest = "\n" + behind.lstrip("\n")
        written = before + new + (rest if made else behind.lstrip("\n"))
    else:
        gap = "" if not new or not before.strip() or before.endswith("\n\n") else "\n"
        written = before + ("" if before.endswith("\n") or not before else "\n") + gap + new
    wanted = {key: value for key, value in content.items() if key != "rules"}
    if made:
        wanted["rules"] = [_table(block.text) for block in made]
    try:
        same = tomlkit.parse(written).unwrap() == wanted
    except tomlkit.exceptions.TOMLKitError:
        same = False
    if not same:  # a header look-alike inside a string, or tables of another kind
        raise ConfigurationError(_BY_HAND)
    return written


def _parts(text: str, content: Mapping[str, Any]) -> tuple[str, list[_Block], str]:
    """Return what stands before the first rule, the rules, and all that stands behind it."""
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if _TABLE_HEADER.match(line)]
    starts = []
    for number in headers:
        start = number
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            start -= 1  # the comment belongs to what follows
        starts.append(start)
    ends = [*starts[1:], len(lines)]
    rules = [k for k, number in enumerate(headers) if _RULES_HEADER.match(lines[number])]
    if len(rules) != len(content.get("rules", [])):
        raise ConfigurationError(_BY_HAND)
    blocks = [
        _Block("".join(lines[starts[k] : ends[k]]), str(table.get("name", "")))
        for k, table in zip(rules, content.get("rules", []), strict=True)
    ]
    if not rules:
        return text, [], ""
    # Rules that stand apart from one another come together, where the first stood.
    others = [
        "".join(lines[starts[k] : ends[k]]) for k in range(rules[0], len(headers)) if k not in rules
    ]
    return "".join(lines[: starts[rules[0]]]), blocks, "".join(others)


def _table(text: str) -> dict[str, Any]:
    found: dict[str, Any] = tomlkit.parse(text).unwrap()
    if set(found) != {"rules"} or len(found["rules"]) != 1:
        raise ConfigurationError(_BY_HAND)
    table: dict[str, Any] = found["rules"][0]
    return table


def _entry(rule: Rule) -> str:
    """Return `rule` as it stands in the document: no field that has its default."""
    table = tomlkit.table()
    for key, value in rule.model_dump(mode="json", exclude_defaults=True).items():
        table.add(key, value)
    made = tomlkit.aot()
    made.append(table)
    document = tomlkit.document()
    document.add("rules", made)
    return tomlkit.dumps(document).lstrip("\n")
