"""Run the migrations on the connection that `Database.migrate` hands over."""

from alembic import context

from dicom_node.ledger.tables import metadata

connection = context.config.attributes["connection"]
# SQLite cannot alter most of a table in place: batch mode copies it.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
