"""Which SOP classes and transfer syntaxes are taken in, and which of them are kept."""

from __future__ import annotations

from functools import lru_cache

from pydicom import uid
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

__all__ = ["CT_STORAGE", "DECODABLE_TRANSFER_SYNTAXES", "other_storage"]

CT_STORAGE: frozenset[str] = frozenset(
    {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
)
"""What is kept and analysed."""

DECODABLE_TRANSFER_SYNTAXES: tuple[str, ...] = (
    # In our order of preference, where a sender lets us choose within one context: what needs no
    # decoder, then lossless, then lossy.
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.RLELossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.JPEGBaseline8Bit,
)
"""Not the deflated syntax: a megabyte of it can inflate to gigabytes."""


@lru_cache
def other_storage() -> frozenset[str]:
    """Return the storage SOP classes that are no CT: taken and thrown away, or refused."""
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    return frozenset(known - CT_STORAGE)
