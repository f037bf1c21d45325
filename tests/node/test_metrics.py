"""Metrics: counters that are exact and never go back, ages, and nothing of any patient."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.completion import ClosingReason
from dicom_node.ledger import Ledger, Tally, open_ledger, tables
from dicom_node.ledger.shipments import BreakerRow
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.metrics import MetricsApp, Totals, health
from dicom_node.metrics.disk import disk_use
from dicom_node.metrics.reading import Reader
from dicom_node.pulse import Pulse
from dicom_node.settings import NodeSettings, Peer
from support.ledger_life import CANARIES, Clock, LedgerLife

Samples = Callable[[], dict[str, dict[tuple[str, ...], float]]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    with open_ledger(url, clock=clock) as opened:
        yield opened


@pytest.fixture
def life(ledger: Ledger) -> LedgerLife:
    return LedgerLife(ledger)


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(
        state_dir=tmp_path / "state",
        metrics={"cache_s": 0.0},
        peers=(Peer(name="pacs", ae_title="PACS"), Peer(name="viewer", ae_title="VIEWER")),
    )


@pytest.fixture
def app(settings: NodeSettings, ledger: Ledger) -> MetricsApp:
    return MetricsApp(lambda: settings, ledger)


def exposed(app: MetricsApp) -> str:
    answer = app.answer("/metrics")
    assert answer.status == 200
    return answer.body.decode()


def samples(app: MetricsApp) -> dict[str, dict[tuple[str, ...], float]]:
    """Name → values of its labels → value."""
    app._reader._good_until = 0.0
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(exposed(app)):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def counters(app: MetricsApp) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (name, labels): value
        for name, values in samples(app).items()
        if name.endswith(("_total", "_count", "_sum", "_bucket"))
        for labels, value in values.items()
    }


def test_an_empty_node_shows_every_family_from_the_start(app: MetricsApp) -> None:
    found = samples(app)
    assert found["m3lung_ledger_up"] == {(): 1}
    assert found["m3lung_images_received_total"] == {(): 0}
    assert found["m3lung_series_completed_total"] == {(r.value,): 0 for r in ClosingReason}
    assert found["m3lung_breaker_state"]["pacs", "closed"] == 1
    assert found["m3lung_breaker_state"]["viewer", "open"] == 0
    assert found["m3lung_processes"] == {
        ("deliver",): 0, ("listen",): 0, ("reconcile",): 0, ("work",): 0
    }  # fmt: skip
    assert found["m3lung_oldest_ready_seconds"] == {("analysis",): 0, ("delivery",): 0}
    assert found["m3lung_delivery_seconds_bucket"]["pacs", "+Inf"] == 0
    assert found["m3lung_disk_free_bytes"][()] > 0


def a_day(life: LedgerLife) -> None:
    """One of everything."""
    first = life.receive(4)
    life.complete(ClosingReason.COUNT_MATCHES_SOURCE)
    life.conflict(first)  # late, and in conflict
    life.complete(ClosingReason.MAXIMUM_WAIT)
    life.set_aside("the images are a localizer (scout view)", skipped=True)
    life.set_aside("the images of the series belong to several patients", skipped=False)
    life.rejected_by_pixels()
    life.failed(2, most=2)
    life.analysed("pacs", "viewer", after_s=42.0)
    life.ledger.database.clock.now += 7.0  # type: ignore[attr-defined]
    life.deliver(DeliveryEvent.ACCEPTED, DeliveryEvent.PERMANENT)
    life.deliver(DeliveryEvent.ACCEPTED, DeliveryEvent.ACCEPTED)


def test_what_happened_is_counted(app: MetricsApp, life: LedgerLife) -> None:
    a_day(life)
    found = samples(app)
    received = 4 + 1 + 5 * 3
    assert found["m3lung_images_received_total"] == {(): received}
    assert found["m3lung_received_bytes_total"] == {(): 1000 * received}
    assert found["m3lung_series_completed_total"] == {
        ("count_matches_source",): 1,
        ("released_and_gap_free",): 0,
        ("quiet_period",): 5,
        ("maximum_wait",): 1,
    }
    assert found["m3lung_series_set_aside_total"] == {
        ("skipped", "localizer"): 1,
        ("rejected", "mixed"): 1,
    }
    assert found["m3lung_late_slices_total"] == {(): 1}
    assert found["m3lung_conflicts_total"] == {(): 1}
    assert found["m3lung_analyses_total"] == {
        ("done",): 1, ("skipped",): 0, ("rejected",): 1, ("quarantined",): 1
    }  # fmt: skip
    assert found["m3lung_analysis_failures_total"] == {
        ("UndecodablePixels",): 1, ("RuntimeError",): 2
    }  # fmt: skip
    assert found["m3lung_analysis_seconds_bucket"]["30",] == 0
    assert found["m3lung_analysis_seconds_bucket"]["60",] == 1
    assert found["m3lung_analysis_seconds_sum"] == {(): 42.0}
    assert found["m3lung_analysis_seconds_count"] == {(): 1}
    assert found["m3lung_delivery_seconds_sum"] == {("pacs",): 7.0, ("viewer",): 7.0}
    assert sum(found["m3lung_objects_unproven"].values()) == 1
    assert found["m3lung_analyses_open"]["quarantined",] == 1
    assert found["m3lung_last_image_timestamp_seconds"][()] > 1.6e9


def test_folding_changes_no_counter(
    app: MetricsApp, life: LedgerLife, ledger: Ledger, clock: Clock
) -> None:
    a_day(life)
    before = counters(app)
    totals = Totals(ledger)
    assert totals.fold() == 0  # too young
    clock.now += 100.0
    assert totals.fold() > 10
    assert totals.fold() == 0
    assert counters(app) == before
    a_day(life)
    doubled = counters(app)
    assert {key: 2 * value for key, value in before.items()} == doubled


def test_a_fold_that_was_overtaken_counts_nothing_twice(
    app: MetricsApp, life: LedgerLife, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_day(life)
    clock.now += 100.0
    before = counters(app)
    from dicom_node.metrics import totals as module

    second = Totals(ledger)
    original = module.add_counts

    def overtaken(*given: Any) -> None:
        raise AssertionError("the bookmark was moved by somebody else")

    write = ledger.database.write

    def write_after_another() -> Any:
        monkeypatch.setattr(ledger.database, "write", write)
        assert Totals(ledger).fold() > 0
        monkeypatch.setattr(module, "add_counts", overtaken)
        return write()

    monkeypatch.setattr(ledger.database, "write", write_after_another)
    assert second.fold() == 0
    monkeypatch.setattr(module, "add_counts", original)
    assert counters(app) == before


def test_counters_never_go_back(
    app: MetricsApp, life: LedgerLife, ledger: Ledger, clock: Clock
) -> None:
    dice = random.Random(5)
    last: dict[tuple[str, tuple[str, ...]], float] = {}
    acts: list[Callable[[], object]] = [
        lambda: life.set_aside("the images are a localizer (scout view)", skipped=True),
        lambda: life.failed(1, most=1),
        lambda: life.analysed("pacs", after_s=dice.uniform(1, 900)),
        lambda: Totals(ledger).fold(dice.randint(1, 10)),
    ]
    for _ in range(25):
        dice.choice(acts)()
        # The clock is set, back too: nothing is lost of what is counted.
        clock.now += dice.choice([0.0, 30.0, 90.0, -200.0])
        now = counters(app)
        assert all(now[key] >= value for key, value in last.items())
        last = now
    with ledger.database.read() as connection:
        images = connection.scalar(sa.select(sa.func.count()).select_from(tables.instances))
    assert last["m3lung_images_received_total", ()] == images


def test_ages_tell_what_nobody_takes(
    app: MetricsApp, life: LedgerLife, ledger: Ledger, clock: Clock
) -> None:
    life.analysed("pacs")
    life.selected()
    life.receive()
    ledger.shipments.set_breaker(BreakerRow("pacs", "open", 4, clock.now + 60, "refused"))
    clock.now += 120.0
    found = samples(app)
    assert found["m3lung_ready"] == {("analysis",): 1, ("delivery",): 1}
    assert found["m3lung_oldest_ready_seconds"] == {("analysis",): 120, ("delivery",): 120}
    assert found["m3lung_series_open"] == {("receiving",): 1, ("complete",): 0}
    assert found["m3lung_series_open_oldest_seconds"]["receiving",] == 120
    assert found["m3lung_delivery_waiting"] == {("pacs",): 1, ("viewer",): 0}
    assert found["m3lung_delivery_oldest_seconds"]["pacs",] == 120
    assert found["m3lung_breaker_state"]["pacs", "open"] == 1
    assert found["m3lung_breaker_failures"]["pacs",] == 4


def test_what_processes_count_is_summed(
    app: MetricsApp, ledger: Ledger, life: LedgerLife, clock: Clock
) -> None:
    one, other = Pulse(ledger, "listen"), Tally()
    one.tally.count("associations_refused", "unknown_caller", by=3)
    one.tally.count("c_store", "stored", "0x0000")
    one.tally.count("stow", "refused", "0xA700")
    one.tally.count("stow_requests", "503")
    one.turn()
    one.beat()
    one.beat()  # hands nothing over twice
    other.count("associations_refused", "unknown_caller")
    ledger.tallies.add(other.take())
    found = samples(app)
    assert found["m3lung_associations_refused_total"] == {("unknown_caller",): 4}
    assert found["m3lung_c_store_responses_total"] == {("stored", "0x0000"): 1}
    assert found["m3lung_stow_responses_total"] == {("refused", "0xA700"): 1}
    assert found["m3lung_stow_requests_total"] == {("503",): 1}
    assert found["m3lung_processes"]["listen",] == 1
    assert found["m3lung_loop_age_seconds"]["listen",] < 60
    clock.now += 60.0
    assert samples(app)["m3lung_processes"]["listen",] == 0


def test_what_the_ledger_did_not_take_is_handed_over_later(
    app: MetricsApp, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse = Pulse(ledger, "deliver")
    pulse.tally.count("deliveries", "pacs", "accepted", by=7)

    def locked(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("statement", {}, Exception("locked"))

    with monkeypatch.context() as patch:
        patch.setattr(ledger.presence, "beat", locked)
        pulse.beat()
    assert samples(app)["m3lung_deliveries_total"]["pacs", "accepted"] == 0
    pulse.beat()
    assert samples(app)["m3lung_deliveries_total"]["pacs", "accepted"] == 7


def test_nothing_of_a_patient_is_exposed(app: MetricsApp, life: LedgerLife, ledger: Ledger) -> None:
    a_day(life)
    life.set_aside("SOP Instance UIDs that stand for several images: 2.25.77700001", skipped=False)
    life.set_aside("the images have the modality Canary^Patient, not CT", skipped=True)
    text = exposed(app) + app.answer("/healthz").body.decode()
    for canary in (*CANARIES, "1.2.840"):
        assert canary not in text


def test_labels_are_few(app: MetricsApp, life: LedgerLife) -> None:
    """Reasons hold numbers and names: their words do not."""
    for number in range(30):
        life.set_aside(
            f"only {number} axial slices; at least 20 slices and {number} mm are needed",
            skipped=True,
        )
        life.set_aside(f"something nobody thought of, {number}", skipped=True)
    assert samples(app)["m3lung_series_set_aside_total"] == {
        ("skipped", "too_small"): 30,
        ("skipped", "other"): 30,
    }


def test_a_ledger_that_does_not_answer_is_a_metric(
    app: MetricsApp, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT 'CANARY-ID'", {}, Exception("CANARY-ID"))

    monkeypatch.setattr(Reader, "_look", away)
    found = samples(app)
    assert found["m3lung_ledger_up"] == {(): 0}
    assert "m3lung_images_received_total" not in found
    answer = app.answer("/healthz")
    assert answer.status == 503
    assert b"OperationalError" in answer.body
    assert b"CANARY" not in answer.body


def test_a_slow_look_is_not_repeated_at_every_scrape(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(ledger)
    looks = []
    look = reader._look

    def slow() -> Any:
        from dataclasses import replace

        looks.append(1)
        return replace(look(), took_s=5.0)

    monkeypatch.setattr(reader, "_look", slow)
    for _ in range(10):
        assert reader.read(0.0) is not None
    assert len(looks) == 1


def test_asgi_and_wsgi_say_the_same(app: MetricsApp, monkeypatch: pytest.MonkeyPatch) -> None:
    use = disk_use(Path("/"))
    monkeypatch.setattr(health, "disk_use", lambda _folder: use)  # it changes while other tests run
    started: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/readyz"}
    body = b"".join(app.wsgi(environ, lambda *given: started.append(given)))
    status, headers = started[0]

    sent: list[Any] = []

    async def ask(method: str, path: str, root: str = "") -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {}

        scope = {"type": "http", "method": method, "path": path, "headers": [], "root_path": root}
        await app.asgi(scope, receive, send)

    asyncio.run(ask("GET", "/monitor/readyz", "/monitor"))
    assert status.startswith(str(sent[0]["status"]))
    assert sent[1]["body"] == body
    assert dict(headers)["Cache-Control"] == "no-store"
    sent.clear()
    asyncio.run(ask("POST", "/metrics"))
    assert sent[0]["status"] == 405
    sent.clear()
    asyncio.run(ask("GET", "/nowhere"))
    assert sent[0]["status"] == 404
