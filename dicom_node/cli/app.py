"""The command's entry: assembles the verbs and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.cli import analyze, bundle, check, demo, echo, peers, run, serve, worklist
from dicom_node.cli.terminal import EXIT_FAILED, EXIT_USAGE, complain
from dicom_node.errors import ConfigurationError, NodeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="m3lung",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""A DICOM node that reads chest CT and writes the reading back to the PACS.

    Try it:  [bold]m3lung demo[/]

    Run it:  [bold]m3lung peers add pacs --ae-title ORTHANC --host 127.0.0.1 --port 4242[/]
             [bold]m3lung serve[/]

    Ask it:  [bold]m3lung status --accession 4711[/]
    """,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m3lung-node {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of the bare command."""


for verbs in (serve, run, analyze, demo, worklist, check):
    verbs.register(app)
app.command(rich_help_panel="Administration")(echo.echo)
app.add_typer(peers.app, name="peers")
app.add_typer(bundle.app, name="bundle")


def main() -> None:
    """Run the command line."""
    # The model's threads share their cores with the listener, the PACS and whatever else runs
    # there. By default they spin for long while they wait for each other, and on a busy machine
    # each spin is time taken from the thread that is waited for; not spinning at all costs a tenth
    # on an idle one. Read once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except ConfigurationError as error:
        complain(error)
        sys.exit(EXIT_USAGE)
    except NodeError as error:
        complain(error)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) went away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:
        from inference.errors import InferenceError

        if not isinstance(error, InferenceError | OSError):
            logging.getLogger(__name__).exception("unexpected error")
        complain(error)
        sys.exit(EXIT_FAILED)
