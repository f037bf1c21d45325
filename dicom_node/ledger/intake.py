"""What the listener writes: associations and received instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_node.domain import Receipt, StoredInstance
from dicom_node.errors import OutOfResources
from dicom_node.header import InstanceHeader
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, inserted_id
from dicom_node.ledger.states import (
    ANALYSIS_TRANSITIONS,
    REVISION_TRANSITIONS,
    AnalysisEvent,
    AnalysisState,
    RevisionEvent,
    RevisionState,
    step,
)
from dicom_node.series_traits import KEPT_ELSEWHERE, SeriesTraits
from dicom_node.settings import SupersedePolicy

__all__ = ["Arrival", "Intake"]

# Built once: an image waits for these statements, and building one costs more than running it.
_OWN_OUTPUTS = sa.select(t.objects.c.sop_instance_uid).where(
    t.objects.c.sop_instance_uid.in_(sa.bindparam("uids", expanding=True))
)
_HELD = (
    sa.select(
        t.instances.c.sop_instance_uid,
        t.instances.c.digest,
        t.instances.c.purged_at,
        t.series.c.series_instance_uid,
    )
    .join(t.series, t.series.c.id == t.instances.c.series_id)
    .where(t.instances.c.sop_instance_uid.in_(sa.bindparam("uids", expanding=True)))
)
_LOCK_SERIES = (
    sa.select(t.series.c.series_instance_uid, t.series.c.id)
    .where(t.series.c.series_instance_uid.in_(sa.bindparam("uids", expanding=True)))
    .order_by(t.series.c.id)
    .with_for_update()
)
_LATEST_REVISION = (
    sa.select(t.revisions)
    .where(t.revisions.c.series_id == sa.bindparam("series"))
    .order_by(t.revisions.c.number.desc())
    .limit(1)
)
_JOIN_REVISION = (
    t.revisions.update()
    .where(t.revisions.c.id == sa.bindparam("revision"))
    .values(instance_count=sa.bindparam("count"), last_arrival_at=sa.bindparam("now"))
)
_TOUCH_SERIES = (
    t.series.update()
    .where(t.series.c.id == sa.bindparam("series"))
    .values(last_arrival_at=sa.bindparam("now"), removed_at=None)
)
_TOUCH_ASSOCIATIONS = (
    t.associations.update()
    .where(t.associations.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(last_activity_at=sa.bindparam("now"))
)
_INSERT_INSTANCE = t.instances.insert()
_RESTORE = (
    t.instances.update()
    .where(t.instances.c.sop_instance_uid.in_(sa.bindparam("uids", expanding=True)))
    .values(purged_at=None)
)


def _always(_stored: StoredInstance) -> bool:
    return True


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One received instance, durable in the spool, not yet in the ledger."""

    association_id: int
    header: InstanceHeader
    stored: StoredInstance


