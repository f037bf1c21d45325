"""The command's entry: assembles the verbs and turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.cli.terminal import EXIT_FAILED, EXIT_USAGE, complain
from dicom_node.errors import ConfigurationError, NodeError

__all__ = ["assemble", "main"]

_HELP = """A DICOM node that reads chest CT and writes the reading back to the PACS.

    Try it:  [bold]m3lung demo[/]

    Run it:  [bold]m3lung peers add pacs --ae-title ORTHANC --host 127.0.0.1 --port 4242[/]
             [bold]m3lung serve[/]

    Ask it:  [bold]m3lung status --accession 4711[/]
    """

_VERBS = {
    "serve": ("serve",),
    "run": ("listen", "work", "deliver", "reconcile"),
    "metrics": ("metrics",),
    "analyze": ("analyze",),
    "demo": ("demo",),
    "worklist": ("status", "retry", "purge"),
    "check": ("check",),
    "simulate_pacs": ("simulate-pacs",),
    "support_bundle": ("support-bundle",),
    "backup": ("backup", "restore"),
    "echo": ("echo",),
    "peers": ("peers",),
    "rules": ("rules",),
    "config": ("config",),
    "bundle": ("bundle",),
    "phantom": ("phantom",),
    "cohort": ("cohort",),
    "train": ("train",),
    "evaluate": ("evaluate", "calibrate"),
    "ablate": ("ablate",),
    "certs": ("certs",),
    "audit": ("audit",),
    "notify": ("notify",),
    "console": ("console",),
}
"""Module of this package: the verbs that it adds."""


def assemble(verb: str | None = None) -> typer.Typer:
    """Return the command with the module of `verb` alone, or with all where it has none.

    A node starts with five processes at once, and each needs one verb: to import all of them takes
    two seconds.
    """
    app = typer.Typer(
        name="m3lung",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        help=_HELP,
        callback=_root,
    )
    found = [module for module, verbs in _VERBS.items() if verb in verbs]
    for module in found or _VERBS:
        import_module(f"dicom_node.cli.{module}").register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"m3lung-node {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of the bare command."""


def main() -> None:
    """Run the command line."""
    try:
        assemble(sys.argv[1] if len(sys.argv) > 1 else None)()
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
