"""The faults: each sends a series, does its harm, and brings everything up again."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.topology import SINGLE, Topology, role_of
from dicom_node.crashpoints import CRASH_POINTS

if TYPE_CHECKING:
    from chaos.hospital import Hospital
    from chaos.sending import Sending

__all__ = ["Fault", "faults_of"]

REACHED_WITHIN_S = 120.0
# How often the armed process may pass before it dies, at most: a series has 22 images.
_MOST_PASSES = {
    **{name: 20 for name in CRASH_POINTS if name.startswith("listener.")},
    "listener.in_report": 0,
    "listener.after_report": 0,
    "delivery.after_c_store": 3,
    "reconciler.before_nudge": 1,
    "reconciler.after_nudge": 1,
}

Make = Callable[["Hospital", "Sending", random.Random], bool]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault with its name in the table; `make` returns whether it happened."""

    name: str
    make: Make


def faults_of(topology: Topology = SINGLE) -> tuple[Fault, ...]:
    """Return every kind of fault that can be made there."""
    ours = _WITH_SERVERS if topology.has_servers else _EMBEDDED
    return (*_CRASHES, *_ANYWHERE, *ours)


# -- crash points ----------------------------------------------------------------------------------


def _crash(point: str) -> Fault:
    def make(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
        """Arm one part and see that it is the one; its sisters take over when it died."""
        node, verb = hospital.node, role_of(point)
        names = hospital.topology.parts_of(verb)
        # The PACS sends its reports to the first listener.
        victim = names[0] if point.endswith("report") else dice.choice(names)
        sisters = () if verb == "listen" else tuple(name for name in names if name != victim)
        node.kill(victim, *sisters)
        node.start(victim, crash_at=f"{point}:{dice.randint(0, _MOST_PASSES.get(point, 0))}")
        process = node.processes[victim]
        if verb == "listen":
            sending.first_to(hospital.port_of(victim))
        sending.begin()
        if point == "reconciler.after_return":
            _kill_who_analyses(hospital, sending)
        died = _wait_for_death(process)
        if not died:
            node.kill(victim)
        node.processes.pop(victim, None)
        if sisters:
            node.start(*sisters)
            time.sleep(dice.uniform(0.0, 3.0))
        node.start(victim)
        sending.finish()
        return died

    return Fault(point, make)


def _wait_for_death(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + REACHED_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.returncode == -signal.SIGKILL


def _kill_who_analyses(hospital: Hospital, sending: Sending) -> None:
    """Kill the workers while the series is read: somebody has to take the lease back."""
    deadline = time.monotonic() + REACHED_WITHIN_S
    while time.monotonic() < deadline:
        status = hospital.node.series(sending.series_instance_uid)
        if status is not None and status.analysis_state == "running":
            break
        time.sleep(0.05)
    workers = hospital.topology.parts_of("work")
    hospital.node.kill(*workers)
    hospital.node.start(*workers)


# -- processes -------------------------------------------------------------------------------------


def _kill(name: str, choose: Callable[[Topology, random.Random], tuple[str, ...]]) -> Fault:
    def make(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
        """SIGKILL at any moment between the first image and the last result."""
        sending.begin()
        time.sleep(dice.uniform(0.0, 8.0))
        parts = choose(hospital.topology, dice)
        hospital.node.kill(*parts)
        hospital.node.start(*parts)
        sending.finish()
        return True

    return Fault(name, make)


def _freeze_past_the_lease(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """A worker that sleeps past its lease wakes and must not write."""
    sending.begin()
    time.sleep(dice.uniform(1.0, 6.0))
    _freeze(hospital, dice, ("work", "deliver"), hospital.lease_s + 1.0)
    sending.finish()
    return True


def _freeze_receiving(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    sending.begin()
    time.sleep(dice.uniform(0.0, 2.0))
    _freeze(hospital, dice, ("listen", "reconcile"), dice.uniform(1.0, 4.0))
    sending.finish()
    return True


def _freeze(
    hospital: Hospital, dice: random.Random, verbs: tuple[str, ...], seconds: float
) -> None:
    names = [name for verb in verbs for name in hospital.topology.parts_of(verb)]
    sleeper = hospital.node.processes[dice.choice(names)]
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    sleeper.send_signal(signal.SIGCONT)


def _rolling_restart(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """Every part is asked to end and started again, one after the other, under load."""
    sending.begin()
    for name in dice.sample(hospital.topology.parts, len(hospital.topology.parts)):
        process = hospital.node.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # an analysis is finished first: then by force
            process.kill()
            process.wait()
        hospital.node.start(name)
    sending.finish()
    return True


# -- senders and the PACS --------------------------------------------------------------------------


def _kill_pacs(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    sending.begin()
    time.sleep(dice.uniform(0.0, 8.0))
    hospital.pacs.kill()
    time.sleep(dice.uniform(0.0, 3.0))
    hospital.pacs.start()
    sending.finish()
    return True


def _pause_pacs(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    sending.begin()
    time.sleep(dice.uniform(2.0, 8.0))
    hospital.pacs.pause()
    time.sleep(hospital.lease_s + dice.uniform(0.0, 3.0))
    hospital.pacs.resume()
    sending.finish()
    return True


def _two_patients_at_once(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """Two series arrive interleaved while a listener is killed."""
    other = hospital.next_sending(dice)
    sending.begin()
    other.begin()
    time.sleep(dice.uniform(0.0, 1.0))
    victim = dice.choice(hospital.topology.parts_of("listen"))
    hospital.node.kill(victim)
    hospital.node.start(victim)
    sending.finish()
    other.finish()
    return True


def _one_series_twice_at_once(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """Two senders have the same series, and call different listeners where there are two."""
    twin = sending.twin()
    sending.begin()
    time.sleep(dice.uniform(0.0, 0.5))
    twin.begin()
    sending.finish()
    twin.finish()
    return True


def _sender_aborts(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """The sender stops in the middle, and later sends everything from the start."""
    files = sending.files
    sending.send(files[: dice.randint(1, len(files) - 1)])
    time.sleep(dice.uniform(0.0, 3.0))
    sending.send_all()
    return True


def _late_slice(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
    """The last slice comes when the others are being read, or have been."""
    sending.send_all(sending.files[:-1])
    deadline = time.monotonic() + REACHED_WITHIN_S
    wanted = dice.choice(("running", "done"))
    while time.monotonic() < deadline:
        status = hospital.node.series(sending.series_instance_uid)
        if status is not None and status.analysis_state in (wanted, "done"):
            break
        time.sleep(0.05)
    else:
        sending.send_all()
        return False
    sending.send_all(sending.files[-1:])
    return True


# -- broker and ledger -----------------------------------------------------------------------------


def _around(name: str, harm: Callable[[Hospital, random.Random], None]) -> Fault:
    def make(hospital: Hospital, sending: Sending, dice: random.Random) -> bool:
        sending.begin()
        time.sleep(dice.uniform(0.0, 8.0))
        harm(hospital, dice)
        sending.finish()
        return True

    return Fault(name, make)


def _empty_embedded_broker(hospital: Hospital, dice: random.Random) -> None:
    messages = hospital.node.directory / "state" / "broker" / "messages"
    for entry in messages.iterdir() if messages.is_dir() else ():
        entry.unlink(missing_ok=True)


def _lock_sqlite(hospital: Hospital, dice: random.Random) -> None:
    """Hold the writers' lock, as a backup program does."""
    path = hospital.node.directory / "state" / "ledger.sqlite3"
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(dice.uniform(1.0, 5.0))
        connection.execute("ROLLBACK")


def _flush_redis(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.redis is not None
    hospital.redis.flush()


def _kill_redis(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.redis is not None
    hospital.redis.kill()
    time.sleep(dice.uniform(0.0, 6.0))
    hospital.redis.start()


def _restart_redis(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.redis is not None
    hospital.redis.stop()
    hospital.redis.start()


def _pause_redis(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.redis is not None
    hospital.redis.pause()
    time.sleep(dice.uniform(3.0, 12.0))
    hospital.redis.resume()


def _restart_postgresql(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.database is not None
    hospital.database.stop()
    time.sleep(dice.uniform(0.0, 5.0))
    hospital.database.start()


def _crash_postgresql(hospital: Hospital, dice: random.Random) -> None:
    assert hospital.database is not None
    hospital.database.crash()
    hospital.database.start()


_CRASHES = tuple(_crash(point) for point in CRASH_POINTS)
_ANYWHERE = (
    _kill("SIGKILL of one part", lambda where, dice: (dice.choice(where.parts),)),
    _kill("SIGKILL of two parts", lambda where, dice: tuple(dice.sample(where.parts, 2))),
    _kill("SIGKILL of everything", lambda where, dice: where.parts),
    Fault("SIGSTOP of a worker past its lease", _freeze_past_the_lease),
    Fault("SIGSTOP of a listener or reconciler", _freeze_receiving),
    Fault("rolling restart under load", _rolling_restart),
    Fault("PACS killed", _kill_pacs),
    Fault("PACS silent", _pause_pacs),
    Fault("two patients at once, listener killed", _two_patients_at_once),
    Fault("one series by two senders at once", _one_series_twice_at_once),
    Fault("sender aborts, sends again", _sender_aborts),
    Fault("a slice comes late", _late_slice),
)
_EMBEDDED = (
    _around("broker emptied", _empty_embedded_broker),
    _around("ledger locked", _lock_sqlite),
)
_WITH_SERVERS = (
    _kill(
        "SIGKILL of all parts of a kind",
        lambda where, dice: where.parts_of(dice.choice(("listen", "reconcile", "work", "deliver"))),
    ),
    _around("broker emptied", _flush_redis),
    _around("broker killed", _kill_redis),
    _around("broker restarted", _restart_redis),
    _around("broker silent", _pause_redis),
    _around("database restarted", _restart_postgresql),
    _around("database crashed", _crash_postgresql),
)