class Intake:
    """Associations and arrivals.

    Parameters
    ----------
    database : Database
    supersede : SupersedePolicy
        What slices do that come after their series was closed.
    """

    def __init__(self, database: Database, supersede: SupersedePolicy) -> None:
        self._database = database
        self._supersede = supersede

    def open_association(self, *, calling_ae: str, called_ae: str, address: str) -> int:
        """Record an association that starts to store; return its id."""
        now = self._database.now()
        with self._database.write() as connection:
            result = connection.execute(
                t.associations.insert().values(
                    calling_ae=calling_ae,
                    called_ae=called_ae,
                    address=address,
                    opened_at=now,
                    last_activity_at=now,
                )
            )
            return inserted_id(result)

    def close_association(
        self, association_id: int, *, outcome: str, ignored: Mapping[str, int]
    ) -> None:
        """Record how an association ended and how many objects of which class it threw away."""
        with self._database.write() as connection:
            connection.execute(
                t.associations.update()
                .where(t.associations.c.id == association_id, t.associations.c.closed_at.is_(None))
                .values(
                    closed_at=self._database.now(), outcome=outcome, ignored=dict(ignored) or None
                )
            )

    def record_instances(
        self,
        arrivals: Sequence[Arrival],
        *,
        is_kept: Callable[[StoredInstance], bool] = _always,
        before_commit: Callable[[], None] = _nothing,
    ) -> list[Receipt]:
        """Record a batch of arrivals in one durable transaction.

        An instance that retention had removed is held again from now on.

        Parameters
        ----------
        is_kept : callable
            Whether the spool holds the file. Asked of an instance that is marked as removed, with
            its series locked: who removes files holds the same lock.
        before_commit : callable
            Runs when everything is written but the commit; what it raises ends the transaction.

        Returns
        -------
        list of Receipt
            One per arrival, in order.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The database refused; nothing of the batch is recorded.
        OutOfResources
            Retention took the file away at this very moment; nothing of the batch is recorded.
        """
        for attempt in range(3):
            try:
                with self._database.write() as connection:
                    receipts = self._record(connection, arrivals, is_kept)
                    before_commit()
                    return receipts
            except IntegrityError:
                # Another listener took the same SOP Instance UID in between: look again.
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def _record(
        self,
        connection: sa.Connection,
        arrivals: Sequence[Arrival],
        is_kept: Callable[[StoredInstance], bool],
    ) -> list[Receipt]:
        now = self._database.now()
        uids = {arrival.header.sop_instance_uid for arrival in arrivals}
        own = _own_outputs(connection, arrivals)
        rows = _lock_series(self._database, connection, arrivals, own, now)
        found = connection.execute(_HELD, {"uids": list(uids)}).all()
        held = {row.sop_instance_uid: (row.digest, row.series_instance_uid) for row in found}
        removed = {row.sop_instance_uid for row in found if row.purged_at is not None}
        receipts: list[Receipt] = []
        fresh: dict[int, list[Arrival]] = {}
        restored: dict[int, set[str]] = {}
        for arrival in arrivals:
            header, digest = arrival.header, arrival.stored.digest
            identity = (digest, header.series_instance_uid)
            if header.sop_instance_uid in own:
                receipts.append(Receipt.OWN_OUTPUT)
            elif header.sop_instance_uid not in held:
                held[header.sop_instance_uid] = identity
                fresh.setdefault(rows[header.series_instance_uid], []).append(arrival)
                receipts.append(Receipt.STORED)
            elif held[header.sop_instance_uid] == identity:
                if header.sop_instance_uid in removed:
                    if not is_kept(arrival.stored):
                        raise OutOfResources("the image was removed as it arrived; send it again")
                    of_series = restored.setdefault(rows[header.series_instance_uid], set())
                    of_series.add(header.sop_instance_uid)
                receipts.append(Receipt.DUPLICATE)
            else:
                self._quarantine(connection, arrival, now)
                receipts.append(Receipt.CONFLICT)
        for series_id, added in fresh.items():
            self._add(connection, series_id, added, now)
        for series_id, again in restored.items():
            # Kept for as long as if they came for the first time.
            connection.execute(_RESTORE, {"uids": list(again)})
            connection.execute(_TOUCH_SERIES, {"series": series_id, "now": now})
            self._database.event(connection, "instances_restored", series_id, count=len(again))
        if own:
            self._database.event(connection, "own_output_returned", None, count=len(own))
        associations = {arrival.association_id for arrival in arrivals}
        connection.execute(_TOUCH_ASSOCIATIONS, {"ids": list(associations), "now": now})
        return receipts

    def _quarantine(self, connection: sa.Connection, arrival: Arrival, now: float) -> None:
        header = arrival.header
        row = {
            "sop_instance_uid": header.sop_instance_uid,
            "series_instance_uid": header.series_instance_uid,
            "digest": arrival.stored.digest,
            "path": str(arrival.stored.path),
            "association_id": arrival.association_id,
            "received_at": now,
        }
        self._database.insert_new(connection, t.conflicts, [row])
        series_id = connection.scalar(
            sa.select(t.instances.c.series_id).where(
                t.instances.c.sop_instance_uid == header.sop_instance_uid
            )
        )
        self._database.event(
            connection, "conflicting_instance", series_id, sop_instance_uid=header.sop_instance_uid
        )

    def _add(
        self, connection: sa.Connection, series_id: int, arrivals: list[Arrival], now: float
    ) -> None:
        number = self._revision_to_join(connection, series_id, len(arrivals), now)
        connection.execute(
            _INSERT_INSTANCE,
            [
                {
                    "series_id": series_id,
                    "revision_number": number,
                    "sop_instance_uid": arrival.header.sop_instance_uid,
                    "digest": arrival.stored.digest,
                    "path": str(arrival.stored.path),
                    "size_bytes": arrival.stored.size_bytes,
                    "header": arrival.header.model_dump(
                        mode="json", exclude_defaults=True, exclude=KEPT_ELSEWHERE
                    ),
                    "association_id": arrival.association_id,
                    "received_at": now,
                }
                for arrival in arrivals
            ],
        )
        connection.execute(_TOUCH_SERIES, {"series": series_id, "now": now})

    def _revision_to_join(
        self, connection: sa.Connection, series_id: int, added: int, now: float
    ) -> int:
        """Return the number of the revision that new instances of a series belong to."""
        latest = connection.execute(_LATEST_REVISION, {"series": series_id}).first()
        if latest is None:
            return self._open_revision(connection, series_id, 1, added, now)
        if latest.state == RevisionState.RECEIVING:
            connection.execute(
                _JOIN_REVISION,
                {"revision": latest.id, "count": latest.instance_count + added, "now": now},
            )
            return int(latest.number)
        self._database.event(connection, "late_slices", series_id, count=added)
        if self._supersede is SupersedePolicy.NEVER:
            # Kept and recorded under a number that no revision row has: the first reading stands.
            return int(latest.number) + 1
        _supersede(connection, latest, now)
        # Slices that an earlier policy left aside join now, too.
        count = connection.scalar(
            sa.select(sa.func.count())
            .select_from(t.instances)
            .where(t.instances.c.series_id == series_id)
        )
        return self._open_revision(
            connection, series_id, int(latest.number) + 1, int(count or 0) + added, now
        )

    def _open_revision(
        self, connection: sa.Connection, series_id: int, number: int, count: int, now: float
    ) -> int:
        connection.execute(
            t.revisions.insert().values(
                series_id=series_id,
                number=number,
                state=RevisionState.RECEIVING,
                instance_count=count,
                opened_at=now,
                last_arrival_at=now,
            )
        )
        self._database.event(connection, "revision_opened", series_id, number=number)
        return number


