"""The drift panel: what counts as shifted, whatever it is compared with, and how fast it is."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node.console.drift import FEWEST, Comparison, by_chance, compare, stability_index
from dicom_node.console.drift_plot import drift_plot
from dicom_node.ledger import tables as t
from dicom_node.ledger.console_users import ConsoleRole
from dicom_node.ledger.readings import ReadingNumbers, Readings
from dicom_node.series_traits import SeriesTraits
from inference.errors import BundleError
from inference.reference import MEASURES, Reference, histogram, load_reference
from support.console_node import ConsoleNode, ServedConsole

MODEL = "a" * 64
DAY_S = 86400.0


def readings(
    count: int, *, kernel: str = "Br40d", mean: float = 0.3, seed: int = 0, maker: str = "SIEMENS"
) -> list[ReadingNumbers]:
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        covid = min(max(dice.gauss(mean, 0.1), 0.0), 1.0)
        rest = (1 - covid) / 3
        found.append(
            ReadingNumbers(
                finished_at=0.0,
                traits=SeriesTraits(
                    manufacturer=maker, model="X", kernel=kernel,
                    thickness_mm=dice.choice([1.0, 1.5]),
                ),
                model_sha256=MODEL,
                probabilities={"healthy": rest, "covid19": covid, "h1n1": rest, "cap": rest},
                lesion_probability=covid,
                lesion_percent=30 * covid,
            )
        )  # fmt: skip
    return found


def of(found: list[Comparison], key: str) -> Comparison:
    [one] = [item for item in found if item.key == key]
    return one


def test_the_same_population_is_like_before_however_few() -> None:
    shifted = 0
    for seed in range(40):
        found = compare(readings(40, seed=seed), readings(60, seed=1000 + seed))
        shifted += sum(item.verdict == "shifted" for item in found)
        assert {item.verdict for item in found} <= {"like before", "a little shifted", "shifted"}
    assert shifted <= 6  # of 360: one of a hundred by chance


def test_what_shifted_is_said_in_words() -> None:
    found = compare(readings(300, kernel="B70f", mean=0.6, seed=1), readings(300, seed=2))
    kernel = of(found, "kernel")
    assert (kernel.verdict, kernel.tone) == ("shifted", "bad")
    assert kernel.words in (
        "B70f: 100 % now, 0 % before", "Br40d: 0 % now, 100 % before",
    )  # fmt: skip
    assert of(found, "probability.covid19").verdict == "shifted"
    assert of(found, "lesion_percent").verdict == "shifted"
    assert of(found, "scanner").verdict == "like before"
    assert of(found, "thickness").verdict == "like before"


def test_too_few_say_nothing() -> None:
    found = compare(readings(FEWEST - 1, kernel="B70f"), readings(300))
    assert {(item.verdict, item.index) for item in found} == {("too few to say", None)}
    assert compare([], [])  # an empty ledger is no error
    assert all(drift_plot(item) is None for item in compare([], []))


def test_the_index_is_the_usual_one() -> None:
    # By hand, with half a series added to each of two bins.
    now, before = [30, 70], [50, 50]
    p, q = (30.5 / 101, 70.5 / 101), (50.5 / 101, 50.5 / 101)
    import math

    by_hand = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert stability_index(now, before) == pytest.approx(by_hand)
    # Chi squared with 9 degrees of freedom: 21.67 at 99 %.
    assert by_chance(10, 100, 100) == pytest.approx(21.67 / 50, rel=0.01)


def test_a_reference_takes_the_place_of_the_period_before() -> None:
    past = readings(500, mean=0.6, seed=3)
    measures = {
        key: histogram([item.probabilities["covid19"] for item in past], edges)
        for key, edges in MEASURES.items()
        if key == "probability.covid19"
    }
    reference = Reference(
        model_sha256=MODEL, description="phantoms", series=500, measures=measures,
        categories={"kernel": {"Br40d": 400, "B70f": 100}},
    )  # fmt: skip
    found = compare(readings(200, seed=4), readings(200, seed=5), reference)
    assert of(found, "probability.covid19").verdict == "shifted"  # from the reference
    assert of(found, "lesion_probability").verdict == "like before"  # no reference: from the past
    assert of(found, "kernel").count_before == 500


def test_a_drawing_holds_both_sides() -> None:
    found = of(
        compare(readings(200, mean=0.6, seed=6), readings(200, seed=7)), "lesion_probability"
    )
    plot = drift_plot(found)
    assert plot is not None
    assert len(plot.bars) == 10
    assert max(bar.now_height for bar in plot.bars) <= plot.height
    assert all(bar.x + 2 * bar.width <= plot.width for bar in plot.bars)
    assert (plot.first, plot.last) == ("0 to 0.1", "0.9 to 1")


# -- the reference of a bundle ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "model_sha256: Field required"),
        ('{"format_version": 2}', "format_version"),
        (
            json.dumps({"model_sha256": MODEL, "description": "d", "series": 1,
                        "measures": {"x": {"edges": [0, 1], "counts": [1, 2]}}}),
            "measures.x: Value error, edges: has to be one more",
        ),
    ],
)  # fmt: skip
def test_a_wrong_reference_is_refused_and_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(BundleError) as caught:
        load_reference(tmp_path)
    assert words in str(caught.value)


def test_no_reference_is_none(tmp_path: Path) -> None:
    assert load_reference(tmp_path) is None


# -- the page --------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ConsoleNode]:
    made = ConsoleNode(tmp_path, analysis={"bundle": str(tmp_path / "bundle")})
    (tmp_path / "bundle").mkdir()
    made.user("vera", ConsoleRole.VIEWER)
    yield made
    made.ledger.close()


def fill(node: ConsoleNode, count: int, *, finished_at: float, covid: float, first: int) -> None:
    """Put `count` readings into the ledger, all of them at once."""
    result = {
        "patient": {"probabilities": {"healthy": 1 - covid, "covid19": covid, "h1n1": 0, "cap": 0}},
        "lesion": {"percent_of_lung": 10.0, "probability": covid},
        "model": {"sha256": MODEL},
    }
    ids = range(first, first + count)
    common: dict[str, Any] = {"opened_at": 0.0, "last_arrival_at": 0.0, "instance_count": 1}
    with node.ledger.database.write() as connection:
        connection.execute(
            t.series.insert(),
            [
                {
                    "id": number, "series_instance_uid": f"2.25.{number}",
                    "study_instance_uid": "2.25", "accession_number": "", "patient_id": "",
                    "modality": "CT", "description": "", "source_ae": "CT1",
                    "first_arrival_at": 0.0, "last_arrival_at": 0.0,
                    "traits": {"manufacturer": "GE", "kernel": "STANDARD", "thickness_mm": 1.25},
                }
                for number in ids
            ],
        )  # fmt: skip
        connection.execute(
            t.revisions.insert(),
            [
                {"id": number, "series_id": number, "number": 1, "state": "selected", **common}
                for number in ids
            ],
        )
        connection.execute(
            t.analyses.insert(),
            [
                {
                    "id": number, "revision_id": number, "run": 1, "state": "done",
                    "ready_at": 0.0, "created_at": 0.0, "result": result,
                    "finished_at": finished_at + 0.01 * (number - first),
                }
                for number in ids
            ],
        )  # fmt: skip


def test_the_page_compares_periods_or_readings(node: ConsoleNode) -> None:
    fill(node, 100, finished_at=node.now - 45 * DAY_S, covid=0.15, first=1)
    fill(node, 100, finished_at=node.now - 2 * DAY_S, covid=0.85, first=1001)
    with ServedConsole(node) as served, served.log_in("vera") as viewer:
        page = viewer.get("/drift").text
        assert "100 readings of the last 30 days" in page
        assert "the 100 readings of the period before" in page
        card = page.split('id="drift-probability-covid19"')[1].split("</section>")[0]
        assert '<span class="badge bad">shifted</span>' in card
        assert "now, 0 % before" in card or "now, 100 % before" in card
        assert "<svg" in card
        same = page.split('id="drift-scanner"')[1].split("</section>")[0]
        assert '<span class="badge good">like before</span>' in same
        assert "style=" not in page
        by_number = viewer.get("/drift?period=n100").text
        assert "100 readings of the last 100 readings" in by_number
        assert "100 readings of the last 7 days" in viewer.get("/drift?period=d7").text
        assert viewer.get("/drift?period=x").status_code == 200
        # A reference of another model is not believed, a broken one is said.
        reference = Reference(model_sha256="b" * 64, description="d", series=1)
        path = node.directory / "bundle" / "reference.json"
        path.write_text(reference.model_dump_json())
        assert "not of the model that made these readings" in viewer.get("/drift").text
        path.write_text("{}")
        assert "reference.json: model_sha256" in viewer.get("/drift").text
        own = reference.model_copy(update={"model_sha256": MODEL, "description": "120 phantoms"})
        path.write_text(own.model_dump_json())
        assert "120 phantoms" in viewer.get("/drift").text


def test_a_long_history_costs_nothing(node: ConsoleNode) -> None:
    for block in range(10):
        fill(node, 2000, finished_at=node.now - 400 * DAY_S, covid=0.1, first=1 + 10_000 * block)
    fill(node, 1500, finished_at=node.now - DAY_S, covid=0.1, first=200_001)
    database = node.ledger.database
    with database.read() as connection:
        plan = connection.execute(
            sa.text(
                "EXPLAIN QUERY PLAN SELECT finished_at FROM analyses "
                "WHERE state || '' = 'done' AND finished_at >= 1 AND finished_at < 2 "
                "ORDER BY finished_at DESC LIMIT 1000"
            )
        ).all()
    assert "ix_analyses_finished_at" in str(plan)
    began = time.perf_counter()
    assert len(Readings(database).between(node.now - 30 * DAY_S, float("inf"))) == 1000
    assert Readings(database).between(node.now - 60 * DAY_S, node.now - 30 * DAY_S) == []
    assert len(Readings(database).newest(5000)) == 1000
    assert time.perf_counter() - began < 3.0
