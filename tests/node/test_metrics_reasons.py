"""Every reason that selection gives has its word: a new sentence has to be added to the table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dicom_node.metrics.reasons import OTHER, reason_word

ROOT = Path(__file__).resolve().parents[2]
# Where series are set aside, and the call or class that takes the sentence.
PLACES = {
    "dicom_node/selection/stack.py": {"SeriesSkipped", "SeriesRejected"},
    "dicom_node/selection/suitability.py": {"Unsuitable"},
    "dicom_node/selector.py": {"SeriesRejected", "SeriesSkipped", "skip"},
}


def sentences(path: str, names: set[str]) -> list[str]:
    """The text of each sentence in the source, what is filled in left out."""
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        texts = [
            "".join(
                part.value
                for part in ast.walk(argument)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
            for argument in node.args
            if isinstance(argument, ast.JoinedStr | ast.Constant | ast.BinOp)
        ]
        if called in names:
            found += [text for text in texts if len(text) > 3]
    return found


@pytest.mark.parametrize("path", PLACES)
def test_every_sentence_has_its_word(path: str) -> None:
    found = sentences(path, PLACES[path])
    assert len(found) >= 2
    assert {text for text in found if reason_word(text) == OTHER} == set()


def test_the_sentence_of_a_sister_has_its_word() -> None:
    text = "another series of the study was read: its kernel B70f suits the model better than B30f"
    assert reason_word(text) == "sister_better"
    assert reason_word("The images do not show two air-filled lungs.") == "not_a_chest"
    assert reason_word("something nobody thought of") == OTHER
