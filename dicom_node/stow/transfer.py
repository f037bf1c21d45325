"""One body from the network to the disk: in blocks, with a deadline for each, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from dicom_node.settings import StowSettings
from dicom_node.stow.body import Body

__all__ = ["BLOCK_BYTES", "Disconnected", "TooLarge", "TooSlow", "receive_body"]

BLOCK_BYTES = 256 << 10
"""What is in memory of one request; each block has to come within ``stow.block_timeout_s``."""

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class TooSlow(Exception):
    """A block did not come in time."""


class TooLarge(Exception):
    """The body is larger than a request may be."""


class Disconnected(Exception):
    """The sender went away."""


async def receive_body(
    receive: Receive, body: Body, limits: StowSettings, executor: Executor
) -> None:
    """Feed `body` until its end; the disk is waited for in a thread of `executor`.

    Raises
    ------
    TooSlow, TooLarge, Disconnected
    dicom_node.stow.body.BrokenBody, dicom_node.stow.body.TooManyParts
    """
    loop = asyncio.get_running_loop()
    total, is_last = 0, False
    while not is_last:
        block, is_last = await _next_block(receive, limits.block_timeout_s)
        total += len(block)
        if total > limits.max_request_bytes:
            raise TooLarge
        if block:
            await loop.run_in_executor(executor, body.feed, block)
    body.finish()


async def _next_block(receive: Receive, timeout_s: float) -> tuple[bytes, bool]:
    """Return the next block and whether it is the last."""
    block = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while len(block) < BLOCK_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    raise Disconnected
                block += message.get("body", b"")
                if not message.get("more_body", False):
                    return bytes(block), True
    except TimeoutError as error:
        raise TooSlow from error
    return bytes(block), False
