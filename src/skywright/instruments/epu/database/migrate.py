"""Bringing a database's tables up to date with alembic, without a configuration file."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect, text

from skywright.errors import ConfigError
from skywright.instruments.epu.database.engine import metadata

SCRIPTS = Path(__file__).with_name("migrations")
MIGRATION_LOCK = 0x5E9B
"""Advisory lock of PostgreSQL: two processes that start together must not both make tables."""


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Make the tables of a new database, or apply the migrations that an older one lacks.

    Both are done in one transaction.

    Raises
    ------
    ConfigError
        The database was made by a newer version of this program, or by another program: it has
        tables with our names and no version.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK}
                )
            config = alembic_config(connection)
            try:
                if MigrationContext.configure(connection).get_current_revision() is None:
                    _make_tables(connection)
                    command.stamp(config, "head")
                else:
                    command.upgrade(config, "head")
            except CommandError as error:
                raise ConfigError(f"database {engine.url.render_as_string()}: {error}") from error


def _make_tables(connection: Connection) -> None:
    found = sorted(metadata.tables.keys() & set(inspect(connection).get_table_names()))
    if found:
        raise ConfigError(
            f"database {connection.engine.url.render_as_string()}: its tables {', '.join(found)} "
            "are of another program; name an empty database"
        )
    metadata.create_all(connection)
