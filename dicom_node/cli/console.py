"""``m3lung console``: the web console, and who may use it."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.table import Table

from dicom_node.audit import Auditor
from dicom_node.cli.orphan import end_with_parent
from dicom_node.cli.terminal import ConfigOption, JsonOption, err, out, print_json, settings_source
from dicom_node.errors import ConfigurationError
from dicom_node.ledger.console_users import ConsoleRole, ConsoleUsers
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import NodeSettings

__all__ = ["app", "register"]

app = typer.Typer(
    name="console",
    rich_markup_mode="rich",
    help="""The web console: worklist, series, system. `m3lung serve` starts it, too.

    First make an administrator; there is no default password:

    [bold]m3lung console add-user NAME --role admin[/]
    """,
)

_Name = Annotated[str, typer.Argument(help="Of the user.")]
_PasswordOption = Annotated[
    bool,
    typer.Option(
        "--no-password", help="Without a password: a reverse proxy logs in (console.login_header)."
    ),
]


@app.callback(invoke_without_command=True)
def console(context: typer.Context, config: ConfigOption = None) -> None:
    """Serve the web console until it is stopped."""
    if context.invoked_subcommand is not None:
        return
    from dicom_node.console.server import run_console

    end_with_parent()
    source = settings_source(config)
    source().root.mkdir(parents=True, exist_ok=True, mode=0o700)
    run_console(source)


@app.command("add-user")
def add_user(
    name: _Name,
    role: Annotated[ConsoleRole, typer.Option(help="viewer looks, admin changes.")],
    no_password: _PasswordOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a user. Asks for the password, or reads it from standard input.

    Example: m3lung console add-user ada --role admin
    """
    settings = settings_source(config)()
    if not name.isprintable() or name != name.strip() or not 1 <= len(name) <= 64:
        raise ConfigurationError(
            "name: 1 to 64 printable characters, none of them a space at an end"
        )
    kept = "" if no_password else _new_password()
    with open_node_ledger(settings) as ledger:
        ConsoleUsers(ledger.database).add(name, role, kept)
    _record(settings, f"console user added: {name}, {role}")
    out.print(f"{name} may use the console as {role}.", markup=False, highlight=False)


@app.command()
def password(name: _Name, config: ConfigOption = None) -> None:
    """Give a user a new password; all sessions of that user end."""
    settings = settings_source(config)()
    with open_node_ledger(settings) as ledger:
        users = ConsoleUsers(ledger.database)
        user = users.require(name)
        users.change(user, password_hash=_new_password())
    _record(settings, f"console password changed: {name}")


@app.command("set-user")
def set_user(
    name: _Name,
    role: Annotated[ConsoleRole | None, typer.Option(help="The new role.")] = None,
    enabled: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Whether the user may log in.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Change the role of a user, or shut a user out; all sessions of that user end."""
    if role is None and enabled is None:
        raise ConfigurationError("say what: --role, --enable or --disable")
    settings = settings_source(config)()
    with open_node_ledger(settings) as ledger:
        users = ConsoleUsers(ledger.database)
        users.change(users.require(name), role=role, enabled=enabled)
    words = [f"role {role}"] if role else []
    words += [] if enabled is None else ["enabled" if enabled else "disabled"]
    _record(settings, f"console user changed: {name}, {', '.join(words)}")


@app.command()
def token(
    name: _Name,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take it back instead.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make a token for a user's programs (the JSON API); the one before is void.

    It is printed once and kept nowhere: Authorization: Bearer TOKEN
    """
    settings = settings_source(config)()
    with open_node_ledger(settings) as ledger:
        users = ConsoleUsers(ledger.database)
        user = users.require(name)
        made = "" if revoke else users.new_token(user)
        if revoke and not users.revoke_token(user):
            raise ConfigurationError(f"name: {name!r} has no token")
    _record(settings, f"console token {'revoked' if revoke else 'made'}: {name}")
    if made:
        typer.echo(made)


@app.command()
def users(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List who may use the console."""
    with open_node_ledger(settings_source(config)()) as ledger:
        found = ConsoleUsers(ledger.database).all()
    if json:
        print_json(
            [
                {
                    "name": user.name,
                    "role": user.role.value,
                    "enabled": user.disabled_at is None,
                    "password": bool(user.password_hash),
                    "token": user.has_token,
                    "last_login_at": user.last_login_at,
                }
                for user in found
            ]
        )
        return
    if not found:
        err.print("Nobody yet: m3lung console add-user NAME --role admin", highlight=False)
        return
    table = Table("name", "role", "logs in by", "token", "last login", box=None, pad_edge=False)
    for user in found:
        at = user.last_login_at
        table.add_row(
            user.name,
            user.role.value,
            "nothing: disabled"
            if user.disabled_at
            else "password"
            if user.password_hash
            else "proxy",
            "yes" if user.has_token else "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else "never",
        )
    out.print(table)


def _new_password() -> str:
    from dicom_node.console import passwords

    if sys.stdin.isatty():
        first = typer.prompt("Password", hide_input=True)
        if typer.prompt("Once more", hide_input=True) != first:
            raise ConfigurationError("password: the two differ")
    else:
        first = sys.stdin.readline().rstrip("\r\n")
    return passwords.digest(first)


def _record(settings: NodeSettings, words: str) -> None:
    Auditor(settings, "command").user_did(words)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="console", rich_help_panel="Use")
