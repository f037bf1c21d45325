"""Storage commitment: transactions, what they ask for, and when proof is due."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _id() -> sa.BigInteger:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("deliveries") as table:
        table.add_column(sa.Column("resends", sa.Integer(), server_default="0", nullable=False))
        table.add_column(sa.Column("proofs", sa.Integer(), server_default="0", nullable=False))
        table.add_column(sa.Column("proof_due_at", sa.Double(), nullable=True))
    op.create_table(
        "commitments",
        sa.Column("id", _id(), autoincrement=True, nullable=False),
        sa.Column("shipment_id", _id(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=512), server_default="", nullable=False),
        sa.Column("reported_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["shipment_id"], ["shipments.id"], name=op.f("fk_commitments_shipment_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitments")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitments_transaction_uid")),
    )
    op.create_index(op.f("ix_commitments_shipment_id"), "commitments", ["shipment_id"])
    op.create_table(
        "commitment_items",
        sa.Column("id", _id(), autoincrement=True, nullable=False),
        sa.Column("commitment_id", _id(), nullable=False),
        sa.Column("delivery_id", _id(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sending", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["commitment_id"], ["commitments.id"], name=op.f("fk_commitment_items_commitment_id")
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name=op.f("fk_commitment_items_delivery_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_items")),
        sa.UniqueConstraint(
            "commitment_id",
            "sop_instance_uid",
            name=op.f("uq_commitment_items_commitment_id_sop_instance_uid"),
        ),
    )
    op.create_index(op.f("ix_commitment_items_delivery_id"), "commitment_items", ["delivery_id"])


def downgrade() -> None:
    raise NotImplementedError("older software cannot read proofs: restore a backup")
