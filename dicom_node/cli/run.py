"""``m3lung listen | work | deliver | reconcile``: one process of the node each."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from dicom_node.audit import Auditor
from dicom_node.cli.orphan import end_with_parent
from dicom_node.cli.terminal import ConfigOption, settings_source
from dicom_node.node_ledger import open_node_ledger
from dicom_node.pulse import Pulse

__all__ = ["register"]


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def listen(
    config: ConfigOption = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Listener processes on the one port.")
    ] = None,
) -> None:
    """Receive: the DICOM SCP (C-ECHO, C-STORE), and STOW-RS where it is enabled.

    Acknowledges what is durable, nothing else.
    """
    from dicom_node.listener import run_listener

    end_with_parent()
    source = settings_source(config)
    raise typer.Exit(run_listener(source, processes=processes))


def reconcile(config: ConfigOption = None) -> None:
    """Move what waits: completion, selection, lost leases, nudges. Safe to run twice."""
    from dicom_node.broker import Nudger, make_app
    from dicom_node.chores import Chores
    from dicom_node.cli.status_desk import status_desk
    from dicom_node.cli.worklist import answer_status
    from dicom_node.memos import TIDY_INTERVAL_S, tidy_memos
    from dicom_node.metrics.totals import FOLD_INTERVAL_S, Totals
    from dicom_node.notifications.notifier import SWEEP_INTERVAL_S, Notifier
    from dicom_node.reconciler import Reconciler

    end_with_parent()
    source = settings_source(config)
    stop = _stop_on_signals()
    with Auditor(source(), "reconcile").running(), open_node_ledger(source()) as ledger:
        pulse = Pulse(ledger, "reconcile")
        chores = Chores(
            (Totals(ledger).fold, FOLD_INTERVAL_S),
            (Notifier(source, ledger).sweep, SWEEP_INTERVAL_S),
            (lambda: tidy_memos(source().memos_dir, pulse.tally), TIDY_INTERVAL_S),
        )
        reconciler = Reconciler(source, ledger, Nudger(make_app(source())), turned=pulse.turn)
        desk = status_desk(
            str(source.path) if source.path else None,
            lambda question: answer_status(ledger, source(), question),
        )
        with pulse.beating(), chores.running(), desk:
            reconciler.run(stop)


def work(config: ConfigOption = None) -> None:
    """Analyse: a Celery worker with the model loaded (one per GPU, or one per CPU machine)."""
    from dicom_node.broker import ANALYSIS_QUEUE, is_stopping, make_app, run_worker
    from dicom_node.worker.analysis import AnalysisWorker
    from dicom_node.worker.decoders import start_decoders
    from dicom_node.worker.model import load_analyzer
    from dicom_node.worker.reader import SeriesReader
    from dicom_node.worker.speculation import Speculation
    from dicom_node.worker.tasks import register as register_tasks

    end_with_parent()
    source = settings_source(config)
    settings = source()
    with (
        Auditor(settings, "work").running(),
        open_node_ledger(settings) as ledger,
        start_decoders(settings) as pixels,
    ):
        app = make_app(settings)
        pulse = Pulse(ledger, "work")
        reader = SeriesReader(load_analyzer(settings), pixels)
        register_tasks(
            app,
            AnalysisWorker(source, ledger, reader, pulse.tally),
            Speculation(source, ledger, reader, is_stopping, pulse.tally),
        )
        with pulse.beating():
            run_worker(app, ANALYSIS_QUEUE)


def deliver(config: ConfigOption = None) -> None:
    """Send: a Celery worker that takes results to their destinations, for days if it must."""
    from dicom_node.broker import DELIVERY_QUEUE, make_app, run_worker
    from dicom_node.delivery.tasks import register as register_tasks
    from dicom_node.delivery.worker import DeliveryWorker

    end_with_parent()
    source = settings_source(config)
    settings = source()
    auditor = Auditor(settings, "deliver")
    with auditor.running(), open_node_ledger(settings) as ledger:
        app = make_app(settings)
        pulse = Pulse(ledger, "deliver")
        register_tasks(app, DeliveryWorker(source, ledger, auditor, pulse.tally))
        with pulse.beating():
            run_worker(app, DELIVERY_QUEUE)


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    for verb in (listen, work, deliver, reconcile):
        app.command(rich_help_panel="One process of a node")(verb)
