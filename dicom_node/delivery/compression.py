"""Pictures compressed for a destination: JPEG baseline, JPEG 2000 lossless, JPEG-LS, RLE.

pydicom encodes JPEG-LS and RLE. It has no JPEG baseline encoder, and its JPEG 2000 encoder asks
for a package beside the codec itself, which is called here directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit

__all__ = ["compress"]

_JPEG_QUALITY = 95  # thin coloured lines and text have to stay readable
_JPEG_OPTIONS = [
    *(cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
]
Pixels = npt.NDArray[np.uint8]


def compress(dataset: Dataset, transfer_syntax_uid: UID) -> None:
    """Compress the uncompressed 8-bit pixels of `dataset` in place; its SOP Instance UID stays.

    Raises
    ------
    ValueError, RuntimeError, NotImplementedError
        The codec cannot hold these pixels, or fails.
    """
    if transfer_syntax_uid not in _FRAME_CODECS:
        dataset.compress(transfer_syntax_uid, generate_instance_uid=False)
        return
    if dataset.BitsAllocated != 8 or dataset.SamplesPerPixel not in (1, 3):
        raise ValueError("only 8-bit grey or RGB pictures are compressed here")
    colour = dataset.SamplesPerPixel == 3
    if colour and dataset.PhotometricInterpretation != "RGB":
        raise ValueError(f"no RGB but {dataset.PhotometricInterpretation}")
    pixels = np.asarray(dataset.pixel_array)  # [frames,] rows, columns[, RGB]; uint8
    shape = (-1, dataset.Rows, dataset.Columns, *((3,) if colour else ()))
    frame_codec, photometric = _FRAME_CODECS[transfer_syntax_uid]
    coded = [frame_codec(frame) for frame in pixels.reshape(shape)]
    dataset.PixelData = encapsulate(coded)
    dataset["PixelData"].VR = "OB"  # PS3.5 §A.4
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    if colour:
        dataset.PhotometricInterpretation = photometric
        dataset.PlanarConfiguration = 0
    if transfer_syntax_uid == JPEGBaseline8Bit:
        _declare_lossy(dataset, pixels.nbytes / sum(len(frame) for frame in coded))


def _jpeg(frame: Pixels) -> bytes:
    picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.ndim == 3 else frame
    done, coded = cv2.imencode(".jpg", picture, _JPEG_OPTIONS)
    if not done:
        raise ValueError("the JPEG encoder failed")
    return coded.tobytes()


def _jpeg_2000(frame: Pixels) -> bytes:
    # 1: RGB, 2: grey (openjpeg.utils.PhotometricInterpretation); the reversible colour
    # transform makes RGB of a grey picture a third smaller.
    colour = frame.ndim == 3
    return bytes(encode_array(frame, photometric_interpretation=1 if colour else 2, use_mct=colour))


def _declare_lossy(dataset: Dataset, ratio: float) -> None:
    """PS3.3 C.7.6.1.1.5."""
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{ratio:.2f}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"


# Transfer syntax -> codec of one frame, photometric interpretation of its colours (PS3.5 §8.2).
_FRAME_CODECS: Mapping[str, tuple[Callable[[Pixels], bytes], str]] = {
    JPEGBaseline8Bit: (_jpeg, "YBR_FULL_422"),
    JPEG2000Lossless: (_jpeg_2000, "YBR_RCT"),
}
