"""``m3lung peers``: who may send to us, and who gets the results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.audit import Auditor
from dicom_node.audit.message import EventType, person_name
from dicom_node.configuration import Change, Version
from dicom_node.delivery.connection_test import Step, StepResult, check_peer, is_healthy
from dicom_node.domain import ObjectKind
from dicom_node.errors import ConfigurationError
from dicom_node.peers_document import PeersDocument, peer_from
from dicom_node.settings import Peer, PeerRole, load_settings

__all__ = ["app", "register"]

app = typer.Typer(
    name="peers",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Manage the AE titles this node talks to.

    A [bold]source[/] may send to us; a [bold]destination[/] gets the results. They stand as
    tables named peers in node.toml; every change is checked first, and the version before it is
    kept in config-history under the state directory.

    Example:  [bold]m3lung peers add pacs --ae-title ARCHIVE --host pacs.example.org --port 104[/]

    then:  [bold]m3lung peers test pacs[/]
    """,
)

_STYLES = {StepResult.OK: "green", StepResult.FAILED: "bold red", StepResult.SKIPPED: "dim"}

Config = Annotated[
    Path | None,
    typer.Option("--config", help="node.toml; else M3LUNG_CONFIG, ./node.toml, ~/.config/m3lung."),
]
Name = Annotated[str, typer.Argument(help="What the peer is called here, such as pacs.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for scripts.")]


@app.command()
def add(
    name: Name,
    ae_title: Annotated[
        str,
        typer.Option(
            "--ae-title",
            help="The peer's own AE title, 1 to 16 characters. With --stow-url it may be left out.",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(help="Host name or address. With --stow-url it may be left out.")
    ] = "",
    port: Annotated[
        int,
        typer.Option(
            help="TCP port of its DICOM service, often 104 or 11112. "
            "With --stow-url it may be left out."
        ),
    ] = 0,
    stow_url: Annotated[
        str,
        typer.Option(
            "--stow-url",
            help="Results go there by STOW-RS in place of C-STORE: https://HOST/dicom-web/studies.",
        ),
    ] = "",
    role: Annotated[
        list[PeerRole] | None,
        typer.Option(help="source, destination, or both (repeat it). Default: both."),
    ] = None,
    output: Annotated[
        list[ObjectKind] | None,
        typer.Option(help="What a destination gets (repeat it). Default: everything."),
    ] = None,
    compress: Annotated[
        Literal["none", "lossless", "jpeg"],
        typer.Option(help="How overlays are sent where the peer accepts it."),
    ] = "lossless",
    query: Annotated[
        bool,
        typer.Option(
            "--query", help="The source answers C-FIND: ask it how many images a series has."
        ),
    ] = False,
    commitment: Annotated[
        Literal["none", "request"],
        typer.Option(help="Whether a destination is asked to commit to what it accepted."),
    ] = "none",
    verify: Annotated[
        Literal["none", "c-find", "qido"],
        typer.Option(help="Whether a destination is asked by C-FIND or QIDO-RS what it holds."),
    ] = "none",
    associations: Annotated[
        int,
        typer.Option(
            min=1, max=8, help="Associations to a destination at once; it may grant fewer."
        ),
    ] = 1,
    address: Annotated[
        list[str] | None,
        typer.Option(help="Address or network it may call from (repeat it). Default: any."),
    ] = None,
    quiet_hours: Annotated[
        list[str] | None,
        typer.Option(
            "--quiet-hours",
            help="Hours in which it gets nothing, local time: 07:00-09:30 (repeat it).",
        ),
    ] = None,
    let_urgent: Annotated[
        bool,
        typer.Option("--let-urgent", help="Results of urgent series go to it in quiet hours, too."),
    ] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="It speaks TLS, both ways; needs [tls] in node.toml.")
    ] = False,
    certificate_sha256: Annotated[
        list[str] | None,
        typer.Option(help="Fingerprint of its certificate: m3lung certs show FILE."),
    ] = None,
    certificate_name: Annotated[
        str, typer.Option(help="Or the name that its certificate carries. Default: its host.")
    ] = "",
    config: Config = None,
) -> None:
    """Add a peer.

    Example, a PACS that sends CT series and gets all results:
    [bold]m3lung peers add pacs --ae-title ARCHIVE --host 10.0.0.5 --port 104 --query[/]

    Example, a viewer that gets overlays and summary only:
    [bold]m3lung peers add viewer --ae-title VIEWER --host 10.0.0.9 --port 4242
    --role destination --output overlay --output summary[/]

    Example, an archive that takes results by STOW-RS and answers QIDO-RS:
    [bold]m3lung peers add web --stow-url https://pacs.example.org/dicom-web/studies
    --role destination --verify qido[/]
    """
    try:
        peer = peer_from(
            {
                "name": name,
                **_address(name, ae_title, host, port, stow_url),
                "query": query,
                "compress": compress,
                "commitment": commitment,
                "verify": verify,
                "associations": associations,
                "addresses": tuple(address or ()),
                "quiet_hours": tuple(quiet_hours or ()),
                "quiet_hours_let_urgent": let_urgent,
                "tls": tls,
                "certificate_sha256": tuple(certificate_sha256 or ()),
                "certificate_name": certificate_name,
                **({"roles": tuple(role)} if role else {}),
                **({"outputs": tuple(output)} if output else {}),
            }
        )
        document = PeersDocument(config)
        words = f"peer {peer.name} added: {peer.ae_title} at {peer.place}"
        kept = document.add(peer, Change(person_name(), "m3lung peers add", words))
        _audit(document, words)
    except ConfigurationError as error:
        raise _usage(error) from error
    typer.echo(f"added {peer.name} ({peer.ae_title} at {peer.place}) to {document.path}")
    _say_kept(kept)
    typer.echo(f"Try it: m3lung peers test {peer.name}")


