"""Loss of the location map on slices whose lesions have been drawn.

The paper learns places from category labels alone. Where masks are at hand (the phantom's truth, or
a site's own drawings) they say more per slice than any label; this loss lets the map use them
without touching the network or the other two losses.

It ranks instead of calling: a place in a lesion is to score above a place without, in whatever
slice. Calling each place would fight with the two-way head, whose score of a slice is the mean of
the scores of its places: a slice with one small lesion has to be called although nearly all of its
places have none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["location_loss"]

_LEAST_SHARE = 0.05
_EPSILON = 1e-6  # logits beyond +-13.8 no longer matter


def location_loss(location: Tensor, share: Tensor) -> Tensor:
    """Logistic loss over pairs of places with and without lesion.

    Parameters
    ----------
    location : Tensor, shape (B, 1, h, w)
        Location map in [0, 1], of mode "lesion".
    share : Tensor, shape (B, h, w)
        True lesion at each place, in [0, 1]; -1 where not known.

    Returns
    -------
    Tensor, shape ()
        Every slice with lesion counts the same, whatever the size of its lesion. Places in a
        lesion: those with at least half of the slice's largest share. Places without: share 0.
        The rest, at the rim, is left out. 0 where there is no pair.
    """
    score = torch.logit(location[:, 0].float(), eps=_EPSILON)  # (B, h, w)
    largest = share.amax(dim=(1, 2), keepdim=True)
    inside = (share >= largest / 2) & (share > _LEAST_SHARE)
    outside = share == 0
    if not bool(inside.any()) or not bool(outside.any()):
        return score.sum() * 0
    weight = (inside / inside.sum(dim=(1, 2), keepdim=True).clamp(min=1))[inside]  # (P,)
    pairs = functional.softplus(score[outside][None] - score[inside][:, None])  # (P, N)
    return (pairs.mean(dim=1) * weight).sum() / weight.sum()
