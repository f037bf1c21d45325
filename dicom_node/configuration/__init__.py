"""The configuration document as something that people change: atomically, with its history.

How it is read stands in :mod:`dicom_node.settings`; here is how it is replaced, which versions
there were, in what two of them differ, and what of it nobody has to see.
"""

from __future__ import annotations

from dicom_node.configuration.difference import Difference, DifferenceLine, difference
from dicom_node.configuration.document import ConfigurationDocument
from dicom_node.configuration.history import Change, History, Version
from dicom_node.configuration.masking import masked

__all__ = [
    "Change",
    "ConfigurationDocument",
    "Difference",
    "DifferenceLine",
    "History",
    "Version",
    "difference",
    "masked",
]
