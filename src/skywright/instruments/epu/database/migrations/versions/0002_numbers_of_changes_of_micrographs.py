"""Numbers of changes of micrographs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.add_column("micrograph", sa.Column("change", sa.BigInteger(), nullable=True))
    op.execute("UPDATE micrograph SET change = number")
    op.create_index(op.f("ix_micrograph_change"), "micrograph", ["change"], unique=False)
    op.drop_index(op.f("ix_micrograph_updated_at"), table_name="micrograph")
    op.execute(
        "INSERT INTO setting (name, value)"
        " SELECT 'changes', CAST(COALESCE(MAX(number), 0) AS TEXT) FROM micrograph"
    )


def downgrade() -> None:
    """Take this migration back."""
    op.execute("DELETE FROM setting WHERE name = 'changes'")
    op.create_index(op.f("ix_micrograph_updated_at"), "micrograph", ["updated_at"], unique=False)
    op.drop_index(op.f("ix_micrograph_change"), table_name="micrograph")
    op.drop_column("micrograph", "change")
