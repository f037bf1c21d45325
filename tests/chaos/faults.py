"""The faults: each sends a series, does its harm, and brings everything up again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.drive import Chaos, Sending

__all__ = ["FAULTS", "Fault"]

PARTS = ("listen", "reconcile", "work", "deliver")
REACHED_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its name in the table; `make` returns whether it happened."""

    name: str
    make: Callable[[Chaos, Sending, random.Random], bool]


def _crash_point(part: str, name: str, most_passes: int) -> Fault:
    def make(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
        """Arm one part, send, and start it again unarmed when it died."""
        armed = f"{name}:{dice.randint(0, most_passes)}"
        chaos.node.kill(part)
        chaos.node.start(part, crash_at=armed)
        victim = chaos.node.processes[part]
        deadline = time.monotonic() + REACHED_WITHIN_S
        sending.begin()
        while victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        died = victim.poll() is not None
        if not died:
            chaos.node.kill(part)
        else:
            chaos.node.processes.pop(part)
        chaos.node.start(part)
        sending.finish()
        return died

    return Fault(f"{name}", make)


def _kill_some(name: str, choose: Callable[[random.Random], tuple[str, ...]]) -> Fault:
    def make(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
        """SIGKILL at any moment between the first image and the last result."""
        sending.begin()
        time.sleep(dice.uniform(0.0, 8.0))
        parts = choose(dice)
        chaos.node.kill(*parts)
        chaos.node.start(*parts)
        sending.finish()
        return True

    return Fault(name, make)


def _empty_broker(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
    sending.begin()
    time.sleep(dice.uniform(0.0, 6.0))
    messages = chaos.node.directory / "state" / "broker" / "messages"
    for entry in messages.iterdir() if messages.is_dir() else ():
        entry.unlink(missing_ok=True)
    sending.finish()
    return True


def _freeze_past_the_lease(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
    """A worker that sleeps past its lease wakes and must not write."""
    sending.begin()
    time.sleep(dice.uniform(1.0, 6.0))
    part = dice.choice(("work", "deliver"))
    sleeper = chaos.node.processes[part]
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(chaos.lease_s + 1.0)
    sleeper.send_signal(signal.SIGCONT)
    sending.finish()
    return True


def _kill_pacs(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
    sending.begin()
    time.sleep(dice.uniform(0.0, 8.0))
    chaos.pacs.kill()
    time.sleep(dice.uniform(0.0, 3.0))
    chaos.pacs.start()
    sending.finish()
    return True


def _two_patients_at_once(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
    """Two series arrive interleaved while the listener is killed."""
    other = chaos.next_sending(dice)
    sending.begin()
    other.begin()
    time.sleep(dice.uniform(0.0, 1.0))
    chaos.node.kill("listen")
    chaos.node.start("listen")
    sending.finish()
    other.finish()
    return True


def _sender_aborts(chaos: Chaos, sending: Sending, dice: random.Random) -> bool:
    """The sender stops in the middle, and later sends everything from the start."""
    files = sending.files
    sending.send(files[: dice.randint(1, len(files) - 1)])
    time.sleep(dice.uniform(0.0, 3.0))
    sending.send_all()
    return True


def _all_of(dice: random.Random) -> tuple[str, ...]:
    return PARTS


FAULTS = (
    *(_crash_point("listen", f"listener.{point}", 20) for point in (
        "after_open", "after_write", "after_fsync", "after_rename", "before_commit", "after_commit",
        "before_response",
    )),
    *(_crash_point("work", f"worker.{point}", 0) for point in (
        "after_claim", "in_decode", "in_inference", "after_write", "before_commit",
    )),
    _crash_point("deliver", "delivery.after_c_store", 3),
    _kill_some("SIGKILL of one part", lambda dice: (dice.choice(PARTS),)),
    _kill_some("SIGKILL of two parts", lambda dice: tuple(dice.sample(PARTS, 2))),
    _kill_some("SIGKILL of everything", _all_of),
    Fault("broker emptied", _empty_broker),
    Fault("SIGSTOP past the lease", _freeze_past_the_lease),
    Fault("PACS killed", _kill_pacs),
    Fault("two patients at once, listener killed", _two_patients_at_once),
    Fault("sender aborts, sends again", _sender_aborts),
)  # fmt: skip
