"""Which presentation contexts are proposed for an object: SOP class x transfer syntax.

Every transfer syntax gets a context of its own, so that the peer's answer says which of them it
takes; a context with several lets the acceptor pick one and tells nothing about the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.delivery.upper_layer import Context
from dicom_node.domain import ObjectKind
from dicom_node.errors import PermanentDelivery

__all__ = ["SOP_CLASSES", "Compression", "contexts", "transfer_syntaxes"]

Compression = Literal["none", "lossless", "jpeg"]

_UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
# In the order of preference. RGB overlays of 300 slices, 236 MB raw: JPEG-LS 117 MB in 4.1 s,
# RLE 234 MB in 2.7 s, so RLE comes last.
_LOSSLESS = (str(JPEGLSLossless), str(JPEG2000Lossless), str(RLELossless))
_COMPRESSED: Mapping[Compression, tuple[str, ...]] = {
    "none": (),
    "lossless": _LOSSLESS,
    "jpeg": (str(JPEGBaseline8Bit), *_LOSSLESS),
}
# Only colour pictures are compressed here: a BINARY SEG is one bit per pixel, which these codecs
# do not take, and a lossy measurement map would be another measurement.
_PICTURES = {
    str(SecondaryCaptureImageStorage),
    str(MultiFrameTrueColorSecondaryCaptureImageStorage),
}
# What each output is sent as, the preferred SOP class first.
SOP_CLASSES: Mapping[ObjectKind, tuple[str, ...]] = {
    ObjectKind.REPORT: (
        str(Comprehensive3DSRStorage),
        str(ComprehensiveSRStorage),
        str(EnhancedSRStorage),
    ),
    ObjectKind.OVERLAY: (str(SecondaryCaptureImageStorage),),
    ObjectKind.SUMMARY: (str(SecondaryCaptureImageStorage),),
    ObjectKind.SEGMENTATION: (str(SegmentationStorage),),
    ObjectKind.KEY_OBJECTS: (str(KeyObjectSelectionDocumentStorage),),
}

_LARGEST_PROPOSAL = 128  # PS3.8 §9.3.2.2: context IDs are the odd numbers of 1 to 255


def transfer_syntaxes(sop_class_uid: str, stored: str, compress: Compression) -> tuple[str, ...]:
    """Return the transfer syntaxes to propose for an object, the preferred one first.

    Parameters
    ----------
    stored : str
        Transfer syntax UID of the stored file, which needs no transcoding.
    compress : {"none", "lossless", "jpeg"}
        The peer's wish (:class:`dicom_node.settings.Peer`).
    """
    is_compressed = stored not in _UNCOMPRESSED
    if sop_class_uid not in _PICTURES:
        order: tuple[str, ...] = (stored, *_UNCOMPRESSED)
    elif is_compressed and compress == "none":
        order = (*_UNCOMPRESSED, stored)
    elif is_compressed:  # never compressed a second time by choice
        order = (stored, *_COMPRESSED["lossless"], *_UNCOMPRESSED)
    else:
        order = (*_COMPRESSED[compress], stored, *_UNCOMPRESSED)
    return tuple(dict.fromkeys(order))


def contexts(objects: Iterable[tuple[str, str]], compress: Compression) -> list[Context]:
    """Return exactly the contexts that `objects` need, without repetition.

    Parameters
    ----------
    objects : iterable of (str, str)
        SOP class UID and stored transfer syntax UID of each.

    Raises
    ------
    PermanentDelivery
        More than 128: no association can propose them.
    """
    found = [
        (sop_class_uid, syntax)
        for sop_class_uid, stored in dict.fromkeys(objects)
        for syntax in transfer_syntaxes(sop_class_uid, stored, compress)
    ]
    found = list(dict.fromkeys(found))
    if len(found) > _LARGEST_PROPOSAL:
        raise PermanentDelivery(f"{len(found)} presentation contexts in one shipment (at most 128)")
    return found
