"""The version of the ledger's schema: is it this software's, and if not, make it so.

Alembic is loaded only where there is something to migrate: it would cost every process of a node
a fifth of a second at each start.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dicom_node.errors import SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "alembic_config", "bring_up_to_date", "is_current", "is_new"]

HEAD = "0014"
"""The newest of ``migrations/versions``; a test compares the two."""


def is_current(connection: sa.Connection) -> bool:
    """Whether the database has this software's schema."""
    if is_new(connection):
        return False
    found = connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all()
    return found == [HEAD]


def is_new(connection: sa.Connection) -> bool:
    """Whether the database has no ledger at all."""
    return not sa.inspect(connection).has_table("alembic_version")


def bring_up_to_date(connection: sa.Connection) -> None:
    """Run the migrations that are missing, in the caller's transaction.

    Raises
    ------
    SchemaMismatch
        The database was written by a newer version.
    """
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = alembic_config()
    known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
    present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in known:
        raise SchemaMismatch(
            f"the ledger has schema {present}, newer than this software knows; "
            "install the version that wrote it, or restore a backup"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def alembic_config() -> Config:
    """Return the configuration of the migrations in this package."""
    from alembic.config import Config

    config = Config()
    folder = resources.files("dicom_node.ledger") / "migrations"
    config.set_main_option("script_location", str(folder))
    return config
