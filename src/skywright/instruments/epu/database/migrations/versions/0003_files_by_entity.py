"""An index of files by the entity that was read from them."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = op.f("ix_source_file_kind_entity_uuid")


def upgrade() -> None:
    """Apply this migration."""
    op.create_index(NAME, "source_file", ["kind", "entity_uuid"], unique=False)


def downgrade() -> None:
    """Take this migration back."""
    op.drop_index(NAME, table_name="source_file")
