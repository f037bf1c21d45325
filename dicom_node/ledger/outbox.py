"""Messages to people: what they are about is noted once, what is sent is remembered.

An event becomes a notice in the transaction that moves the bookmark past it, so that each is
noted once, whoever reads and whenever it is killed. A message is sent at least once: who is killed
between sending and noting it leaves a message that is sent again, under the same token.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, inserted_id, rows_changed

__all__ = ["JournalRow", "MessageState", "NewNotice", "Notice", "Outbox", "OutgoingMessage"]

_BOOKMARK = "notices.events"
_PATIENCE_S = 15.0  # on PostgreSQL a lower id may still be committed for so long


class MessageState(enum.StrEnum):
    """How far a message is."""

    WAITING = "waiting"
    SENT = "sent"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class JournalRow:
    """An event that nobody was told of yet."""

    id: int
    at: float
    kind: str
    series_id: int | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewNotice:
    """Something worth telling; `detail` holds no patient data."""

    occasion: str
    at: float
    series_id: int | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell, with what the ledger knows of its series (patient data!)."""

    occasion: str
    at: float
    detail: dict[str, Any]
    series_instance_uid: str
    study_instance_uid: str
    accession_number: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message that the caller may send now; `attempts` counts this one."""

    message_id: int
    channel: str
    token: str
    created_at: float
    attempts: int


class Outbox:
    """Notices, messages and standing conditions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- what happened ---------------------------------------------------------------------------

    def unread(self, limit: int = 1000) -> tuple[int, list[JournalRow]]:
        """Return the bookmark, and the events behind it that are settled."""
        now, e = self._database.now(), t.events.c
        patience = 0.0 if self._database.is_sqlite else _PATIENCE_S
        with self._database.read() as connection:
            position = self._position(connection)
            rows = connection.execute(
                sa.select(e.id, e.at, e.kind, e.series_id, e.detail)
                .where(e.id > position)
                .order_by(e.id)
                .limit(limit)
            ).all()
        settled: list[JournalRow] = []
        for row in rows:
            # What lies in the future was written before the clock was set back.
            if now - patience < row.at <= now:
                break
            settled.append(JournalRow(row.id, row.at, row.kind, row.series_id, row.detail or {}))
        return position, settled

    def note(
        self, position: int, upto: int, notices: Sequence[NewNotice], channels: Collection[str]
    ) -> bool:
        """Put `notices` down for all `channels` and move the bookmark from `position` to `upto`.

        False, and nothing is done, if somebody else moved it meanwhile.
        """
        b = t.bookmarks.c
        with self._database.write() as connection:
            moved = rows_changed(
                connection.execute(
                    t.bookmarks.update()
                    .where(b.name == _BOOKMARK, b.position == position)
                    .values(position=upto)
                )
            )
            if moved:
                _insert(connection, notices, channels)
            return bool(moved)

    def _position(self, connection: sa.Connection) -> int:
        b = t.bookmarks.c
        return int(connection.scalar(sa.select(b.position).where(b.name == _BOOKMARK)) or 0)

    # -- what is wrong now -----------------------------------------------------------------------

    def conditions(self) -> dict[str, float]:
        """Return what is wrong and was told, with its beginning."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.conditions.c.name, t.conditions.c.since))
            return {str(name): float(since) for name, since in rows}

    def begin(self, name: str, notice: NewNotice, channels: Collection[str]) -> bool:
        """Note that something is wrong from now on; False if that is known."""
        row = {"name": name[:64], "since": self._database.now()}
        with self._database.write() as connection:
            self._database.insert_new(connection, t.conditions, [row])
            since = sa.select(t.conditions.c.since).where(t.conditions.c.name == row["name"])
            is_new = connection.scalar(since) == row["since"]  # else somebody was faster
            if is_new:
                _insert(connection, [notice], channels)
            return is_new

    def end(self, name: str, notice: NewNotice, channels: Collection[str]) -> bool:
        """Note that something is well again; False if nothing was wrong."""
        with self._database.write() as connection:
            ended = rows_changed(
                connection.execute(t.conditions.delete().where(t.conditions.c.name == name))
            )
            if ended:
                _insert(connection, [notice], channels)
            return bool(ended)

    # -- messages --------------------------------------------------------------------------------

    def bundle(
        self, channel: str, *, group_s: float, interval_s: float, keep_s: float
    ) -> int | None:
        """Put all notices of `channel` that wait into one message, when it is time for one.

        Parameters
        ----------
        group_s : float
            Since the oldest of them happened: others may follow at once.
        interval_s : float
            Since the last message of this channel was made.
        keep_s : float
            Older notices are dropped: nobody is told of what was over long ago.
        """
        now, n, m = self._database.now(), t.notices.c, t.messages.c
        mine = sa.and_(n.message_id.is_(None), n.channel == channel)
        with self._database.read() as connection:  # most looks find nothing: no writers' lock
            oldest = connection.scalar(sa.select(sa.func.min(n.at)).where(mine))
            last = connection.scalar(
                sa.select(sa.func.max(m.created_at)).where(m.channel == channel)
            )
        if oldest is None or now - group_s < oldest <= now:
            return None
        if last is not None and now - interval_s < last <= now:
            return None
        with self._database.write() as connection:
            connection.execute(t.notices.delete().where(mine, n.at < now - keep_s))
            # Locked, so that two senders never put one notice into two messages.
            ids = connection.scalars(
                sa.select(n.id).where(mine).order_by(n.id).with_for_update()
            ).all()
            if not ids:
                return None
            message_id = inserted_id(
                connection.execute(
                    t.messages.insert().values(
                        channel=channel,
                        token=secrets.token_hex(16),
                        state=MessageState.WAITING,
                        created_at=now,
                        ready_at=now,
                    )
                )
            )
            connection.execute(t.notices.update().where(mine).values(message_id=message_id))
            return message_id

    def claim(self, lease_s: float) -> OutgoingMessage | None:
        """Return a message that is due; nobody else gets it for `lease_s`, None if there is none.

        Whoever is killed while sending leaves it to be sent again after that time.
        """
        now, m = self._database.now(), t.messages.c
        due = sa.or_(m.ready_at <= now, m.created_at > now)
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(t.messages)
                .where(m.state == MessageState.WAITING, due)
                .order_by(m.id)
                .limit(1)
            ).first()
        if row is None:
            return None
        with self._database.write() as connection:
            changed = rows_changed(
                connection.execute(
                    t.messages.update()
                    .where(
                        m.id == row.id,
                        m.state == MessageState.WAITING,
                        m.attempts == row.attempts,
                    )
                    .values(attempts=row.attempts + 1, ready_at=now + lease_s)
                )
            )
        if not changed:
            return None
        return OutgoingMessage(row.id, row.channel, row.token, row.created_at, row.attempts + 1)

    def content(self, message: OutgoingMessage) -> list[Notice]:
        """Return what a message is about, in the order in which it happened."""
        n, s = t.notices.c, t.series.c
        query = (
            sa.select(
                n.occasion,
                n.at,
                n.detail,
                sa.func.coalesce(s.series_instance_uid, "").label("series_instance_uid"),
                sa.func.coalesce(s.study_instance_uid, "").label("study_instance_uid"),
                sa.func.coalesce(s.accession_number, "").label("accession_number"),
                sa.func.coalesce(s.patient_id, "").label("patient_id"),
            )
            .select_from(t.notices.outerjoin(t.series, s.id == n.series_id))
            .where(n.message_id == message.message_id)
            .order_by(n.id)
        )
        with self._database.read() as connection:
            return [Notice(**row._asdict()) for row in connection.execute(query)]

    def sent(self, message: OutgoingMessage) -> None:
        """Note that a message was taken by its server."""
        now = self._database.now()
        self._end(message, state=MessageState.SENT, sent_at=now, last_error="")

    def failed(self, message: OutgoingMessage, error: str, *, retry_in_s: float | None) -> None:
        """Note that a message was not taken; `retry_in_s` None: it is given up."""
        values: dict[str, Any] = {"last_error": error[:512]}
        if retry_in_s is None:
            values["state"] = MessageState.GIVEN_UP
        else:
            values["ready_at"] = self._database.now() + retry_in_s
        self._end(message, **values)

    def _end(self, message: OutgoingMessage, **values: Any) -> None:
        m = t.messages.c
        with self._database.write() as connection:
            connection.execute(
                t.messages.update()
                .where(m.id == message.message_id, m.attempts == message.attempts)
                .values(**values)
            )


def _insert(
    connection: sa.Connection, notices: Sequence[NewNotice], channels: Collection[str]
) -> None:
    rows = [
        {
            "channel": channel,
            "occasion": notice.occasion,
            "at": notice.at,
            "series_id": notice.series_id,
            "detail": notice.detail,
        }
        for notice in notices
        for channel in sorted(channels)
    ]
    if rows:
        connection.execute(t.notices.insert(), rows)
