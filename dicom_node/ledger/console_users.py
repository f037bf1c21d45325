"""Who may use the console: users, their sessions, and the tokens of their programs.

Only digests are kept: a copy of the ledger lets nobody in.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dicom_node.errors import ConfigurationError
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, rows_changed

__all__ = ["ConsoleRole", "ConsoleUser", "ConsoleUsers", "token_digest"]


class ConsoleRole(enum.StrEnum):
    """What somebody may do in the console."""

    VIEWER = "viewer"  # look
    ADMIN = "admin"  # look and change


@dataclass(frozen=True, slots=True)
class ConsoleUser:
    """Somebody who may use the console.

    Attributes
    ----------
    password_hash : str
        Of argon2id; empty for those whom a reverse proxy logs in.
    has_token : bool
        Whether there is a token for programs.
    """

    user_id: int
    name: str
    role: ConsoleRole
    password_hash: str
    has_token: bool
    created_at: float
    last_login_at: float | None
    disabled_at: float | None


class ConsoleUsers:
    """Users, sessions and tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- users ---------------------------------------------------------------------------------

    def all(self) -> list[ConsoleUser]:
        """Return everybody, by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.console_users).order_by(t.console_users.c.name))
            return [_user(row) for row in rows]

    def any_admin(self) -> bool:
        """Whether somebody may already change something: False on a new node."""
        u = t.console_users.c
        query = sa.select(u.id).where(u.role == ConsoleRole.ADMIN, u.disabled_at.is_(None)).limit(1)
        with self._database.read() as connection:
            return connection.scalar(query) is not None

    def named(self, name: str) -> ConsoleUser | None:
        """Return the user called `name` who is not disabled."""
        u = t.console_users.c
        return self._one(sa.and_(u.name == name, u.disabled_at.is_(None)))

    def add(self, name: str, role: ConsoleRole, password_hash: str) -> ConsoleUser:
        """Add a user.

        Raises
        ------
        ConfigurationError
            There is one of that name.
        """
        try:
            with self._database.write() as connection:
                connection.execute(
                    t.console_users.insert().values(
                        name=name,
                        role=role,
                        password_hash=password_hash,
                        created_at=self._database.now(),
                    )
                )
        except IntegrityError:
            raise ConfigurationError(f"name: there is a user {name!r} already") from None
        return self.require(name)

    def require(self, name: str) -> ConsoleUser:
        """Return the user called `name`, disabled or not.

        Raises
        ------
        ConfigurationError
            There is none.
        """
        user = self._one(t.console_users.c.name == name)
        if user is None:
            raise ConfigurationError(f"name: there is no user {name!r}")
        return user

    def change(
        self,
        user: ConsoleUser,
        *,
        role: ConsoleRole | None = None,
        password_hash: str | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Change a user and end all sessions of the former state."""
        values: dict[str, object] = {}
        if role is not None:
            values["role"] = role
        if password_hash is not None:
            values["password_hash"] = password_hash
        if enabled is not None:
            values["disabled_at"] = None if enabled else self._database.now()
        u, s = t.console_users.c, t.console_sessions.c
        with self._database.write() as connection:
            connection.execute(
                t.console_users.update().where(u.id == user.user_id).values(**values)
            )
            connection.execute(t.console_sessions.delete().where(s.console_user_id == user.user_id))

    # -- sessions ------------------------------------------------------------------------------

    def begin_session(self, user: ConsoleUser, lasts_s: float) -> str:
        """Log a user in; return the session's token, which is kept nowhere else."""
        token, now = secrets.token_urlsafe(32), self._database.now()
        u, s = t.console_users.c, t.console_sessions.c
        with self._database.write() as connection:
            connection.execute(t.console_sessions.delete().where(s.expires_at <= now))
            connection.execute(
                t.console_sessions.insert().values(
                    token_sha256=token_digest(token),
                    console_user_id=user.user_id,
                    created_at=now,
                    expires_at=now + lasts_s,
                )
            )
            connection.execute(
                t.console_users.update().where(u.id == user.user_id).values(last_login_at=now)
            )
        return token

    def of_session(self, token: str) -> ConsoleUser | None:
        """Return who is logged in with `token`; None when it ended or never was."""
        u, s = t.console_users.c, t.console_sessions.c
        query = (
            sa.select(t.console_users)
            .join(t.console_sessions, s.console_user_id == u.id)
            .where(
                s.token_sha256 == token_digest(token),
                s.expires_at > self._database.now(),
                u.disabled_at.is_(None),
            )
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return _user(row) if row else None

    def end_session(self, token: str) -> None:
        """Log out."""
        s = t.console_sessions.c
        with self._database.write() as connection:
            connection.execute(
                t.console_sessions.delete().where(s.token_sha256 == token_digest(token))
            )

    # -- programs ------------------------------------------------------------------------------

    def new_token(self, user: ConsoleUser) -> str:
        """Give the user's programs a new token in place of the old one; it is kept nowhere else."""
        token = f"m3l_{secrets.token_urlsafe(32)}"
        self._set_token(user, token_digest(token))
        return token

    def revoke_token(self, user: ConsoleUser) -> bool:
        """Take the token back; return whether there was one."""
        return self._set_token(user, None)

    def of_token(self, token: str) -> ConsoleUser | None:
        """Return whose program shows `token`."""
        u = t.console_users.c
        return self._one(sa.and_(u.token_sha256 == token_digest(token), u.disabled_at.is_(None)))

    def _set_token(self, user: ConsoleUser, digest: str | None) -> bool:
        u = t.console_users.c
        with self._database.write() as connection:
            return bool(
                rows_changed(
                    connection.execute(
                        t.console_users.update()
                        .where(
                            u.id == user.user_id,
                            sa.true() if digest else u.token_sha256.is_not(None),
                        )
                        .values(token_sha256=digest)
                    )
                )
            )

    def _one(self, condition: sa.ColumnElement[bool]) -> ConsoleUser | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(t.console_users).where(condition)).first()
        return _user(row) if row else None


def token_digest(token: str) -> str:
    """sha256 (hex); tokens are 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _user(row: sa.Row[tuple[object, ...]]) -> ConsoleUser:
    return ConsoleUser(
        user_id=row.id,
        name=row.name,
        role=ConsoleRole(row.role),
        password_hash=row.password_hash,
        has_token=row.token_sha256 is not None,
        created_at=row.created_at,
        last_login_at=row.last_login_at,
        disabled_at=row.disabled_at,
    )
