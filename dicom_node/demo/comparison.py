"""What came back against what was sent, object by object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGBaseline8Bit

from dicom_node.demo.following import SentObject

__all__ = ["Comparison", "compare"]

# What a change of transfer syntax may touch (PS3.3 C.7.6.3, C.7.6.1.1.5); pixels are compared
# by value then.
_OF_THE_ENCODING = {
    "PixelData",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
}
_LOSSY = {JPEGBaseline8Bit}
_LARGEST_LOSSY_DIFFERENCE = 16.0  # of 255, on average: beyond that it is another picture


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one sent object came back.

    Attributes
    ----------
    sent : SentObject
    path : Path or None
        The returned file, None if it did not come back.
    differences : tuple of str
        Empty when it is what was sent.
    """

    sent: SentObject
    path: Path | None
    differences: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it came back as it was sent."""
        return self.path is not None and not self.differences


def compare(
    sent: Iterable[SentObject], results_dir: Path, returned: Mapping[str, Path]
) -> list[Comparison]:
    """Compare every sent object with its returned file.

    Parameters
    ----------
    results_dir : Path
        Where the node keeps what it sent.
    returned : mapping of str to Path
        Fetched files by SOP Instance UID.
    """
    comparisons = []
    for item in sent:
        path = returned.get(item.sop_instance_uid)
        if path is None:
            comparisons.append(Comparison(item, None, ("it did not come back",)))
            continue
        differences = _differences(dcmread(results_dir / item.path), dcmread(path))
        comparisons.append(Comparison(item, path, tuple(differences)))
    return comparisons


def _differences(ours: FileDataset, theirs: FileDataset) -> list[str]:
    """Say in words what differs; data elements are named, never quoted."""
    same_encoding = (
        ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
        or "PixelData" not in ours
    )
    passed_over = set() if same_encoding else _OF_THE_ENCODING
    words = [
        f"{_name(ours, theirs, tag)} differs"
        for tag in sorted({*ours.keys(), *theirs.keys()})
        if _name(ours, theirs, tag) not in passed_over and _value(ours, tag) != _value(theirs, tag)
    ]
    if not same_encoding and not _same_picture(ours, theirs):
        words.append("the pixels differ")
    return words


def _name(ours: Dataset, theirs: Dataset, tag: int) -> str:
    element = ours.get(tag) or theirs[tag]
    return element.keyword or str(element.tag)


def _value(dataset: Dataset, tag: int) -> object:
    return dataset[tag].value if tag in dataset else None


def _same_picture(ours: FileDataset, theirs: FileDataset) -> bool:
    first, second = pixel_array(ours), pixel_array(theirs)
    if first.shape != second.shape:
        return False
    if theirs.file_meta.TransferSyntaxUID in _LOSSY:
        difference = np.abs(first.astype(np.int16) - second.astype(np.int16))
        return float(difference.mean()) < _LARGEST_LOSSY_DIFFERENCE
    return bool(np.array_equal(first, second))
