"""Everything that can go wrong between a DICOM series and its findings.

::

    InferenceError
    ├── SeriesError                the series cannot be analysed; ``reason`` is for a radiologist
    │   ├── UndecodablePixels      a decoder refused, or the pixel data are short
    │   ├── InconsistentSeries     slices disagree (matrix, orientation, patient, rescale)
    │   ├── UnusableGeometry       not axial, no positions, positions repeat
    │   └── NotAChestCt            no two large air regions inside a body
    ├── BundleError                a model bundle is missing, altered or of another kind
    ├── DeviceError                the requested device or precision is not there
    ├── DecoderLost                decoders were killed from outside, or do not start: try again
    └── DiskFailed                 the disk does not give a file: try again
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of all errors of :mod:`inference`."""


class SeriesError(InferenceError):
    """The series cannot be analysed; trying again will not help.

    Parameters
    ----------
    reason : str
        One sentence for a radiologist; holds no patient identifier.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UndecodablePixels(SeriesError):
    """A decoder refused the pixel data, or there are too few of them."""


class InconsistentSeries(SeriesError):
    """The slices of one series disagree about something they must share."""


class UnusableGeometry(SeriesError):
    """The slices cannot be put in anatomical order."""


class NotAChestCt(SeriesError):
    """The volume does not show two air-filled lungs inside a body."""


class BundleError(InferenceError):
    """A model bundle is missing, altered, or does not fit this software."""


class DeviceError(InferenceError):
    """The requested device or precision is not available on this machine."""


class DiskFailed(InferenceError):
    """The disk (or the network to it) did not give a file, which may be good."""


class DecoderLost(InferenceError):
    """No decoder lived long enough to judge a file, through no fault of the file."""
