"""A PostgreSQL cluster of the test session: own data, own port, trust on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from support.peers import postgresql_bin
from support.ports import free_port, wait_for_port
from support.server import Server

__all__ = ["PostgresqlCluster"]

_SUPERUSER = "m3lung"


class PostgresqlCluster(Server):
    """A temporary cluster that is gone with its directory.

    PostgreSQL refuses to run as root: the programs then run as user ``postgres``, which Debian's
    package makes. Nothing is flushed to the disk, for speed; a crash of the *machine* is not what
    these tests are about.
    """

    def __init__(self) -> None:
        binaries = postgresql_bin()
        assert binaries is not None
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="m3lung-postgresql-"))
        self._names = count(1)
        user = "postgres" if os.geteuid() == 0 else None
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        data = self.directory / "cluster"
        subprocess.run(
            [
                binaries / "initdb",
                *("--pgdata", data, "--username", _SUPERUSER, "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=self.directory,
        )
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "200",
        }
        command = [str(binaries / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        super().__init__(
            command,
            log=self.directory / "postgresql.log",
            ready=self._wait,
            stop_signal=signal.SIGINT,  # "fast": ends open sessions
            user=user,
            cwd=self.directory,
        )

    def remove(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, yield its SQLAlchemy URL, drop it with whoever is connected."""
        url = self.create()
        try:
            yield url
        finally:
            self._administer(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def create(self) -> str:
        """Make an empty database; return its SQLAlchemy URL."""
        name = f"test_{next(self._names)}"
        self._administer(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{_SUPERUSER}@127.0.0.1:{self.port}/{name}"

    def crash(self) -> None:
        """End at once, without a checkpoint, as after a power cut; :meth:`start` recovers."""
        os.kill(self.pid, signal.SIGQUIT)
        self.stop()

    def _administer(self, statement: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=_SUPERUSER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)

    def _wait(self) -> None:
        wait_for_port(self.port)
        deadline = time.monotonic() + 20.0
        while True:
            try:
                self._administer("SELECT 1")
            except psycopg.OperationalError as error:  # "the database system is starting up"
                if time.monotonic() > deadline:
                    raise TimeoutError("postgresql does not answer") from error
                time.sleep(0.05)
            else:
                return
