"""Whether a series is analysed, which of its slices, and which series of a study.

Pure functions of headers: no pixels, no ledger. The anatomy check on pixels comes later, in the
worker. Why something is not analysed is one sentence that a radiologist understands.
"""

from __future__ import annotations

from dicom_node.selection.frames import FrameGeometry, FrameReader, read_frames
from dicom_node.selection.rules import Judgement, Miss, judge_by_rules
from dicom_node.selection.series_choice import (
    Candidate,
    KernelClass,
    choose_series,
    kernel_class,
)
from dicom_node.selection.stack import LeftOut, SelectedStack, select_stack

__all__ = [
    "Candidate",
    "FrameGeometry",
    "FrameReader",
    "Judgement",
    "KernelClass",
    "LeftOut",
    "Miss",
    "SelectedStack",
    "choose_series",
    "judge_by_rules",
    "kernel_class",
    "read_frames",
    "select_stack",
]
