"""The metrics by name: what a look at the ledger, the disk and the audit trail becomes.

Every family is always there; one whose labels are known in advance (states, parts, configured
destinations) shows them from the start with 0, so that a rate has a beginning.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dicom_node import __version__
from dicom_node.audit import Auditor
from dicom_node.completion import ClosingReason
from dicom_node.ledger.states import AnalysisState, DeliveryEvent, DeliveryState
from dicom_node.metrics.disk import SpoolSize, disk_use
from dicom_node.metrics.reading import Reader, Reading
from dicom_node.metrics.totals import ANALYSIS_BUCKETS_S, DELIVERY_BUCKETS_S
from dicom_node.settings import NodeSettings

__all__ = ["PARTS", "NodeCollector"]

PARTS = ("listen", "reconcile", "work", "deliver")
_BREAKER_STATES = ("closed", "half_open", "open")
_STUCK = (
    DeliveryState.COMMIT_REQUESTED,
    DeliveryState.COMMIT_FAILED,
    DeliveryState.PARKED,
    DeliveryState.QUARANTINED,
    DeliveryState.EXPIRED,
)
_SENT = (
    DeliveryEvent.ACCEPTED,
    DeliveryEvent.TRANSIENT,
    DeliveryEvent.PERMANENT,
    DeliveryEvent.BAD_OBJECT,
    DeliveryEvent.GIVE_UP,
)
_ENDED = (
    AnalysisState.DONE,
    AnalysisState.SKIPPED,
    AnalysisState.REJECTED,
    AnalysisState.QUARANTINED,
)
_AHEAD = ("made", "used", "discarded", "late", "preempted", "stopped", "failed")
Counts = Mapping[tuple[str, tuple[str, ...]], float]


class NodeCollector(Collector):
    """Collects the node's metrics.

    Parameters
    ----------
    settings : callable
        The settings in force.
    reader : Reader
    configuration_error : callable
        What is wrong with the configuration document now; empty: nothing.
    """

    def __init__(
        self,
        settings: Callable[[], NodeSettings],
        reader: Reader,
        configuration_error: Callable[[], str] = str,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._configuration_error = configuration_error
        self._auditor = Auditor(settings(), "command")
        self._spool_size = SpoolSize(settings().spool_dir / "instances")

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not look at the ledger."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all families; without a ledger those that need none."""
        settings = self._settings()
        build = InfoMetricFamily("m3lung_build", "Version of the software.")
        build.add_metric([], {"version": __version__, "python": platform.python_version()})
        yield build
        yield _gauge(
            "configuration_ok",
            "1: node.toml holds; 0: it was edited into nonsense, the former is in force.",
            0.0 if self._configuration_error() else 1.0,
        )
        yield from self._disk(settings)
        head = self._auditor.trail.read_head()
        yield _gauge("audit_records", "Length of the audit chain.", head.seq if head else 0)
        reading = self._reader.read(settings.metrics.cache_s)
        yield _gauge("ledger_up", "1: the ledger answers.", 0.0 if reading is None else 1.0)
        if reading is not None:
            destinations = sorted(peer.name for peer in settings.peers if peer.is_destination)
            yield from _waiting(reading)
            yield from _destinations(reading, destinations)
            yield from _counters(reading.counts, destinations)
            yield from _processes(reading)

    def _disk(self, settings: NodeSettings) -> Iterator[Metric]:
        use = disk_use(settings.spool_dir)
        if use is not None:
            yield _gauge("disk_free_bytes", "Free on the spool's disk.", use.free_bytes)
            yield _gauge("disk_size_bytes", "Size of the spool's disk.", use.total_bytes)
            yield _gauge("disk_free_inodes", "Free inodes of the spool's disk.", use.free_inodes)
            yield _gauge(
                "disk_used_ratio", "Use of bytes or inodes, the scarcer.", use.used_percent / 100.0
            )
        yield _gauge(
            "disk_refusing_below_bytes",
            "Less free than that: images are refused.",
            settings.listener.min_free_bytes,
        )
        files, size = self._spool_size.look()
        yield _gauge("spool_files", "Images in the spool, estimated from a part of it.", files)
        yield _gauge("spool_bytes", "Bytes in the spool, estimated from a part of it.", size)


def _waiting(reading: Reading) -> Iterator[Metric]:
    ready = _family("ready", "Work that nobody has taken though it is ready.", "kind")
    oldest = _family("oldest_ready_seconds", "Since when the oldest of it is ready.", "kind")
    for kind, waiting in reading.ready.items():
        ready.add_metric([kind], waiting.count)
        oldest.add_metric([kind], waiting.oldest_s)
    yield from (ready, oldest)
    series = _family("series_open", "Series that receive, or wait for selection.", "state")
    since = _family("series_open_oldest_seconds", "Since when the oldest of them does.", "state")
    for state, waiting in reading.open_revisions.items():
        series.add_metric([state], waiting.count)
        since.add_metric([state], waiting.oldest_s)
    yield from (series, since)
    analyses = _family("analyses_open", "Analyses that are not done.", "state")
    for state, count in reading.analyses.items():
        analyses.add_metric([state], count)
    yield analyses
    yield _gauge(
        "analysis_running_seconds", "How long the longest analysis runs.", reading.running_s
    )
    yield _gauge(
        "last_image_timestamp_seconds",
        "When the last image was received; 0: never.",
        reading.last_image_at or 0.0,
    )
    messages = _family("messages_open", "Messages to people that were not sent.", "state")
    for state, count in reading.messages.items():
        messages.add_metric([state], count)
    yield messages


