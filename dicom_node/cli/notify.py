"""``m3lung notify``: try the messages that tell people of failures."""

from __future__ import annotations

import secrets
import time

import typer
from rich.markup import escape

from dicom_node.cli.terminal import (
    EXIT_UNHEALTHY,
    ConfigOption,
    JsonOption,
    out,
    print_json,
    settings_source,
)
from dicom_node.errors import ConfigurationError

__all__ = ["app", "register"]

app = typer.Typer(no_args_is_help=True, help="Messages to people: e-mail and webhook.")


@app.callback()
def _group() -> None:
    """Hold the verbs, though there is one only."""


@app.command("test")
def try_channels(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Send one message over every channel; say at which step one failed (exit code 3)."""
    from dicom_node.notifications import NotSent, Step, channels_of, trial_message

    settings = settings_source(config)()
    channels = channels_of(settings)
    if not channels:
        raise ConfigurationError("no channel is configured: name mail.host or webhook.url")
    message = trial_message(settings, token=secrets.token_hex(16), now=time.time())
    found = []
    for name, channel in channels.items():
        steps: list[Step] = []
        failure: NotSent | None = None
        try:
            channel.send(message, steps.append)
        except NotSent as error:
            failure = error
        if json:
            said = [{"step": step.name, "ok": step.ok, "words": step.words} for step in steps]
            if failure is not None:
                said.append({"step": failure.step, "ok": False, "words": failure.words})
            found.append({"channel": name, "ok": all(one["ok"] for one in said), "steps": said})
            continue
        for step in steps:
            mark = "[green]ok[/]" if step.ok else "[red]no[/]"
            out.print(f"{mark} {name}: {step.name}: {escape(step.words)}", highlight=False)
        if failure is not None:
            out.print(
                f"[red]no[/] {name}: {failure.step}: {escape(failure.words)}", highlight=False
            )
        found.append({"channel": name, "ok": failure is None and all(one.ok for one in steps)})
    if json:
        print_json(found)
    if not all(one["ok"] for one in found):
        raise typer.Exit(EXIT_UNHEALTHY)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="notify")
