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
from dicom_node.settings import NodeSettings, load_settings

__all__ = ["app", "echo"]

app = typer.Typer(add_completion=False)
_AE_TITLE: TypeAdapter[str] = TypeAdapter(AETitle)


@app.command()
def echo(
    target: Annotated[str, typer.Argument(help="A peer's name, or HOST:PORT.")],
    aet: Annotated[str, typer.Option("--aet", help="Called AE title, with HOST:PORT.")] = "ANY-SCP",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="node.toml to use.")] = None,
) -> None:
    """Verify a connection by C-ECHO. Exit code 3 if it is not answered.

    Example: [bold]m3lung echo pacs[/], or [bold]m3lung echo 10.0.0.5:104 --aet ARCHIVE[/].
    """
    try:
        settings = load_settings(config)
        host, port, ae_title = _address(settings, target, aet)
    except ConfigurationError as error:
        typer.secho(str(error), err=True)
        raise typer.Exit(2) from error
    step = connection_test.echo(settings, host, port, ae_title)
    if as_json:
        typer.echo(json.dumps({"target": target, **dataclasses.asdict(step)}))
    else:
        typer.echo(f"{target} ({ae_title} at {host}:{port}): {step.words}")
    if step.result is not connection_test.StepResult.OK:
        raise typer.Exit(3)


def _address(settings: NodeSettings, target: str, aet: str) -> tuple[str, int, str]:
    host, colon, port = target.rpartition(":")
    if not colon:
        peer = settings.peer(target)
        return peer.host, peer.port, peer.ae_title
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"target: {target!r} is neither a peer's name nor HOST:PORT")
    try:
        return host.strip("[]"), int(port), _AE_TITLE.validate_python(aet)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"aet: {message}") from error
