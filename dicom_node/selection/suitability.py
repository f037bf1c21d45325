"""Rules for one image: why it cannot be part of a stack that is analysed.

Original, primary, axial CT only: that keeps reformats, maps and the node's own results out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.uid import UID

from dicom_node.header import InstanceHeader
from dicom_node.slice_geometry import Orientation, Vector, is_axial, slice_normal

__all__ = [
    "CT_SOP_CLASSES",
    "MULTI_FRAME_SOP_CLASSES",
    "Unsuitable",
    "geometry_defect",
    "image_type_defect",
    "object_defect",
]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.2"
MULTI_FRAME_SOP_CLASSES = frozenset({ENHANCED_CT_IMAGE, LEGACY_CONVERTED_ENHANCED_CT_IMAGE})
CT_SOP_CLASSES = MULTI_FRAME_SOP_CLASSES | {CT_IMAGE}

_DOSE_REPORTS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.88.67",  # X-Ray Radiation Dose SR
        "1.2.840.10008.5.1.4.1.1.88.76",  # Enhanced X-Ray Radiation Dose SR
    }
)
_CAPTURES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.7(\.[1-4])?")

# Lossy compression makes an image DERIVED although it shows the same (PS3.3 C.7.6.1.1.5).
_LOSSY = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG Baseline
        "1.2.840.10008.1.2.4.51",  # JPEG Extended
        "1.2.840.10008.1.2.4.53",
        "1.2.840.10008.1.2.4.55",
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.4.203",  # HTJ2K
    }
)

_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"})
_REFORMAT = re.compile(
    r"MPR|REFORMAT(TED)?|MIP|MINIP|MIN[ _]IP|MAX[ _]IP|MEAN[ _]IP|PROJECTION IMAGE"
    r"|VOLUME[ _]RENDER(ED|ING)?|VRT|CPR|CSA (MPR|MIP|RESAMPLED|PARALLEL)|SCREEN SAVE"
)
# Values of ImageType that name a spectral or functional map (also PS3.3 C.8.15.3.8 ff.).
_MAP_TYPE = re.compile(
    r"(.*[ _])?(IODINE|MONO\w*|VNC|VMI|ZEFF|Z[ _]?EFF\w*|ELECTRON[ _]DENSITY|VIRTUAL\w*|WATER"
    r"|CALCIUM|PERFUSION|MATERIAL\w*|BLOOD[ _]VOLUME|MTT|TTP|CBF|CBV)([ _].*)?"
)
_MAP_DESCRIPTION = re.compile(
    r"\b(iodine|vnc|vmi|mono[ -]?(e|energetic|chromatic|\+)?(?=[ _\d+]|$)"
    r"|monoenergetic|virtual (non|unenh|mono)\w*|z[ -]?eff(ective)?"
    r"|electron density|\d+ ?kev|calcium supp\w*|water ?\(iodine\)|perfusion|pbv"
    r"|lung vessels)\b",
    re.IGNORECASE,
)
_PROJECTION_DESCRIPTION = re.compile(r"\b(mip|minip|vrt)\b", re.IGNORECASE)


_FARTHEST_MM = 100_000.0  # from the origin of the patient's frame of reference: no scanner's table


@dataclass(frozen=True, slots=True, order=True)
class Unsuitable:
    """Why an image is not analysed.

    Attributes
    ----------
    reason : str
        Continues "the images …", for a radiologist.
    broken : bool
        True where the image is damaged or incomplete rather than not meant to be analysed.
    """

    reason: str
    broken: bool = False


def object_defect(header: InstanceHeader) -> Unsuitable | None:
    """Judge what kind of object an instance is; None if it may be a CT slice or stack."""
    if header.from_this_node:
        return Unsuitable("were made by this node, which never analyses its own results")
    if header.sop_class_uid in _DOSE_REPORTS:
        return Unsuitable("are a dose report")
    if header.sop_class_uid not in CT_SOP_CLASSES:
        dose = re.search(r"\bdos[ei]", header.series_description, re.IGNORECASE)
        if _CAPTURES.fullmatch(header.sop_class_uid):
            kind = "a dose report" if dose else "not CT slices"
            return Unsuitable(f"are screen captures, {kind}")
        return Unsuitable(f"are not CT images but {_class_name(header.sop_class_uid)}")
    # CT images without Modality occur; the SOP class says enough.
    if header.modality not in {"CT", ""}:
        return Unsuitable(f"have the modality {header.modality}, not CT")
    if not header.has_pixel_data:
        return Unsuitable("hold no pixel data", broken=True)
    return _description_defect(header.series_description)


def _class_name(sop_class_uid: str) -> str:
    name = UID(sop_class_uid).name
    return f"objects of the class {sop_class_uid}" if name == sop_class_uid else name


def _description_defect(description: str) -> Unsuitable | None:
    plain = description.replace("_", " ")
    if _MAP_DESCRIPTION.search(plain):
        return Unsuitable("are a spectral or functional map by their series description")
    if _PROJECTION_DESCRIPTION.search(plain):
        return Unsuitable("are a projection (MIP) by their series description")
    return None


def image_type_defect(image_type: tuple[str, ...], transfer_syntax_uid: str) -> Unsuitable | None:
    """Judge ImageType or FrameType (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1).

    An image without ImageType passes.
    """
    values = tuple(value.strip().upper() for value in image_type)
    flavours = values[2:]
    if _LOCALIZER.intersection(flavours):
        return Unsuitable("are a localizer (scout view)")
    written = "\\".join(values[:4])
    if any(_MAP_TYPE.fullmatch(value) for value in flavours):
        return Unsuitable(f"are a spectral or functional map (ImageType {written})")
    if any(_REFORMAT.fullmatch(value) for value in flavours):
        return Unsuitable(f"are a reformat or projection (ImageType {written})")
    if values[1:2] == ("SECONDARY",):
        return Unsuitable(f"are secondary images (ImageType {written}); only primary ones are read")
    if values[:1] == ("DERIVED",) and transfer_syntax_uid not in _LOSSY:
        return Unsuitable(f"are derived images (ImageType {written}); only original ones are read")
    return None


def geometry_defect(position: Vector | None, orientation: Orientation | None) -> Unsuitable | None:
    """Judge where a slice lies; None for an axial slice with a position."""
    if position is None or orientation is None:
        return Unsuitable("have no position or orientation in the patient", broken=True)
    if not all(abs(value) <= _FARTHEST_MM for value in position):  # NaN, too
        return Unsuitable("have an impossible position", broken=True)
    normal = slice_normal(orientation)
    if normal is None:
        return Unsuitable("have an orientation that is not a plane", broken=True)
    if is_axial(normal):
        return None
    if abs(normal[1]) >= 0.9:
        return Unsuitable("are a coronal reformat; axial slices are needed")
    if abs(normal[0]) >= 0.9:
        return Unsuitable("are a sagittal reformat; axial slices are needed")
    return Unsuitable("are oblique; axial slices are needed")
