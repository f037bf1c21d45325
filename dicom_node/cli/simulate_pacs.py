"""``m3lung simulate-pacs``: a small PACS to try a configuration on, well or badly behaved."""

from __future__ import annotations

import signal
import ssl
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dicom_node.cli.terminal import out
from dicom_node.errors import ConfigurationError

__all__ = ["register"]

_HELP = """Run a small PACS that stores, answers and misbehaves as ordered.

It answers C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE and storage commitment, \
keeps what it gets in one folder, and prints a line for everything that happens. \
It is for trying a configuration, not for patients.

Example, a destination that behaves:

  m3lung simulate-pacs --port 11113

  m3lung peers add sim --ae-title SIMPACS --host 127.0.0.1 \
--port 11113 --role destination --commitment request

  m3lung peers test sim

Example, one that is slow, short of space for every second object, \
and reports half a minute later on an association of its own:

  m3lung simulate-pacs -m slow:2,half-a700,commit-late:30,commit-new \
--peer M3LUNG=127.0.0.1:11112

Everything it can do badly: m3lung simulate-pacs --list
"""


def simulate_pacs(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 11113,
    ae_title: Annotated[str, typer.Option("--ae-title", help="Its own AE title.")] = "SIMPACS",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where instances are kept. Default: a new one that goes at the end."),
    ] = None,
    misbehave: Annotated[
        list[str] | None,
        typer.Option(
            "--misbehave",
            "-m",
            metavar="NAME[:N],…",
            help="What it does badly, separated by commas; may be repeated. See --list.",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AE=HOST:PORT",
            help="Where an AE title listens, for C-MOVE and commitment reports; may be repeated.",
        ),
    ] = None,
    tls: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(
            metavar="CERTIFICATE KEY CA",
            help="Speak TLS and nothing else: three PEM files, see m3lung certs make.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Print the table of misbehaviours and end.")
    ] = False,
) -> None:
    """Run the simulated PACS until Ctrl-C or SIGTERM."""
    from dicom_node.simulated_pacs import SimulatedPacs, behaviour_from

    if listed:
        out.print(_table())
        return
    orders = ",".join(misbehave or ())
    behaviour = behaviour_from(orders, peers=dict(_peer(text) for text in peer or ()))
    stop = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the server's threads start, so that they inherit it and sigwait sees it.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3lung-pacs-")))
        try:
            pacs = stack.enter_context(
                SimulatedPacs(
                    folder,
                    ae_title=ae_title,
                    host=host,
                    port=port,
                    behaviour=behaviour,
                    watch=_say,
                    ssl_context=_secured(tls) if tls else None,
                )
            )
        except OSError as error:
            raise ConfigurationError(f"{host}:{port}: {error.strerror or error}") from error
        _say(f"{pacs.ae_title} listens on {pacs.host}:{pacs.port}, keeps instances in {folder}")
        _say(f"misbehaves: {orders or 'not at all'}")
        signal.sigwait(stop)
        _say(f"ends with {len(pacs.holdings)} instances")


def _secured(files: tuple[Path, Path, Path]) -> ssl.SSLContext:
    from dicom_node.settings import TLSSettings
    from dicom_node.tls import server_context

    certificate, key, ca = files
    return server_context(TLSSettings(certificate=certificate, key=key, ca=ca))


def _say(line: str) -> None:
    # Not through rich: several threads speak, and lines hold what peers sent.
    printable = "".join(letter if letter.isprintable() else "?" for letter in line)
    typer.echo(f"{time.strftime('%H:%M:%S')} {printable}")


def _peer(text: str) -> tuple[str, tuple[str, int]]:
    ae_title, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if not ae_title or not host or not port.isdigit():
        raise ConfigurationError(f"--peer {text}: write AE=HOST:PORT")
    return ae_title, (host, int(port))


def _table() -> Group:
    from dicom_node.simulated_pacs import MISBEHAVIOURS

    table = Table("--misbehave", "argument", "what the PACS does", box=None, pad_edge=False)
    for row in MISBEHAVIOURS:
        table.add_row(Text(row.name), Text(row.argument), Text(row.words))
    note = Text(
        "\nSeveral go together: --misbehave slow:2,half-a700,commit-late:30. "
        "Counts run from the start of the program."
    )
    return Group(table, note)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("simulate-pacs", help=_HELP, rich_help_panel="Try it")(simulate_pacs)