def _destinations(reading: Reading, destinations: Sequence[str]) -> Iterator[Metric]:
    named = sorted({*destinations, *reading.shipments})
    waiting = _family("delivery_waiting", "Readings of which something is unsent.", "destination")
    oldest = _family("delivery_oldest_seconds", "Age of the oldest of them.", "destination")
    for name in named:
        found = reading.shipments.get(name)
        waiting.add_metric([name], found.count if found else 0)
        oldest.add_metric([name], found.oldest_s if found else 0.0)
    yield from (waiting, oldest)
    objects = _family(
        "objects_unproven", "Objects sent without proof yet, or set aside.", "destination", "state"
    )
    for name in sorted({*destinations, *(one for one, _ in reading.deliveries)}):
        for state in _STUCK:
            objects.add_metric([name, state], reading.deliveries.get((name, state), 0))
    yield objects
    breaker = _family("breaker_state", "1 for the state it is in.", "destination", "state")
    failures = _family("breaker_failures", "Failed associations in a row.", "destination")
    rows = {row.destination: row for row in reading.breakers}
    for name in destinations:
        row = rows.get(name)
        present = row.state if row else "closed"
        for one in _BREAKER_STATES:
            breaker.add_metric([name, one], one == present)
        failures.add_metric([name], row.failures if row else 0)
    yield from (breaker, failures)


def _counters(counts: Counts, destinations: Sequence[str]) -> Iterator[Metric]:
    def counter(
        name: str, counted: str, words: str, *labels: str, known: Iterable[tuple[str, ...]] = ()
    ) -> CounterMetricFamily:
        family = CounterMetricFamily(f"m3lung_{name}", words, labels=labels)
        found = {key[1]: value for key, value in counts.items() if key[0] == counted}
        for values in sorted({*known, *found} if labels else {()}):
            family.add_metric(values, found.get(values, 0.0))
        return family

    yield counter("images_received", "images", "Images that were received and kept.")
    yield counter("received_bytes", "bytes", "Their bytes.")
    yield counter(
        "c_store_responses", "c_store", "C-STORE by what became of it.", "outcome", "status"
    )
    yield counter(
        "stow_responses", "stow", "Images by STOW-RS by what became of them.", "outcome", "status"
    )
    yield counter("stow_requests", "stow_requests", "Requests of STOW-RS by answer.", "status")
    yield counter("associations", "associations", "Associations that ended.", "outcome",
                  known=[("released",), ("aborted",)])  # fmt: skip
    yield counter("associations_refused", "associations_refused", "Not accepted.", "reason")
    yield counter("series_completed", "series_completed", "Closed by which evidence.", "reason",
                  known=[(reason,) for reason in ClosingReason])  # fmt: skip
    yield counter(
        "series_set_aside", "series_set_aside", "Series that are not analysed.", "fate", "reason"
    )
    yield counter("late_slices", "late_slices", "Images after their series was closed.")
    yield counter("conflicts", "conflicts", "Images with a used UID and other content.")
    yield counter("own_output_returned", "own_output_returned", "Own results that came back.")
    yield counter("analyses", "analyses", "Analyses that ended.", "outcome",
                  known=[(state,) for state in _ENDED])  # fmt: skip
    yield counter("analysis_failures", "analysis_failures", "Attempts that failed.", "error")
    yield counter("readings_ahead", "speculations", "Readings before the evidence by their fate.",
                  "outcome", known=[(fate,) for fate in _AHEAD])  # fmt: skip
    yield _histogram(counts, "analysis", "Time of an analysis.", ANALYSIS_BUCKETS_S, [()])
    yield counter("deliveries", "deliveries", "Attempts to send an object.",
                  "destination", "outcome",
                  known=[(name, event) for name in destinations for event in _SENT])  # fmt: skip
    yield _histogram(
        counts,
        "delivery",
        "From a reading to the last of its objects sent.",
        DELIVERY_BUCKETS_S,
        [(name,) for name in destinations],
        "destination",
    )
    yield counter("commitments", "commitments", "Objects by what was reported on them.",
                  "destination", "outcome",
                  known=[(name, word) for name in destinations
                         for word in ("committed", "failed")])  # fmt: skip


def _processes(reading: Reading) -> Iterator[Metric]:
    running = _family("processes", "Processes that were heard of lately.", "part")
    turned = _family("loop_age_seconds", "Since the slowest loop last came round.", "part")
    for part in PARTS:
        mine = [process for process in reading.processes if process.part == part]
        running.add_metric([part], len(mine))
        ages = [reading.at - one.turned_at for one in mine if one.turned_at is not None]
        if ages:
            turned.add_metric([part], max(0.0, *ages))
    yield from (running, turned)
    yield _gauge("ledger_reading_seconds", "How long looking at the ledger took.", reading.took_s)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"m3lung_{name}", words, value=value)


def _family(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"m3lung_{name}", words, labels=labels)


def _histogram(
    counts: Counts,
    name: str,
    words: str,
    bounds: Sequence[float],
    known: Iterable[tuple[str, ...]],
    *labels: str,
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"m3lung_{name}_seconds", words, labels=labels)
    found = {key[1]: value for key, value in counts.items() if key[0] == f"{name}_seconds"}
    sums = {key[1]: value for key, value in counts.items() if key[0] == f"{name}_seconds_sum"}
    for values in sorted({*known, *sums}):
        mine = {float(key[-1]): value for key, value in found.items() if key[:-1] == values}
        buckets = [
            (_bound(bound), sum(value for upto, value in mine.items() if upto <= bound))
            for bound in (*bounds, float("inf"))
        ]
        family.add_metric(values, buckets, sums.get(values, 0.0))
    return family


def _bound(value: float) -> str:
    return "+Inf" if value == float("inf") else f"{value:g}"
