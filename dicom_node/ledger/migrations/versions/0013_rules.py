"""Rules, priorities and quiet hours: what is known of a series, the order of the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("series", sa.Column("traits", sa.JSON(), nullable=True))
    op.add_column(
        "revisions", sa.Column("rule", sa.String(length=32), server_default="", nullable=False)
    )
    with op.batch_alter_table("analyses") as table:
        table.add_column(
            sa.Column("priority", sa.String(length=8), server_default="normal", nullable=False)
        )
        # For the rows there are: they keep the order in which they were made.
        table.add_column(sa.Column("queue_at", sa.Double(), server_default="0", nullable=False))
        table.add_column(
            sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        table.add_column(sa.Column("destinations", sa.JSON(), nullable=True))
    analyses = sa.table(
        "analyses", sa.column("queue_at", sa.Double()), sa.column("created_at", sa.Double())
    )
    op.execute(analyses.update().values(queue_at=analyses.c.created_at))
    op.drop_index("ix_analyses_state", table_name="analyses")
    op.create_index("ix_analyses_state_queue_at", "analyses", ["state", "queue_at"])
    op.create_index("ix_analyses_finished_at", "analyses", ["finished_at"])
    op.add_column("shipments", sa.Column("held_at", sa.Double(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("older software knows no order of the queue: restore a backup")
