"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import socket
import time

__all__ = ["free_port", "wait_for_port"]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, *, timeout_s: float = 20.0) -> None:
    """Return as soon as somebody listens on `port` of 127.0.0.1.

    Raises
    ------
    TimeoutError
        Nobody did within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {port}") from error
            time.sleep(0.05)
        else:
            return
