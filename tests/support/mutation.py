"""Change bytes as broken senders and broken disks do, the same way for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["mutants"]

_EDGES = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\xfe\xff", b"\0\x80",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xfe\xff\xff\xff",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"SQ\0\0\xff\xff\xff\xff", b"UN\0\0\xff\xff\xff\xff", b"OB", b"\\", b"1e309", b"nan", b"-",
)  # fmt: skip


def mutants(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield changed seeds for ever, the seeds themselves first."""
    yield from seeds
    dice = random.Random(seed)
    while True:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 2, 4, 16))):
            _change(data, dice, seeds)
        yield bytes(data)


def _change(data: bytearray, dice: random.Random, seeds: Sequence[bytes]) -> None:
    # Heads hold what is parsed; tails are mostly pixels.
    end = dice.choice((len(data), min(len(data), 512), min(len(data), 64)))
    at = dice.randrange(end + 1)
    length = dice.choice((1, 2, 4, 8, 64))
    kind = dice.randrange(7)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << dice.randrange(8)
    elif kind == 1:
        edge = dice.choice(_EDGES)
        data[at : at + len(edge)] = edge
    elif kind == 2:
        data[at:at] = dice.choice(_EDGES)
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = data[at : at + length] * dice.choice((1, 2, 50))
    elif kind == 5:
        del data[at:]
    else:
        other = dice.choice(seeds)
        start = dice.randrange(len(other) + 1)
        data[at : at + length] = other[start : start + length]
