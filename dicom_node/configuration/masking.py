"""What of a document nobody has to see: passwords, secrets, the password in an address.

They belong into the environment; some stand in the document all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import tomlkit
import tomlkit.exceptions

__all__ = ["MASK", "masked"]

MASK = "••••••"
# Keys that hold a secret, and those whose names only look like it: paths of key files.
_SECRET_KEY = re.compile(r"(?i)pass(word|wd|phrase)?$|secret|token|credential|authorization")
# scheme://user:password@host. Up to the last @: an unescaped one may stand in the password.
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"']*:)([^\s\"']*)(?=@)")
_QUERY_SECRET = re.compile(
    r"(?i)([?&](?:pass(?:word|wd)?|secret|token|key|sig(?:nature)?)=)[^&\s\"'#]+"
)
# A line that sets such a key, also in a comment or in a document that does not parse.
_ASSIGNMENT = re.compile(
    r"(?i)([\w.\"'-]*(?:pass(?:word|wd|phrase)?|secret|token|credential|authorization)[\w\"'-]*"
    r"\s*=\s*)(\S.*)"
)


def masked(text: str, *, beside: str = "") -> str:
    """Return `text` with every secret of it, and of `beside`, replaced by a row of dots.

    Every line stays a line.

    Parameters
    ----------
    beside : str
        Another document whose secrets must not show either: the other side of a comparison.
    """
    secrets = sorted({*_secrets(text), *_secrets(beside)}, key=len, reverse=True)
    shown = []
    closing = ""  # of a secret that goes over several lines
    for line in text.splitlines():
        if closing:
            closing = "" if closing in line else closing
            shown.append(MASK)
            continue
        opened = _ASSIGNMENT.search(line)
        if opened:
            closing = _left_open(opened[2])
        shown.append(_hidden(line, secrets))
    return "\n".join(shown) + ("\n" if text.endswith("\n") else "")


def _hidden(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\g<1>{MASK}", text)
    text = _QUERY_SECRET.sub(rf"\g<1>{MASK}", text)
    return _ASSIGNMENT.sub(rf'\g<1>"{MASK}"', text)


def _left_open(value: str) -> str:
    """Return what closes a value that its line does not close; empty if it does."""
    for opening, closing in (('"""', '"""'), ("'''", "'''"), ("[", "]")):
        if value.startswith(opening):
            return "" if closing in value[len(opening) :] else closing
    return ""


def _secrets(text: str) -> Iterator[str]:
    """Yield the values that have to go wherever they stand, line by line."""
    try:
        document = tomlkit.parse(text).unwrap()
    except tomlkit.exceptions.ParseError:
        return
    for key, value in _strings(document, ""):
        found = value.splitlines() if _SECRET_KEY.search(key) else [_password(value)]
        # What is shorter is a word that stands elsewhere, too: its line is masked as a line.
        yield from (part for part in found if len(part) >= 4)


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)


def _password(value: str) -> str:
    try:
        parts = urlsplit(value)
        return unquote(parts.password or "") if "://" in value else ""
    except ValueError:
        return ""
