"""Tables of the entity database.

`migrate` makes the tables of a new database from the code's own declaration, so this step, from
which the others count, is never applied.
"""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Refuse: a database without a version is made whole by `migrate`."""
    raise NotImplementedError("open the database by open_database, which makes its tables")
