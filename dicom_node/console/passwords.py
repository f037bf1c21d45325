"""Passwords as argon2id digests (RFC 9106), checked a few at a time: each takes 64 MiB."""

from __future__ import annotations

import threading
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.errors import ConfigurationError

__all__ = ["check", "digest"]

_SHORTEST = 10
_LONGEST = 256
_hasher = PasswordHasher()
_at_once = threading.BoundedSemaphore(2)


def digest(password: str) -> str:
    """Return what is kept of a password.

    Raises
    ------
    ConfigurationError
        It is too short.
    """
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise ConfigurationError(f"password: {_SHORTEST} to {_LONGEST} characters")
    with _at_once:
        return _hasher.hash(password)


def check(kept: str, password: str) -> bool:
    """Whether `password` is the one; takes as long for a user who does not exist (`kept` empty)."""
    with _at_once:
        try:
            return _hasher.verify(kept or _nobody(), password[:_LONGEST]) and bool(kept)
        except (VerificationError, InvalidHashError):
            return False


@lru_cache(maxsize=1)
def _nobody() -> str:
    return _hasher.hash("a password that nobody has")
