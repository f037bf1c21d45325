"""Which samples an epoch takes, in which order: a pure function of (seed, epoch).

Nothing random is kept between steps, so a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_epoch", "sample_rng"]

# What a generator is for; two purposes never share their numbers.
_ORDER, _ROUND, _SAMPLE = 1, 2, 3


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Generator of the sample at `position` of an epoch."""
    return np.random.default_rng([_SAMPLE, seed, epoch, position])


def draw_epoch(
    groups: Sequence[int] | NDArray[np.integer],
    size: int,
    batch: int,
    seed: int,
    epoch: int,
    *,
    balanced: bool,
) -> list[NDArray[np.int64]]:
    """Draw the batches of one epoch.

    Parameters
    ----------
    groups : sequence of int, length n
        Group (class) of each sample.
    size : int
        Samples per epoch, rounded up to full batches: the last batch is as large as all others.
        0: n.
    batch : int
    seed, epoch : int
    balanced : bool
        True: every group fills the same share. Each group is gone through in shuffled rounds,
        which go on from epoch to epoch: no sample comes twice before all have come once.

    Returns
    -------
    list of ndarray of int64, shape (batch,)
        Indices of samples.
    """
    labels = np.asarray(groups)
    size = -(-(size or len(labels)) // batch) * batch
    names = np.unique(labels) if balanced else np.array([0])
    parts = []
    for number, name in enumerate(names):
        members = np.flatnonzero(labels == name) if balanced else np.arange(len(labels))
        # Shares differ by one at most, and by turns.
        share, extra = divmod(size, len(names))
        counts = [share + ((number + e) % len(names) < extra) for e in range(epoch + 1)]
        start, count = sum(counts[:-1]), counts[-1]
        parts.append(members[_rounds(len(members), start, count, seed, int(name) + 1000)])
    drawn = np.concatenate(parts)
    order = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(drawn))
    return list(drawn[order].reshape(-1, batch).astype(np.int64))


def _rounds(members: int, start: int, count: int, seed: int, group: int) -> NDArray[np.int64]:
    """Entries [start, start + count) of an endless sequence of shuffled rounds."""
    first, last = start // members, (start + count - 1) // members
    rounds = [
        np.random.default_rng([_ROUND, seed, group, number]).permutation(members)
        for number in range(first, last + 1)
    ]
    offset = start - first * members
    return np.concatenate(rounds)[offset : offset + count]
