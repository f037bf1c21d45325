"""The ledger's tables. Every state change of the node is a row here.

Times are seconds since the epoch (UTC) as double precision, the same on SQLite and PostgreSQL.
A change here needs a migration under ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "analyses",
    "associations",
    "bookmarks",
    "breakers",
    "commitment_items",
    "commitments",
    "conditions",
    "conflicts",
    "console_sessions",
    "console_users",
    "deliveries",
    "events",
    "instances",
    "messages",
    "metadata",
    "notices",
    "objects",
    "processes",
    "revisions",
    "series",
    "shipments",
    "tallies",
]

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER keys only
_Time: sa.Double[float] = sa.Double()
_Uid = sa.String(64)
_Digest = sa.String(64)
_AE = sa.String(16)


def _id() -> sa.Column[int]:
    return sa.Column("id", _Id, primary_key=True, autoincrement=True)


def _reference(column: str, *, index: bool = True) -> sa.Column[int]:
    table = column.split(".", maxsplit=1)[0]
    irregular = {"series": "series", "analyses": "analysis", "deliveries": "delivery"}
    singular = irregular.get(table, table.removesuffix("s"))
    return sa.Column(f"{singular}_id", _Id, sa.ForeignKey(column), nullable=False, index=index)


# One row per association that stored something. `closed_at` empty and no activity for longer than
# the idle timeout: its listener died with it.
associations = sa.Table(
    "associations",
    metadata,
    _id(),
    sa.Column("calling_ae", _AE, nullable=False),
    sa.Column("called_ae", _AE, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("opened_at", _Time, nullable=False),
    sa.Column("last_activity_at", _Time, nullable=False),
    sa.Column("closed_at", _Time, index=True),
    sa.Column("outcome", sa.String(16)),
    sa.Column("ignored", sa.JSON),
)

series = sa.Table(
    "series",
    metadata,
    _id(),
    sa.Column("series_instance_uid", _Uid, nullable=False, unique=True),
    sa.Column("study_instance_uid", _Uid, nullable=False, index=True),
    sa.Column("accession_number", sa.String(64), nullable=False, index=True),
    sa.Column("patient_id", sa.String(256), nullable=False),
    sa.Column("issuer_of_patient_id", sa.String(64), nullable=False, server_default=""),
    sa.Column("study_date", sa.String(8), nullable=False, server_default=""),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("description", sa.String(256), nullable=False),
    sa.Column("source_ae", _AE, nullable=False),
    sa.Column("first_arrival_at", _Time, nullable=False),
    sa.Column("last_arrival_at", _Time, nullable=False, index=True),
    sa.Column("removed_at", _Time),  # its last image, by retention; empty: some are held
    sa.Column("traits", sa.JSON),  # what rules ask for: see `dicom_node.series_traits`
    sa.Index("ix_series_removed_at_last_arrival_at", "removed_at", "last_arrival_at"),
    # A patient's studies, the newest first: what a reading is compared with.
    sa.Index("ix_series_patient_id_study_date", "patient_id", "study_date"),
)

# Identity of an instance: SOP Instance UID + digest of its content.
instances = sa.Table(
    "instances",
    metadata,
    _id(),
    _reference("series.id", index=False),
    sa.Column("revision_number", sa.Integer, nullable=False),
    sa.Column("sop_instance_uid", _Uid, nullable=False, unique=True),
    sa.Column("digest", _Digest, nullable=False, index=True),
    sa.Column("path", sa.String(256), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("header", sa.JSON, nullable=False),
    _reference("associations.id"),
    sa.Column("received_at", _Time, nullable=False),
    sa.Column("purged_at", _Time),
    sa.Index("ix_instances_series_id_revision_number", "series_id", "revision_number"),
)

# The same SOP Instance UID with other content: the first is kept, these are quarantined.
conflicts = sa.Table(
    "conflicts",
    metadata,
    _id(),
    sa.Column("sop_instance_uid", _Uid, nullable=False, index=True),
    sa.Column("series_instance_uid", _Uid, nullable=False),
    sa.Column("digest", _Digest, nullable=False),
    sa.Column("path", sa.String(256), nullable=False),
    _reference("associations.id", index=False),
    sa.Column("received_at", _Time, nullable=False),
    sa.UniqueConstraint("sop_instance_uid", "digest", "series_instance_uid"),
)

# A set of instances judged as a whole: revision n holds all instances with a number up to n.
revisions = sa.Table(
    "revisions",
    metadata,
    _id(),
    _reference("series.id", index=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("instance_count", sa.Integer, nullable=False),
    sa.Column("opened_at", _Time, nullable=False),
    sa.Column("last_arrival_at", _Time, nullable=False),
    sa.Column("expected_count", sa.Integer),  # what the source PACS answered
    sa.Column("queried_at", _Time),
    sa.Column("waiting_for", sa.String(256), nullable=False, server_default=""),
    sa.Column("closed_at", _Time),
    sa.Column("closing_reason", sa.String(64)),
    sa.Column("instance_set_digest", _Digest),
    sa.Column("reason", sa.String(512), nullable=False, server_default=""),
    sa.Column("selection", sa.JSON),  # the chosen stack: SOP Instance UIDs and statements
    sa.Column("rule", sa.String(32), nullable=False, server_default=""),  # that decided
    sa.UniqueConstraint("series_id", "number"),
)

analyses = sa.Table(
    "analyses",
    metadata,
    _id(),
    _reference("revisions.id", index=False),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("priority", sa.String(8), nullable=False, server_default="normal"),
    # Order of the queue: created_at, less a head start or plus what it stands back.
    sa.Column("queue_at", _Time, nullable=False, server_default="0"),
    sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false()),  # nothing is sent
    sa.Column("destinations", sa.JSON),  # names of peers; empty: all
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_owner", sa.String(256)),
    sa.Column("lease_expires_at", _Time),
    sa.Column("ready_at", _Time, nullable=False),
    sa.Column("nudged_at", _Time),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("started_at", _Time),  # of the attempt that holds the lease
    sa.Column("first_started_at", _Time),  # of the first: what was read by then, counts as earlier
    sa.Column("finished_at", _Time, index=True),
    sa.Column("stage", sa.String(32), nullable=False, server_default=""),
    sa.Column("done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("total", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reason", sa.String(512), nullable=False, server_default=""),
    sa.Column("result", sa.JSON),  # result.json without the per-slice rows
    sa.UniqueConstraint("revision_id", "run"),
    sa.Index("ix_analyses_state_queue_at", "state", "queue_at"),
)

# The output ledger: what we made, and how the loop guard knows it again.
objects = sa.Table(
    "objects",
    metadata,
    _id(),
    _reference("analyses.id"),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("slot", sa.String(64), nullable=False),  # alternatives share a slot
    sa.Column("rank", sa.Integer, nullable=False),  # 0 is preferred
    sa.Column("sop_class_uid", _Uid, nullable=False),
    sa.Column("sop_instance_uid", _Uid, nullable=False, unique=True),
    sa.Column("series_instance_uid", _Uid, nullable=False, index=True),
    sa.Column("path", sa.String(512), nullable=False),
    sa.Column("sha256", _Digest, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

# All objects of one analysis to one destination: what a delivery worker claims.
shipments = sa.Table(
    "shipments",
    metadata,
    _id(),
    _reference("analyses.id", index=False),
    sa.Column("destination", sa.String(32), nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("lease_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_owner", sa.String(256)),
    sa.Column("lease_expires_at", _Time),
    sa.Column("ready_at", _Time, nullable=False),
    sa.Column("nudged_at", _Time),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # since the last success
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("last_error", sa.String(512), nullable=False, server_default=""),
    sa.Column("held_at", _Time),  # when quiet hours last held it back; to the minute
    sa.UniqueConstraint("analysis_id", "destination"),
    sa.Index("ix_shipments_open_ready_at", "open", "ready_at"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    _id(),
    _reference("shipments.id", index=False),
    sa.Column("slot", sa.String(64), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("object_id", _Id, sa.ForeignKey("objects.id")),  # the chosen alternative
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.Integer),  # DIMSE status of the last answer
    sa.Column("error", sa.String(512), nullable=False, server_default=""),
    sa.Column("sent_at", _Time),
    sa.Column("resends", sa.Integer, nullable=False, server_default="0"),  # for want of proof
    sa.Column("proofs", sa.Integer, nullable=False, server_default="0"),  # asked since it was sent
    sa.Column("proof_due_at", _Time),  # when to ask, or ask again; empty: no proof is wanted
    sa.UniqueConstraint("shipment_id", "slot"),
)

# A storage commitment transaction: one N-ACTION on objects of one shipment. Kept before it is
# sent, and never removed: a report may come at any time.
commitments = sa.Table(
    "commitments",
    metadata,
    _id(),
    _reference("shipments.id"),
    sa.Column("transaction_uid", _Uid, nullable=False, unique=True),
    sa.Column("destination", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # asking, asked, refused, unsent, reported
    sa.Column("requested_at", _Time, nullable=False),
    sa.Column("status", sa.Integer),  # DIMSE status of the N-ACTION
    sa.Column("error", sa.String(512), nullable=False, server_default=""),
    sa.Column("reported_at", _Time),
)

# What a transaction asks for. `sending` is the delivery's count of attempts at that time: a report
# on an earlier sending says nothing of the present one.
commitment_items = sa.Table(
    "commitment_items",
    metadata,
    _id(),
    _reference("commitments.id", index=False),
    _reference("deliveries.id"),
    sa.Column("sop_class_uid", _Uid, nullable=False),
    sa.Column("sop_instance_uid", _Uid, nullable=False),
    sa.Column("sending", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(16)),  # committed, failed
    sa.Column("failure_reason", sa.Integer),
    sa.UniqueConstraint("commitment_id", "sop_instance_uid"),
)

breakers = sa.Table(
    "breakers",
    metadata,
    sa.Column("destination", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("probe_at", _Time, nullable=False),
    sa.Column("last_error", sa.String(512), nullable=False, server_default=""),
)

events = sa.Table(
    "events",
    metadata,
    _id(),
    sa.Column("at", _Time, nullable=False),
    sa.Column("series_id", _Id, sa.ForeignKey("series.id"), index=True),
    sa.Column("kind", sa.String(48), nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)

# Who may use the console. Passwords and tokens are kept as digests only.
console_users = sa.Table(
    "console_users",
    metadata,
    _id(),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.String(256), nullable=False),  # empty: by the proxy's word only
    sa.Column("token_sha256", _Digest, unique=True),  # for programs
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("last_login_at", _Time),
    sa.Column("disabled_at", _Time),
)

console_sessions = sa.Table(
    "console_sessions",
    metadata,
    _id(),
    sa.Column("token_sha256", _Digest, nullable=False, unique=True),
    _reference("console_users.id"),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("expires_at", _Time, nullable=False, index=True),
)

# What is counted: by a process that alone knows it, or from rows that were folded in.
tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("labels", sa.String(160), primary_key=True),  # a JSON list, bounded
    sa.Column("value", sa.Double, nullable=False),
)

# How far a reader of a growing table has come.
bookmarks = sa.Table(
    "bookmarks",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("position", _Id, nullable=False),
)

# Processes that run, by their own word.
processes = sa.Table(
    "processes",
    metadata,
    sa.Column("owner", sa.String(256), primary_key=True),
    sa.Column("part", sa.String(16), nullable=False),
    sa.Column("host", sa.String(64), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("started_at", _Time, nullable=False),
    sa.Column("beat_at", _Time, nullable=False),
    sa.Column("turned_at", _Time),  # the last turn of its loop; empty: it has none
)

# A message to people, over one channel; made before it is sent.
messages = sa.Table(
    "messages",
    metadata,
    _id(),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("token", _Digest, nullable=False, unique=True),  # the same at every attempt
    sa.Column("state", sa.String(16), nullable=False, index=True),  # waiting, sent, given_up
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("ready_at", _Time, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.String(512), nullable=False, server_default=""),
    sa.Column("sent_at", _Time),
)

# What a message is about. Without message: waits to be put into one.
notices = sa.Table(
    "notices",
    metadata,
    _id(),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("occasion", sa.String(16), nullable=False),
    sa.Column("at", _Time, nullable=False),
    sa.Column("series_id", _Id, sa.ForeignKey("series.id")),
    sa.Column("detail", sa.JSON, nullable=False),  # no patient data
    sa.Column("message_id", _Id, sa.ForeignKey("messages.id")),
    sa.Index("ix_notices_message_id_channel", "message_id", "channel"),
)

# What is wrong now and was told: told once, until it is over.
conditions = sa.Table(
    "conditions",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("since", _Time, nullable=False),
)
