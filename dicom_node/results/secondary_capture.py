"""Put an RGB picture into a Secondary Capture dataset (PS3.3 A.8)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_node.results.codes import Concept
from dicom_node.results.colour import srgb_profile
from dicom_node.results.result_set import ResultSet
from inference.domain import SliceReference

__all__ = ["put_picture", "source_image_item"]


def put_picture(
    dataset: Dataset, rgb: NDArray[np.uint8], results: ResultSet, description: str
) -> None:
    """SC Equipment, General Image and Image Pixel modules (PS3.3 C.8.6.1, C.7.6.1, C.7.6.3).

    Parameters
    ----------
    rgb : ndarray of uint8, shape (rows, columns, 3)
    description : str
        Derivation Description, at most 1024 characters.
    """
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = description[:1024]
    dataset.BurnedInAnnotation = "YES"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.update(results.source.lossy)
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rgb.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.ICCProfile = srgb_profile()
    content = np.ascontiguousarray(rgb).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB"


def source_image_item(reference: SliceReference) -> Dataset:
    """Return an item of the Source Image Sequence (PS3.3 C.7.6.1.1.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reference.frame_number is not None:
        item.ReferencedFrameNumber = reference.frame_number
    item.PurposeOfReferenceCodeSequence = [Concept.SOURCE_IMAGE.item()]
    return item
