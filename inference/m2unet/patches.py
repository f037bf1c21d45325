"""Patches of slices, and the vote that puts them together again (numpy)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.m2unet.network import LOBE_LABELS, M2UNetParameters
from inference.windowing import WindowParameters, apply_window

__all__ = ["LobeVotes", "make_patch", "patch_corners"]


def patch_corners(size: int, parameters: M2UNetParameters) -> list[tuple[int, int]]:
    """Upper left corners of the patches that cover a crop, the last ones flush with its edge.

    Raises
    ------
    ValueError
        The crop is smaller than a patch.
    """
    last = size - parameters.patch_px
    if last < 0:
        raise ValueError(f"a crop of {size} px holds no patch of {parameters.patch_px} px")
    steps = [*range(0, last, parameters.stride_px), last]
    return [(top, left) for top in steps for left in steps]


def make_patch(
    crop: NDArray[np.generic],
    corner: tuple[int, int],
    height: float,
    parameters: M2UNetParameters,
    window: WindowParameters,
) -> NDArray[np.float32]:
    """One patch as the network takes it.

    Parameters
    ----------
    crop : ndarray, shape (S, S)
        HU of one slice, as displayed.
    corner : (int, int)
        Row and column; the patch lies within the crop.
    height : float
        Of the slice in the lungs: 0 at the apex, 1 at the base.

    Returns
    -------
    ndarray of float32, shape (1 or 4, patch_px, patch_px)
        Density in [0, 1]; column and row in the crop, and height in the lungs, in [-1, 1].
    """
    top, left = corner
    length, size = parameters.patch_px, crop.shape[0]
    cut = crop[top : top + length, left : left + length]
    density = apply_window(cut, window.centers_hu[0], window.width_hu)
    if not parameters.locations:
        return density[None]
    axis = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    x = np.broadcast_to(axis[None, left : left + length], cut.shape)
    y = np.broadcast_to(axis[top : top + length, None], cut.shape)
    z = np.full(cut.shape, 2.0 * height - 1.0, np.float32)
    return np.stack([density, x, y, z])


class LobeVotes:
    """Votes for the label of each pixel of one crop; a tie goes to the surer side.

    Parameters
    ----------
    size : int
        Rows and columns of the crop.
    """

    def __init__(self, size: int) -> None:
        self._votes = np.zeros((LOBE_LABELS, size, size), np.float32)
        self._sure = np.zeros((LOBE_LABELS, size, size), np.float32)

    def add(self, probabilities: NDArray[np.float32], corner: tuple[int, int]) -> None:
        """Count one patch.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (6, patch_px, patch_px)
        """
        top, left = corner
        rows, columns = probabilities.shape[1:]
        place = (slice(None), slice(top, top + rows), slice(left, left + columns))
        best = probabilities.argmax(axis=0)
        self._votes[place] += np.arange(LOBE_LABELS)[:, None, None] == best
        self._sure[place] += probabilities

    def result(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the majority and its mean probability, both of shape (size, size)."""
        mean = self._sure / np.maximum(self._votes.sum(axis=0), 1.0)
        # The mean probability is below one vote: it decides between equal numbers of votes only.
        best = (self._votes + 0.999 * mean).argmax(axis=0)
        certainty = np.take_along_axis(mean, best[None], axis=0)[0]
        return np.asarray(best, dtype=np.uint8), certainty
