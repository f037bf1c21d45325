"""``m3lung echo``: one C-ECHO."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from dicom_node.delivery import connection_test
from dicom_node.domain import AETitle
from dicom_node.errors import ConfigurationError
from dicom_node.settings import NodeSettings, Peer, load_settings

__all__ = ["app", "echo", "register"]

app = typer.Typer(add_completion=False)
_AE_TITLE: TypeAdapter[str] = TypeAdapter(AETitle)


@app.command()
def echo(
    target: Annotated[str, typer.Argument(help="A peer's name, or HOST:PORT.")],
    aet: Annotated[str, typer.Option("--aet", help="Called AE title, with HOST:PORT.")] = "ANY-SCP",
    tls: Annotated[
        bool, typer.Option("--tls", help="Over TLS, with HOST:PORT; a peer's entry says it itself.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="node.toml to use.")] = None,
) -> None:
    """Verify a connection by C-ECHO. Exit code 3 if it is not answered.

    Example: [bold]m3lung echo pacs[/], or [bold]m3lung echo 10.0.0.5:104 --aet ARCHIVE[/].
    """
    try:
        settings = load_settings(config)
        peer = _peer(settings, target, aet, tls=tls)
    except ConfigurationError as error:
        typer.secho(str(error), err=True)
        raise typer.Exit(2) from error
    step = connection_test.echo(settings, peer)
    if as_json:
        typer.echo(json.dumps({"target": target, **dataclasses.asdict(step)}))
    else:
        typer.echo(f"{target} ({peer.ae_title} at {peer.host}:{peer.port}): {step.words}")
    if step.result is not connection_test.StepResult.OK:
        raise typer.Exit(3)


def _peer(settings: NodeSettings, target: str, aet: str, *, tls: bool) -> Peer:
    host, colon, port = target.rpartition(":")
    if not colon:
        return settings.peer(target)
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"target: {target!r} is neither a peer's name nor HOST:PORT")
    if tls and not settings.tls.enabled:
        raise ConfigurationError("tls: certificate, key and ca are needed to speak TLS")
    try:
        ae_title = _AE_TITLE.validate_python(aet)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"aet: {message}") from error
    return Peer(name="target", ae_title=ae_title, host=host.strip("[]"), port=int(port), tls=tls)


def register(root: typer.Typer) -> None:
    """Add the verb to `root`."""
    root.command(rich_help_panel="Administration")(echo)
