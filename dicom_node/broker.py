"""The Celery application: two queues, two task names, one integer per message.

A message is a nudge: "look at row 17". The ledger holds the truth, workers claim rows with a
lease, and the reconciler repeats nudges that got lost, so the broker may vanish at any time
(docs/adr/0003-embedded-broker.md, which also holds the measurements behind the settings).

Without ``broker.url`` kombu's filesystem transport under the state directory is used; with
``redis://…`` that Redis.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, task_postrun, task_prerun
from celery.worker import state as worker_state
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import KombuError
from kombu.transport import filesystem, virtual
from kombu.transport import redis as redis_transport
from kombu.utils.json import dumps, loads
from redis.exceptions import RedisError

from dicom_node.errors import BrokerUnavailable, ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings

__all__ = [
    "ANALYSIS_QUEUE",
    "ANALYZE_TASK",
    "DELIVERY_QUEUE",
    "DELIVER_TASK",
    "SPECULATE_TASK",
    "Nudger",
    "check_broker",
    "is_stopping",
    "make_app",
    "run_worker",
]

ANALYSIS_QUEUE = "analysis"
DELIVERY_QUEUE = "delivery"
ANALYZE_TASK = "m3lung.analyze"
DELIVER_TASK = "m3lung.deliver"
SPECULATE_TASK = "m3lung.speculate"
_QUEUE_OF = {
    ANALYZE_TASK: ANALYSIS_QUEUE,
    SPECULATE_TASK: ANALYSIS_QUEUE,
    DELIVER_TASK: DELIVERY_QUEUE,
}
_QUEUES = tuple(dict.fromkeys(_QUEUE_OF.values()))

NUDGE_TIMEOUT_S = 2.0
"""How long publishing may hold up the reconciler."""

EMBEDDED_POLL_S = 0.1
"""How often an idle worker looks into the embedded broker's directory."""

_LEFTOVER_AGE_S = 60.0
_SILENCE_S = 2.0
_BROKER_ERRORS = (KombuError, RedisError, OSError)

_log = get_logger(__name__)


class _Channel(filesystem.Channel):
    """kombu's filesystem channel with atomic writes.

    kombu writes a message under its final name, so that a reader can take an empty or half
    file away (its loop then ends with a JSONDecodeError), and it moves messages through the
    machine's common temporary directory unless it is told to keep each for ever. Here a message
    appears by a rename, is taken by a rename inside the node's own directory, and is removed.
    """

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        name = f"{time.time_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        draft = Path(self.processed_folder, name)
        draft.write_text(dumps(payload), encoding="utf-8")
        draft.rename(Path(self.data_folder_out, name))

    def _get(self, queue: str) -> Any:
        # Celery's blocking loop asks once more after SIGTERM, and would begin a task.
        if is_stopping():
            raise Empty
        for message in sorted(Path(self.data_folder_in).glob(f"*.{queue}.msg")):
            taken = Path(self.processed_folder, message.name)
            try:
                message.rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            text = taken.read_bytes()
            taken.unlink()
            try:
                return loads(text)
            except ValueError:
                continue  # torn by a power failure: the reconciler nudges again
        raise Empty


class EmbeddedTransport(filesystem.Transport):
    """kombu's filesystem transport with atomic writes."""

    Channel = _Channel


