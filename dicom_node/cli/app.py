"""The command's entry: assembles the verbs and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.cli import (
    ablate,
    analyze,
    audit,
    backup,
    bundle,
    certs,
    check,
    cohort,
    config,
    console,
    demo,
    echo,
    evaluate,
    metrics,
    notify,
    peers,
    phantom,
    rules,
    run,
    serve,
    simulate_pacs,
    support_bundle,
    train,
    worklist,
)
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


for verbs in (
    serve,
    run,
    metrics,
    analyze,
    demo,
    worklist,
    check,
    simulate_pacs,
    support_bundle,
    backup,
):
    verbs.register(app)
app.command(rich_help_panel="Administration")(echo.echo)
app.add_typer(peers.app, name="peers")
app.add_typer(rules.app, name="rules")
app.add_typer(config.app, name="config")
app.add_typer(bundle.app, name="bundle")
TRAINING = "Train"
for group, name in ((phantom.app, "phantom"), (cohort.app, "cohort"), (train.app, "train")):
    app.add_typer(group, name=name, rich_help_panel=TRAINING)
for verbs in (evaluate, ablate):
    verbs.register(app)
app.add_typer(certs.app, name="certs")
app.add_typer(audit.app, name="audit")
app.add_typer(notify.app, name="notify")
app.add_typer(console.app, name="console", rich_help_panel="Use")


def main() -> None:
    """Run the command line."""
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
        from training.errors import TrainingError

        if not isinstance(error, InferenceError | TrainingError | OSError):
            logging.getLogger(__name__).exception("unexpected error")
        complain(error)
        sys.exit(EXIT_FAILED)
