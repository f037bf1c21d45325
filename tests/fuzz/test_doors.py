"""Every door for strangers' bytes, some thousand times each from a fixed seed.

``scripts/fuzz DOOR --seconds N`` goes on from here for as long as there is time.
"""

from __future__ import annotations

from itertools import islice

import pytest

from support.fuzz_properties import select_property, to_hu_property
from support.fuzz_targets import TARGETS
from support.mutation import mutants

# Enough to have found every fault that longer runs found so far, in seconds.
RUNS = {
    "header": 4000,
    "file": 500,
    "association": 4000,
    "command": 20000,
    "connection": 1500,
    "requests": 1500,
    "pixels": 40,
}


@pytest.mark.parametrize("door", RUNS)
@pytest.mark.filterwarnings("ignore")  # pydicom's on each odd value
def test_no_bytes_break_a_promise(door: str) -> None:
    target = TARGETS[door]
    for number, data in enumerate(islice(mutants(target.seeds(), seed=1), RUNS[door])):
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"input {number} of seed 1: {data[:400]!r}")
            raise


def test_any_headers_give_a_stack_or_a_reason() -> None:
    select_property()


def test_any_stored_values_give_hounsfield_units() -> None:
    to_hu_property()


def test_mutants_are_the_same_for_the_same_seed() -> None:
    seeds = [bytes(range(200)), b"DICM" * 40]
    first, again, other = (list(islice(mutants(seeds, seed), 300)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) > 250