class _ForgivingQoS(redis_transport.QoS):
    """An acknowledgement that Redis did not take frees its place all the same.

    kombu would count the message as under way for ever, and with one at a time never ask for
    another: the worker would sit there, alive and idle, until somebody restarts it. Redis gives
    the message once more when its time is over; by then its row is done.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except _BROKER_ERRORS:
            virtual.QoS.ack(self, delivery_tag)
            raise


redis_transport.Channel.QoS = _ForgivingQoS


def make_app(settings: NodeSettings) -> Celery:
    """Return the Celery application for `settings`; tasks are registered by the workers.

    Raises
    ------
    ConfigurationError
        ``broker.url`` is neither empty nor a Redis URL.
    """
    url = settings.broker.url
    transport: type | None = None
    longest_s = max(settings.analysis.time_limit_s, settings.delivery.lease_s)
    if not url:
        transport = EmbeddedTransport
        url, options = _embedded(settings.root / "broker")
    elif urlsplit(url).scheme in {"redis", "rediss"}:
        options = _redis_options(longest_s)
    else:
        raise ConfigurationError("broker.url: only redis:// and rediss:// are supported")
    app = Celery("m3lung", set_as_current=False)
    app.conf.update(
        broker_url=url,
        broker_transport=transport,
        broker_transport_options=options,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: the broker comes back some day
        broker_connection_timeout=NUDGE_TIMEOUT_S,
        # One id per message: results live in the ledger, prefetching would hold ids back.
        result_backend=None,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        accept_content=["json"],
        task_serializer="json",
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        # True lets a task that kills its worker come back for ever.
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        task_time_limit=settings.analysis.time_limit_s,
        task_soft_time_limit=0.95 * settings.analysis.time_limit_s,
        task_queues=[
            Queue(name, Exchange(name, type="direct"), routing_key=name) for name in _QUEUES
        ],
        task_default_queue=ANALYSIS_QUEUE,
        task_create_missing_queues=False,
        task_routes={task: {"queue": queue} for task, queue in _QUEUE_OF.items()},
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        event_queue_exclusive=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def _redis_options(longest_s: float) -> dict[str, Any]:
    return {
        # A task that runs longer than this is started a second time.
        "visibility_timeout": 2.5 * longest_s,
        # Look for messages of dead workers every second, not every tenth round of ten seconds.
        "unacked_restore_throttle": 1,
        "socket_timeout": 10.0,
        "socket_connect_timeout": NUDGE_TIMEOUT_S,
        "socket_keepalive": True,
        "retry_on_timeout": False,
        "health_check_interval": 10,
        "max_retries": 0,
    }


def _embedded(folder: Path) -> tuple[str, dict[str, Any]]:
    """Make the embedded broker's directories, for the owner only, and sweep leftovers."""
    paths = {name: folder / name for name in ("messages", "taken", "control")}
    for path in (folder.parent, folder, *paths.values()):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_leftovers(paths["taken"])
    options: dict[str, Any] = {
        # One directory for both ways: kombu's "in" and "out" are seen from the worker.
        "data_folder_in": str(paths["messages"]),
        "data_folder_out": str(paths["messages"]),
        "control_folder": str(paths["control"]),
        "processed_folder": str(paths["taken"]),
        "polling_interval": EMBEDDED_POLL_S,
    }
    return "filesystem://localhost", options


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left between two renames."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process of the node tidies up too
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                path.unlink()


