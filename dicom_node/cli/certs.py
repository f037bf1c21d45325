"""``m3lung certs``: certificates for trying TLS, and what is in a certificate file."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.terminal import JsonOption, out, print_json
from dicom_node.tls.certificates import (
    Certificate,
    KeyType,
    make_authority,
    make_certificate,
    read_certificates,
)

__all__ = ["app", "register"]

app = typer.Typer(
    name="certs",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Make certificates to try TLS with, and look into certificate files.

    A clinic's own CA makes the real ones. To try it between this node and a PACS:

    [bold]m3lung certs make --out certs --ca --name m3lung --host ct-node.example.org[/]

    [bold]m3lung certs make --out certs --name pacs --host pacs.example.org[/]
    """,
)


@app.command()
def make(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    name: Annotated[str, typer.Option(help="Common name; the files are called after it.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address it is valid for (repeat it)."),
    ] = None,
    ca: Annotated[
        bool, typer.Option("--ca", help="Make a trial CA in the folder first, and sign with it.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="How long it is valid.")] = 365,
    key_type: Annotated[
        KeyType, typer.Option(help="ec: P-256, fast; rsa: 3072 bits, for older peers.")
    ] = "ec",
) -> None:
    """Make a key and a certificate, signed by the folder's trial CA where there is one.

    Without a CA the certificate signs itself, and the peer has to trust it as it is.
    """
    authority = folder / "ca.pem"
    if ca:
        out.print(f"{make_authority(folder, key_type=key_type)}", highlight=False)
    signed_by = folder if authority.exists() else None
    made = make_certificate(
        folder, name, host or (), days=days, key_type=key_type, authority=signed_by
    )
    (certificate,) = read_certificates(made)
    _say(made, certificate)
    out.print(
        f'\\[tls]\ncertificate = "{made.absolute()}"\nkey = "{made.with_suffix(".key").absolute()}"'
        f'\nca = "{(authority if signed_by else made).absolute()}"',
        highlight=False,
        soft_wrap=True,
    )
    if not signed_by:
        out.print("It signs itself: tls.ca has to hold the peers' certificates, one after another.")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A certificate in PEM form, or several.")],
    json: JsonOption = False,
) -> None:
    """Show names, dates, and the fingerprint that a peer's certificate_sha256 takes.

    Exit code 3 when one of them is not valid today.
    """
    found = read_certificates(file)
    if json:
        print_json([{**dataclasses.asdict(one), "days_left": one.days_left} for one in found])
    else:
        for certificate in found:
            _say(file, certificate)
    if any(one.days_left <= 0 or one.not_before > time.time() for one in found):
        raise typer.Exit(3)


def _say(path: Path, certificate: Certificate) -> None:
    until = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_after))
    since = time.strftime("%Y-%m-%d", time.gmtime(certificate.not_before))
    left = certificate.days_left
    state = "EXPIRED" if left <= 0 else f"{left:.0f} days left"
    for line in (
        str(path),
        f"  subject  {certificate.subject}",
        f"  issuer   {certificate.issuer}",
        f"  names    {certificate.names or '-'}",
        f"  valid    {since} to {until} ({state})",
        f"  sha256   {certificate.sha256}",
    ):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="certs")
