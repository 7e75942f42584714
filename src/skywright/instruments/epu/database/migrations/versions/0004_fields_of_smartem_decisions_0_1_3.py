"""Fields that smartem-decisions 0.1.3 has: corrected images, predictions weighed, sessions."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS: dict[str, dict[str, Any]] = {
    "micrograph": {
        "motion_corrected_image_path": sa.Text(),
        "motion_corrected_snapshot_path": sa.Text(),
    },
    "agent_session": {
        "description": sa.Text(),
        "experimental_parameters": sa.JSON().with_variant(JSONB(), "postgresql"),
    },
    "model_weight": {"prediction_value": sa.Float()},
}


def upgrade() -> None:
    """Apply this migration."""
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Take this migration back."""
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)