class Nudger:
    """Publishes ids. Keeps one connection; safe to use from several threads.

    Holds up the caller for about two seconds at most. After a failure it answers at once for
    some seconds, so that a sweep over much waiting work does not wait for each row.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._silent_until = 0.0

    def analysis(self, analysis_id: int) -> None:
        """Tell an analysis worker to look at `analysis_id`.

        Raises
        ------
        BrokerUnavailable
            The broker did not take the message in time.
        """
        self._publish(ANALYZE_TASK, analysis_id)

    def delivery(self, shipment_id: int) -> None:
        """Tell a delivery worker to look at `shipment_id`.

        Raises
        ------
        BrokerUnavailable
            The broker did not take the message in time.
        """
        self._publish(DELIVER_TASK, shipment_id)

    def speculation(self, revision_id: int) -> None:
        """Tell an analysis worker that has nothing else to do to look at `revision_id`.

        Raises
        ------
        BrokerUnavailable
            The broker did not take the message in time.
        """
        self._publish(SPECULATE_TASK, revision_id)

    def close(self) -> None:
        """Close the connection; the next nudge opens another."""
        with self._lock:
            self._forget()

    def _publish(self, task: str, row_id: int) -> None:
        with self._lock:
            if time.monotonic() < self._silent_until:
                raise BrokerUnavailable("the broker did not answer a moment ago")
            try:
                if self._connection is None:
                    self._connection = _publishing_connection(self._app)
                self._app.send_task(
                    task,
                    args=[int(row_id)],
                    producer=Producer(self._connection.default_channel, auto_declare=False),
                    ignore_result=True,
                    retry=False,
                )
            except _BROKER_ERRORS as error:
                self._forget()
                self._silent_until = time.monotonic() + _SILENCE_S
                raise BrokerUnavailable(_first_line(error)) from error

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_BROKER_ERRORS):
                connection.release()


def _publishing_connection(app: Celery) -> Connection:
    connection = app.connection_for_write()
    # kombu would try a hundred times by default; whoever publishes here has other work to do.
    connection.transport_options = {
        **connection.transport_options,
        "max_retries": 0,
        "socket_timeout": NUDGE_TIMEOUT_S,
        "retry_on_timeout": False,
        "health_check_interval": 0,
    }
    return connection


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def check_broker(app: Celery) -> str:
    """Say in words which broker it is and how many nudges wait.

    Raises
    ------
    BrokerUnavailable
        It cannot be reached.
    """
    embedded = isinstance(app.conf.broker_transport, type)
    try:
        with _publishing_connection(app) as connection:
            where = "embedded" if embedded else connection.as_uri()  # without the password
            channel = connection.default_channel
            waiting = {name: channel._size(name) for name in _QUEUES}
    except _BROKER_ERRORS as error:
        raise BrokerUnavailable(_first_line(error)) from error
    return f"{where}, " + ", ".join(f"{count} {name} nudges" for name, count in waiting.items())


def run_worker(app: Celery, queue: str) -> None:
    """Work through `queue` in this process until SIGTERM or SIGINT; a task begun is finished.

    One task at a time in the process itself (``solo``): CUDA does not survive a fork. That pool
    knows no time limits, so a watchdog ends the process when a task runs longer than
    ``task_time_limit``; the lease in the ledger brings its work back.

    Raises
    ------
    BrokerUnavailable
        The worker gave up by itself; its log says why.
    """
    setup_logging.connect(_keep_our_logging)
    # Celery warns of root because of pickled messages; here a message is one integer in JSON.
    warnings.filterwarnings("ignore", "You're running the worker with superuser", SecurityWarning)
    watchdog = _Watchdog(app.conf.task_time_limit)
    task_prerun.connect(watchdog.begin)
    task_postrun.connect(watchdog.end)
    try:
        worker = app.Worker(
            queues=[queue],
            pool="solo",
            concurrency=1,
            hostname=f"{queue}-{os.getpid()}@%h",
            quiet=True,
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
        )
        worker.start()
        if worker.exitcode:
            raise BrokerUnavailable(f"the {queue} worker gave up (status {worker.exitcode})")
    finally:
        task_prerun.disconnect(watchdog.begin)
        task_postrun.disconnect(watchdog.end)


def is_stopping() -> bool:
    """Whether the worker in this process was told to stop: a task that can wait should end."""
    # The flag is an exit status, and EX_OK is 0: only None and False mean "go on".
    return worker_state.should_stop is not None and worker_state.should_stop is not False


def _keep_our_logging(**_: Any) -> None:
    """Take part in ``setup_logging``: then Celery leaves the logs as they are."""


class _Watchdog:
    """Kills this process when a task runs too long."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timer: threading.Timer | None = None

    def begin(self, **_: Any) -> None:
        """Start counting."""
        self._timer = threading.Timer(self._limit_s, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def end(self, **_: Any) -> None:
        """Stop counting."""
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self) -> None:
        _log.error("a task ran too long, the worker ends itself", limit_s=self._limit_s)
        os.kill(os.getpid(), signal.SIGKILL)
