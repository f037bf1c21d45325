"""Why a series is not analysed, as one of a few words.

The reasons themselves are sentences for radiologists, with numbers and attribute values in them:
no label of a metric. A test has selection say each of them, and fails when one is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REASONS", "reason_word"]

# The first that occurs in the sentence counts.
REASONS: Mapping[str, str] = {
    "(rule ": "by_rule",  # its own words may be any
    "were made by this node": "own_output",
    "removed by retention": "removed_by_retention",
    "another series of this study has been analysed": "sister_read",
    "another series of the study was read": "sister_better",
    "slices and": "too_small",  # "at least 20 slices and 150 mm are needed"
    "dose report": "dose_report",
    "screen captures": "not_ct_images",
    "are not CT images": "not_ct_images",
    "have the modality": "not_ct_images",
    "of modality": "not_ct_images",
    "hold no pixel data": "no_pixel_data",
    "localizer": "localizer",
    "spectral or functional map": "functional_map",
    "projection": "reformat",
    "reformat": "reformat",
    "secondary images": "derived",
    "derived images": "derived",
    "oblique": "not_axial",
    "position": "no_geometry",
    "orientation": "no_geometry",
    "holds no images": "no_images",
    "several patients": "mixed",
    "several studies": "mixed",
    "several series": "mixed",
    "stand for several images": "mixed",
    "Instance UID": "illegal_uid",
    "air-filled": "not_a_chest",
}
OTHER = "other"


def reason_word(sentence: str) -> str:
    """Return the word for a sentence, ``other`` where none is known."""
    return next((word for part, word in REASONS.items() if part in sentence), OTHER)
