"""Every malformed file ends as malformed.json says, at the listener and at the command line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from support.dispositions import KEPT, fates, summary


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_malformed_file_ends_as_it_is_written_down(
    tmp_path: Path, small_bundle: Path, real_data: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about the files
        found = fates(real_data / "malformed", tmp_path, small_bundle)
    expected = json.loads(KEPT.read_text())
    assert found.keys() == expected.keys()
    changed = {name: found[name] for name in found if found[name] != expected[name]}
    assert not changed


def test_what_is_written_down_leaves_nothing_open() -> None:
    expected = json.loads(KEPT.read_text())
    assert len(expected) > 200
    for name, fate in expected.items():
        assert set(fate) == {"own class", "as CT", "analyze"}
        for door, words in fate.items():
            assert words, (name, door)
            assert "CRASH" not in words, (name, door)
    # A refusal has its status and its reason; nothing is answered by an error of our own.
    sent = [fate[door] for fate in expected.values() for door in ("own class", "as CT")]
    assert {words.split()[0] for words in sent} <= {
        "0x0000", "0xA900", "0xC000", "0x0122", "presentation", "not",
    }  # fmt: skip
    assert all(len(words.split()) > 1 for words in sent)
    # No single file of the corpus is a chest CT: each is set aside with its reason.
    assert {fate["analyze"][:7] for fate in expected.values()} == {"exit 1,"}
    assert summary(expected).count("\n") > 10
