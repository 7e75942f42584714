"""Runs migrations on the connection that `migrate` hands over."""

from alembic import context

from skywright.instruments.epu.database.engine import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    user_module_prefix="schema.",
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter columns in place.
)
context.run_migrations()
