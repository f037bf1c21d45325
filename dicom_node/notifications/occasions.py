"""What is worth a message: events of the journal, and what is wrong now.

The words of a PACS are left out, since they may quote a patient; what is told are our own words,
counts, and names of destinations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import Ledger, tables
from dicom_node.ledger.outbox import JournalRow, NewNotice
from dicom_node.metrics.disk import disk_use
from dicom_node.settings import NodeSettings

__all__ = ["Conditions", "notices_of"]

_FAILED = ("parked", "quarantined", "expired", "commit_failed")


def notices_of(row: JournalRow, ledger: Ledger, settings: NodeSettings) -> Iterator[NewNotice]:
    """Yield what one event of the journal is worth telling, if the settings ask for it."""
    for occasion, detail in _judge(row, ledger, settings):
        if occasion in settings.notifications.occasions:
            yield NewNotice(occasion, row.at, row.series_id, detail)


def _judge(
    row: JournalRow, ledger: Ledger, settings: NodeSettings
) -> Iterator[tuple[str, dict[str, Any]]]:
    if row.kind in ("series_rejected", "analysis_rejected"):
        yield "rejected", {"reason": str(row.detail.get("reason", ""))}
    elif row.kind == "analysis_exhausted":
        yield "quarantined", {"reason": str(row.detail.get("reason", ""))}
    elif row.kind == "delivered":
        # Without "seconds" only proofs came in: what was set aside before was told.
        states = _FAILED if "seconds" in row.detail else ("commit_failed",)
        failed = {state: int(row.detail[state]) for state in states if row.detail.get(state)}
        if failed:
            yield "delivery", {"destination": str(row.detail.get("destination", "")), **failed}
    elif row.kind == "analysis_done" and "positive" in settings.notifications.occasions:
        finding = _positive(row, ledger, settings)
        if finding:
            yield "positive", finding


def _positive(row: JournalRow, ledger: Ledger, settings: NodeSettings) -> dict[str, Any] | None:
    """Return what was found if it counts as positive; an untrained model finds nothing."""
    rules, a = settings.notifications, tables.analyses.c
    with ledger.database.read() as connection:
        result: Mapping[str, Any] | None = connection.scalar(
            # Nobody is told of a shadow.
            sa.select(a.result).where(a.id == row.detail.get("analysis_id"), a.shadow.is_(False))
        )
    patient = (result or {}).get("patient") or {}
    training = str(((result or {}).get("model") or {}).get("training", "untrained"))
    predicted = patient.get("predicted")
    if training == "untrained" or predicted not in rules.positive_classes:
        return None
    probability = float((patient.get("probabilities") or {}).get(predicted, 0.0))
    if probability < rules.positive_from:
        return None
    return {"finding": predicted, "probability": round(probability, 3), "training": training}


class Conditions:
    """What is wrong now, compared with what was told.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def look(self, settings: NodeSettings, channels: frozenset[str]) -> None:
        """Tell of what began, and of what is over."""
        told = self._ledger.outbox.conditions()
        now = self._ledger.database.now()
        wanted = settings.notifications.occasions
        wrong = {
            name: detail
            for name, detail in {**self._breakers(settings), **_disk(settings, told)}.items()
            if name.partition(":")[0] in wanted
        }
        for name in wrong.keys() - told.keys():
            notice = NewNotice(name.partition(":")[0], now, None, wrong[name])
            self._ledger.outbox.begin(name, notice, channels)
        for name in told.keys() - wrong.keys():
            over = NewNotice(name.partition(":")[0], now, None, _over(name))
            self._ledger.outbox.end(name, over, channels if over.occasion in wanted else ())

    def _breakers(self, settings: NodeSettings) -> dict[str, dict[str, Any]]:
        known = {peer.name for peer in settings.peers if peer.is_destination}
        b = tables.breakers.c
        with self._ledger.database.read() as connection:
            rows = connection.execute(
                sa.select(b.destination, b.failures).where(b.state != "closed")
            ).all()
        return {
            f"breaker:{row.destination}": {
                "destination": row.destination,
                "failures": row.failures,
            }
            for row in rows
            if row.destination in known
        }


def _disk(settings: NodeSettings, told: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Warn while images are still taken: below twice the least space, or above low water."""
    use = disk_use(settings.spool_dir)
    if use is None:
        return {}
    least = 2.0 * settings.listener.min_free_bytes
    most = settings.retention.low_water_percent
    if "disk" in told:  # over only when it is over by a margin
        least, most = 1.1 * least, most - 1.0
    if use.free_bytes >= least and use.used_percent <= most:
        return {}
    free, used = round(use.free_bytes / 1e9, 1), round(use.used_percent, 1)
    return {"disk": {"free_gigabytes": free, "used_percent": used}}


def _over(name: str) -> dict[str, Any]:
    occasion, _, destination = name.partition(":")
    return {"over": True, **({"destination": destination} if occasion == "breaker" else {})}
