"""What the ledger knows of a series beyond its state: for rules and the drift panel."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.header import InstanceHeader
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.series_traits import SeriesTraits

__all__ = ["RecentSeries", "Traits"]


@dataclass(frozen=True, slots=True)
class RecentSeries:
    """A series of the last days, and what became of it.

    Attributes
    ----------
    rule : str
        That decided then; empty where none did yet.
    state : str
        Of its newest revision.
    """

    series_id: int
    series_instance_uid: str
    accession_number: str
    last_arrival_at: float
    images: int
    state: str
    rule: str
    traits: SeriesTraits


class Traits:
    """For whoever applies rules, or looks how series change over time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def settle(self, series_id: int, headers: Iterable[InstanceHeader]) -> SeriesTraits:
        """Return what is known of a series whose images are all there, and keep it.

        Kernel and thickness become those that most of `headers` have.
        """
        with self._database.read() as connection:
            [known] = traits_of(connection, [series_id]).values()
        settled = known.settled(headers)
        if settled != known:
            with self._database.write() as connection:
                connection.execute(
                    t.series.update()
                    .where(t.series.c.id == series_id)
                    .values(traits=settled.stored())
                )
        return settled

    def recent(self, limit: int) -> list[RecentSeries]:
        """Return the series that arrived last, the newest first."""
        s, r = t.series.c, t.revisions.c
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(s.id, s.series_instance_uid, s.accession_number, s.last_arrival_at)
                .order_by(s.last_arrival_at.desc(), s.id.desc())
                .limit(limit)
            ).all()
            ids = [row.id for row in rows]
            revisions = {
                row.series_id: row  # the last one stays
                for row in connection.execute(
                    sa.select(r.series_id, r.state, r.rule, r.instance_count)
                    .where(r.series_id.in_(ids))
                    .order_by(r.number)
                )
            }
            traits = traits_of(connection, ids)
        return [
            RecentSeries(
                series_id=row.id,
                series_instance_uid=row.series_instance_uid,
                accession_number=row.accession_number,
                last_arrival_at=row.last_arrival_at,
                images=revisions[row.id].instance_count,
                state=revisions[row.id].state,
                rule=revisions[row.id].rule,
                traits=traits[row.id],
            )
            for row in rows
            if row.id in revisions
        ]


def traits_of(connection: sa.Connection, series_ids: Collection[int]) -> dict[int, SeriesTraits]:
    """Return what is known of each of these series.

    Of one that came before the ledger kept it, its first image says what it can.
    """
    s, i, a = t.series.c, t.instances.c, t.associations.c
    rows = connection.execute(
        sa.select(s.id, s.source_ae, s.modality, s.description, s.accession_number, s.traits)
        .where(s.id.in_(series_ids))
    ).all()  # fmt: skip
    old = [row.id for row in rows if row.traits is None]
    first = sa.select(sa.func.min(i.id)).where(i.series_id.in_(old)).group_by(i.series_id)
    headers = {
        row.series_id: row
        for row in connection.execute(
            sa.select(i.series_id, i.header, a.called_ae)
            .join(t.associations, a.id == i.association_id)
            .where(i.id.in_(first))
        )
    } if old else {}  # fmt: skip
    found = {}
    for row in rows:
        stored = row.traits
        if row.id in headers:
            header = InstanceHeader.model_validate(headers[row.id].header)
            stored = SeriesTraits.of_header(header, called_ae=headers[row.id].called_ae).stored()
        found[row.id] = SeriesTraits.restored(
            stored,
            calling_ae=row.source_ae,
            modality=row.modality,
            description=row.description,
            accession=row.accession_number,
        )
    return found