def _own_outputs(connection: sa.Connection, arrivals: Sequence[Arrival]) -> set[str]:
    """SOP Instance UIDs among `arrivals` that a node like this one made: the loop guard."""
    uids = {arrival.header.sop_instance_uid for arrival in arrivals}
    made = set(connection.scalars(_OWN_OUTPUTS, {"uids": list(uids)}))
    marked = {a.header.sop_instance_uid for a in arrivals if a.header.from_this_node}
    return made | marked


def _lock_series(
    database: Database,
    connection: sa.Connection,
    arrivals: Sequence[Arrival],
    own: set[str],
    now: float,
) -> dict[str, int]:
    """Make and lock the series rows of a batch, in one order, so that two listeners never cross."""
    wanted: dict[str, Arrival] = {}
    for arrival in arrivals:
        if arrival.header.sop_instance_uid not in own:
            wanted.setdefault(arrival.header.series_instance_uid, arrival)
    rows = connection.execute(_LOCK_SERIES, {"uids": list(wanted)}).all()
    missing = wanted.keys() - {row.series_instance_uid for row in rows}
    if missing:
        _make_series(database, connection, {uid: wanted[uid] for uid in missing}, now)
        rows = connection.execute(_LOCK_SERIES, {"uids": list(wanted)}).all()
    return {row.series_instance_uid: row.id for row in rows}


def _supersede(connection: sa.Connection, revision: sa.Row[tuple[object, ...]], now: float) -> None:
    state = step(REVISION_TRANSITIONS, RevisionState(revision.state), RevisionEvent.LATE_SLICES)
    connection.execute(
        t.revisions.update().where(t.revisions.c.id == revision.id).values(state=state)
    )
    stopped = step(ANALYSIS_TRANSITIONS, AnalysisState.WAITING, AnalysisEvent.SUPERSEDE)
    connection.execute(
        t.analyses.update()
        .where(
            t.analyses.c.revision_id == revision.id,
            t.analyses.c.state.in_([AnalysisState.WAITING, AnalysisState.RUNNING]),
        )
        .values(state=stopped, finished_at=now, reason="later slices of this series arrived")
    )


def _make_series(
    database: Database, connection: sa.Connection, wanted: Mapping[str, Arrival], now: float
) -> None:
    a = t.associations.c
    called = sa.select(a.id, a.calling_ae, a.called_ae).where(
        a.id.in_({arrival.association_id for arrival in wanted.values()})
    )
    titles = {row.id: (row.calling_ae, row.called_ae) for row in connection.execute(called)}
    database.insert_new(
        connection,
        t.series,
        [
            {
                "series_instance_uid": uid,
                "study_instance_uid": arrival.header.study_instance_uid,
                "accession_number": arrival.header.accession_number[:64],
                "patient_id": arrival.header.patient_id[:256],
                "issuer_of_patient_id": arrival.header.issuer_of_patient_id[:64],
                "study_date": arrival.header.study_date[:8],
                "modality": arrival.header.modality[:16],
                "description": arrival.header.series_description[:256],
                "source_ae": titles.get(arrival.association_id, ("", ""))[0],
                "traits": SeriesTraits.of_header(
                    arrival.header, called_ae=titles.get(arrival.association_id, ("", ""))[1]
                ).stored(),
                "first_arrival_at": now,
                "last_arrival_at": now,
            }
            for uid, arrival in sorted(wanted.items())
        ],
    )
