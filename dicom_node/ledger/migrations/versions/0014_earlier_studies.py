"""Earlier studies of a patient: who issued the identifier, the study's date, a fixed "by then"."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "series",
        sa.Column("issuer_of_patient_id", sa.String(length=64), server_default="", nullable=False),
    )
    op.add_column(
        "series", sa.Column("study_date", sa.String(length=8), server_default="", nullable=False)
    )
    op.add_column("analyses", sa.Column("first_started_at", sa.Double(), nullable=True))
    _fill()
    # The second index begins with the same column.
    op.drop_index("ix_series_patient_id", table_name="series")
    op.create_index("ix_series_patient_id_study_date", "series", ["patient_id", "study_date"])


def _fill() -> None:
    """Take both from a header of the series, along the index of its instances."""
    series = sa.table(
        "series", sa.column("id"), sa.column("issuer_of_patient_id"), sa.column("study_date")
    )
    instances = sa.table(
        "instances",
        sa.column("series_id"),
        sa.column("revision_number"),
        sa.column("header", sa.JSON()),
    )

    def of_header(name: str, length: int) -> sa.ColumnElement[str]:
        first = (
            sa.select(instances.c.header[name].as_string())
            .where(instances.c.series_id == series.c.id)
            .order_by(instances.c.revision_number)
            .limit(1)
            .correlate(series)
            .scalar_subquery()
        )
        return sa.func.substr(sa.func.coalesce(first, ""), 1, length)

    op.execute(
        series.update().values(
            issuer_of_patient_id=of_header("issuer_of_patient_id", 64),
            study_date=of_header("study_date", 8),
        )
    )


def downgrade() -> None:
    raise NotImplementedError("older software knows no study dates: restore a backup")
