"""A redis-server of one test: password, append-only file, no eviction, as deployed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.peers import program
from support.ports import free_port
from support.server import Server

__all__ = ["RedisServer"]


class RedisServer(Server):
    """Redis on a free port; its data survive :meth:`kill` and :meth:`start`.

    Attributes
    ----------
    url : str
        ``redis://:PASSWORD@127.0.0.1:PORT/0``
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.password = secrets.token_urlsafe(16)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "requirepass": self.password,
            "dir": directory,
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        command = [program("redis-server") or "redis-server"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        super().__init__(command, log=directory / "redis.log", ready=self._wait)

    def client(self) -> redis.Redis:
        """Return a client that does not try again by itself; close it after use."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0))

    def restart(self) -> None:
        """Kill without warning, then start again on the same port and data."""
        self.kill()
        self.start()

    def flush(self) -> None:
        """Lose every key, as a careless administrator would."""
        with self.client() as client:
            client.flushall()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10.0
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except redis.RedisError as error:
                if time.monotonic() > deadline or not self.is_running:
                    raise TimeoutError("redis-server does not answer") from error
                time.sleep(0.02)
            else:
                return
