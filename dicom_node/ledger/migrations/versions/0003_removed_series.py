"""When retention removed the last image of a series: its sweep passes over them from now on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("series") as table:
        table.add_column(sa.Column("removed_at", sa.Double(), nullable=True))
    op.execute(
        "UPDATE series SET removed_at = "
        "(SELECT max(purged_at) FROM instances WHERE instances.series_id = series.id) "
        "WHERE NOT EXISTS (SELECT 1 FROM instances "
        "WHERE instances.series_id = series.id AND instances.purged_at IS NULL)"
    )
    op.create_index(
        "ix_series_removed_at_last_arrival_at", "series", ["removed_at", "last_arrival_at"]
    )


def downgrade() -> None:
    raise NotImplementedError("older software would not clear the mark: restore a backup")
