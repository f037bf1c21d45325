"""``m3lung metrics``: the exporter for Prometheus, with health that is progress."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from dicom_node.cli.orphan import end_with_parent
from dicom_node.cli.terminal import ConfigOption, settings_source
from dicom_node.node_ledger import open_node_ledger

__all__ = ["register"]


def metrics(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: metrics.host]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port.  [default: metrics.port]")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Serve /metrics, /healthz and /readyz: one exporter for all processes of a node."""
    from dicom_node.metrics import serve_metrics

    end_with_parent()
    source = settings_source(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_node_ledger(source()) as ledger:
        serve_metrics(source, ledger, stop, host=host, port=port)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="One process of a node")(metrics)
