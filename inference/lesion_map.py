"""Lesion location maps (paper III-B.2): from ResBlock3 features to the source pixel grid.

The rows of the lesion head's weights are the prototypes of "without" and "with lesion".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inference.domain import BoundingBox

__all__ = ["LocationMode", "location_map", "to_source_grid"]

LocationMode = Literal["lesion", "predicted"]


def location_map(feature: Tensor, weight: Tensor, bias: Tensor, mode: LocationMode) -> Tensor:
    """Location map of a batch of ResBlock3 features.

    Parameters
    ----------
    feature : Tensor, shape (B, D, H, W)
    weight : Tensor, shape (2, D)
        Prototypes: without, with lesion.
    bias : Tensor, shape (2,)
    mode : "lesion" or "predicted"
        ``lesion``: softmax over the two prototype scores of each location, so that healthy
        slices stay dark **(decided)**. ``predicted`` (paper): cosine similarity of each location
        to the prototype of the class predicted for the slice, from [-1, 1] to [0, 1]; a slice
        without lesion lights up nearly everywhere (the paper's footnote 4).

    Returns
    -------
    Tensor, shape (B, 1, H, W)
        In [0, 1], on a fixed scale: never stretched per slice.
    """
    if mode == "lesion":
        # softmax over two scores is the sigmoid of their difference: one 1x1 convolution
        difference = (weight[1] - weight[0])[None, :, None, None]  # (1, D, 1, 1)
        return torch.sigmoid(functional.conv2d(feature, difference, (bias[1] - bias[0])[None]))
    logits = functional.linear(feature.mean(dim=(2, 3)), weight, bias)  # (B, 2)
    prototype = weight[logits.argmax(dim=1)]  # (B, D)
    similarity = functional.cosine_similarity(feature, prototype[:, :, None, None], dim=1)
    return ((similarity + 1) / 2).clamp(0, 1)[:, None]  # (B, 1, H, W)


def to_source_grid(
    maps: NDArray[np.float32], boxes: Sequence[BoundingBox], out: Sequence[NDArray[np.float16]]
) -> None:
    """Put location maps back on the slices they came from.

    Parameters
    ----------
    maps : ndarray of float32, shape (slices, h, w)
        In [0, 1]; each covers its crop box.
    boxes : sequence of BoundingBox, length ``slices``
        In source pixels.
    out : sequence of ndarray of float16, each of shape (rows, columns)
        The slices' planes; written inside the boxes, bilinear; left alone outside.
    """
    for plane, box, target in zip(maps, boxes, out, strict=True):
        scaled = cv2.resize(plane, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        target[box.top : box.bottom, box.left : box.right] = np.clip(scaled, 0.0, 1.0)