def _address(name: str, ae_title: str, host: str, port: int, stow_url: str) -> dict[str, object]:
    """Return what a user said of where the peer is; by STOW-RS alone the address is enough."""
    if stow_url:
        # It is called something in the ledger and in the audit trail.
        found: dict[str, object] = {"ae_title": ae_title or name.upper()[:16], "stow_url": stow_url}
        return found | ({"host": host} if host else {}) | ({"port": port} if port else {})
    for option, value in (("--ae-title", ae_title), ("--host", host), ("--port", port)):
        if not value:
            raise ConfigurationError(f"{option}: is needed, or --stow-url in place of all three")
    return {"ae_title": ae_title, "host": host, "port": port}


@app.command()
def remove(name: Name, config: Config = None) -> None:
    """Remove a peer. Example: [bold]m3lung peers remove viewer[/].

    What already waits for it stays in the ledger and is sent if it is added again.
    """
    try:
        document = PeersDocument(config)
        words = f"peer {name} removed"
        kept = document.remove(name, Change(person_name(), "m3lung peers remove", words))
        _audit(document, words)
    except ConfigurationError as error:
        raise _usage(error) from error
    typer.echo(f"removed {name} from {document.path}")
    _say_kept(kept)


@app.command("list")
def list_peers(as_json: Json = False, config: Config = None) -> None:
    """List the peers. Example: [bold]m3lung peers list --json[/]."""
    try:
        peers = load_settings(config).peers
    except ConfigurationError as error:
        raise _usage(error) from error
    if as_json:
        typer.echo(json.dumps([peer.model_dump(mode="json") for peer in peers], indent=2))
    elif not peers:
        typer.echo(
            "no peers; add one: m3lung peers add pacs --ae-title ARCHIVE --host … --port 104"
        )
    else:
        Console().print(_peers_table(peers))


@app.command("test")
def try_peer(name: Name, as_json: Json = False, config: Config = None) -> None:
    """Try a peer step by step: name, TCP, association, C-ECHO, and each object it would get.

    With a stow_url: name, TCP, TLS, HTTP, authentication, STOW-RS, QIDO-RS.

    Nothing is stored at the peer. Exit code 3 if anything failed.

    Example: [bold]m3lung peers test pacs[/]
    """
    try:
        settings = load_settings(config)
        peer = settings.peer(name)
    except ConfigurationError as error:
        raise _usage(error) from error
    steps = check_peer(settings, peer)
    healthy = is_healthy(steps)
    if as_json:
        report = {
            "peer": peer.name,
            "healthy": healthy,
            "steps": [dataclasses.asdict(step) for step in steps],
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        Console().print(_steps_table(peer, steps))
    if not healthy:
        raise typer.Exit(3)


def _audit(document: PeersDocument, words: str) -> None:
    Auditor(load_settings(document.path), "command").user_did(
        words, action="U", kind=EventType.NETWORK_CONFIGURATION
    )


def _usage(error: ConfigurationError) -> typer.Exit:
    typer.secho(str(error), err=True)
    return typer.Exit(2)


def _say_kept(kept: Version | None) -> None:
    if kept is not None:
        typer.echo(f"the version before: {kept.path}")


def _peers_table(peers: tuple[Peer, ...]) -> Table:
    table = Table(
        *("name", "AE title", "address", "roles", "outputs", "compress"),
        *("proof", "query", "TLS", "enabled"),
    )
    for peer in peers:
        everything = set(peer.outputs) == set(ObjectKind)
        table.add_row(
            peer.name,
            escape(peer.ae_title),
            escape(peer.place),
            ", ".join(peer.roles),
            "all" if everything else ", ".join(peer.outputs),
            peer.compress,
            _proof(peer),
            "yes" if peer.query else "no",
            "yes" if peer.tls else "no",
            "yes" if peer.enabled else "no",
        )
    return table


def _proof(peer: Peer) -> str:
    asked = {
        "commitment": peer.commitment == "request",
        "C-FIND": peer.verify == "c-find",
        "QIDO-RS": peer.verify == "qido",
    }
    return ", ".join(name for name, is_asked in asked.items() if is_asked) or "none"


def _steps_table(peer: Peer, steps: list[Step]) -> Table:
    table = Table("step", "result", "found", title=escape(f"{peer.name}: {peer.ae_title}"))
    for step in steps:
        style = _STYLES[step.result]
        table.add_row(step.name, f"[{style}]{step.result}[/]", escape(step.words))
    return table


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="peers")
