"""Tables of the entity database."""

import sqlalchemy as sa
from alembic import op

from skywright.instruments.epu.database import schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this migration."""
    op.create_table(
        "acquisition",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), server_default="Unknown", nullable=False),
        sa.Column("status", sa.Text(), server_default="started", nullable=False),
        sa.Column("start_time", schema.Instant(), nullable=True),
        sa.Column("end_time", schema.Instant(), nullable=True),
        sa.Column("paused_time", schema.Instant(), nullable=True),
        sa.Column("storage_path", sa.Text(), nullable=True),
        sa.Column("atlas_path", sa.Text(), nullable=True),
        sa.Column("clustering_mode", sa.Text(), nullable=True),
        sa.Column("clustering_radius", sa.Text(), nullable=True),
        sa.Column("instrument_model", sa.Text(), nullable=True),
        sa.Column("instrument_id", sa.Text(), nullable=True),
        sa.Column("computer_name", sa.Text(), nullable=True),
        sa.Column("data_dir", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_acquisition")),
        sa.UniqueConstraint("uuid", name=op.f("uq_acquisition_uuid")),
    )
    op.create_table(
        "applied_message",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("applied_at", schema.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_applied_message")),
    )
    op.create_index(
        op.f("ix_applied_message_applied_at"), "applied_message", ["applied_at"], unique=False
    )
    op.create_table(
        "metric",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_metric")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", schema.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "prediction_model",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("level", sa.Text(), server_default="gridsquare", nullable=False),
        sa.Column("can_train", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("can_infer", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("can_update", sa.Boolean(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_prediction_model")),
    )
    op.create_table(
        "run_rows",
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_uid", sa.Text(), nullable=False),
        sa.Column("amends", sa.Text(), nullable=True),
        sa.Column("first_row", sa.BigInteger(), nullable=False),
        sa.Column("last_row", sa.BigInteger(), nullable=False),
        sa.Column("started_at", schema.Instant(), nullable=True),
        sa.Column("ended_at", schema.Instant(), nullable=True),
        sa.PrimaryKeyConstraint("grid_uuid", "kind", "run_uid", name=op.f("pk_run_rows")),
    )
    op.create_table(
        "setting",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    op.create_table(
        "source_file",
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=True),
        sa.Column("entity_uuid", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("recorded_at", schema.Instant(), nullable=True),
        sa.PrimaryKeyConstraint("root", "path", name=op.f("pk_source_file")),
    )
    op.create_index(op.f("ix_source_file_grid_uuid"), "source_file", ["grid_uuid"], unique=False)
    op.create_table(
        "agent_session",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("acquisition_uuid", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("created_at", schema.Instant(), nullable=False),
        sa.Column("last_activity_at", schema.Instant(), nullable=False),
        sa.Column("last_heartbeat_at", schema.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["acquisition_uuid"],
            ["acquisition.uuid"],
            name=op.f("fk_agent_session_acquisition_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_agent_session")),
    )
    op.create_index(op.f("ix_agent_session_agent_id"), "agent_session", ["agent_id"], unique=False)
    op.create_table(
        "grid",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("acquisition_uuid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="Unknown", nullable=False),
        sa.Column("status", sa.Text(), server_default="none", nullable=False),
        sa.Column("data_dir", sa.Text(), nullable=True),
        sa.Column("atlas_dir", sa.Text(), nullable=True),
        sa.Column("atlas_uuid", sa.Text(), nullable=True),
        sa.Column("scan_start_time", schema.Instant(), nullable=True),
        sa.Column("scan_end_time", schema.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["acquisition_uuid"],
            ["acquisition.uuid"],
            name=op.f("fk_grid_acquisition_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_grid")),
        sa.UniqueConstraint("uuid", name=op.f("uq_grid_uuid")),
    )
    op.create_index(
        op.f("ix_grid_acquisition_uuid_number"),
        "grid",
        ["acquisition_uuid", "number"],
        unique=False,
    )
    op.create_index(op.f("ix_grid_atlas_uuid"), "grid", ["atlas_uuid"], unique=False)
    op.create_table(
        "agent_connection",
        sa.Column("connection_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("client_info", schema.Json, nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("close_reason", sa.Text(), nullable=True),
        sa.Column("created_at", schema.Instant(), nullable=False),
        sa.Column("last_heartbeat_at", schema.Instant(), nullable=False),
        sa.Column("closed_at", schema.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["agent_session.session_id"],
            name=op.f("fk_agent_connection_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("connection_id", name=op.f("pk_agent_connection")),
    )
    op.create_index(
        op.f("ix_agent_connection_session_id"), "agent_connection", ["session_id"], unique=False
    )
    op.create_table(
        "agent_instruction",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("instruction_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("instruction_type", sa.Text(), nullable=False),
        sa.Column("payload", schema.Json, nullable=False),
        sa.Column("sequence_number", sa.Integer(), nullable=True),
        sa.Column("priority", sa.Text(), server_default="normal", nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("created_at", schema.Instant(), nullable=False),
        sa.Column("expires_at", schema.Instant(), nullable=True),
        sa.Column("sent_at", schema.Instant(), nullable=True),
        sa.Column("acknowledged_at", schema.Instant(), nullable=True),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer(), server_default="3", nullable=False),
        sa.Column("metadata", schema.Json, nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["agent_session.session_id"],
            name=op.f("fk_agent_instruction_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_agent_instruction")),
        sa.UniqueConstraint("instruction_id", name=op.f("uq_agent_instruction_instruction_id")),
    )
    op.create_index(
        op.f("ix_agent_instruction_session_id_status"),
        "agent_instruction",
        ["session_id", "status"],
        unique=False,
    )
    op.create_table(
        "agent_log",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("timestamp", schema.Instant(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("logger_name", sa.Text(), server_default="", nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["agent_session.session_id"],
            name=op.f("fk_agent_log_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_log")),
    )
    op.create_index(
        op.f("ix_agent_log_session_id_id"), "agent_log", ["session_id", "id"], unique=False
    )
    op.create_table(
        "atlas",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("atlas_id", sa.Text(), server_default="", nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=True),
        sa.Column("acquisition_date", schema.Instant(), nullable=True),
        sa.Column("storage_folder", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("gridsquares", schema.Json, nullable=True),
        sa.ForeignKeyConstraint(
            ["grid_uuid"], ["grid.uuid"], name=op.f("fk_atlas_grid_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_atlas")),
        sa.UniqueConstraint("uuid", name=op.f("uq_atlas_uuid")),
    )
    op.create_index(
        op.f("ix_atlas_grid_uuid_number"), "atlas", ["grid_uuid", "number"], unique=False
    )
    op.create_table(
        "current_model_weight",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_current_model_weight_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_current_model_weight_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_current_model_weight_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_current_model_weight")),
    )
    op.create_index(
        op.f("ix_current_model_weight_grid_uuid_prediction_model_name"),
        "current_model_weight",
        ["grid_uuid", "prediction_model_name"],
        unique=False,
    )
    op.create_table(
        "foilhole",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_id", sa.Text(), nullable=True),
        sa.Column("foilhole_id", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), server_default="none", nullable=False),
        sa.Column("center_x", sa.Float(), nullable=True),
        sa.Column("center_y", sa.Float(), nullable=True),
        sa.Column("quality", sa.Float(), nullable=True),
        sa.Column("rotation", sa.Float(), nullable=True),
        sa.Column("size_width", sa.Float(), nullable=True),
        sa.Column("size_height", sa.Float(), nullable=True),
        sa.Column("x_location", sa.Float(), nullable=True),
        sa.Column("y_location", sa.Float(), nullable=True),
        sa.Column("x_stage_position", sa.Float(), nullable=True),
        sa.Column("y_stage_position", sa.Float(), nullable=True),
        sa.Column("diameter", sa.Float(), nullable=True),
        sa.Column("is_near_grid_bar", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("planned", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("manifest_file", sa.Text(), nullable=True),
        sa.Column("manifest_stamp", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["grid_uuid"], ["grid.uuid"], name=op.f("fk_foilhole_grid_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_foilhole")),
        sa.UniqueConstraint("uuid", name=op.f("uq_foilhole_uuid")),
    )
    op.create_index(
        op.f("ix_foilhole_grid_uuid_foilhole_id"),
        "foilhole",
        ["grid_uuid", "foilhole_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_foilhole_gridsquare_uuid_number"),
        "foilhole",
        ["gridsquare_uuid", "number"],
        unique=False,
    )
    op.create_table(
        "foilhole_group",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_foilhole_group_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_foilhole_group")),
        sa.UniqueConstraint("uuid", name=op.f("uq_foilhole_group_uuid")),
    )
    op.create_index(
        op.f("ix_foilhole_group_grid_uuid"), "foilhole_group", ["grid_uuid"], unique=False
    )
    op.create_table(
        "gridsquare",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_id", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), server_default="none", nullable=False),
        sa.Column("data_dir", sa.Text(), nullable=True),
        sa.Column("atlas_node_id", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("rotation", sa.Float(), nullable=True),
        sa.Column("image_path", sa.Text(), nullable=True),
        sa.Column("selected", sa.Boolean(), nullable=True),
        sa.Column("unusable", sa.Boolean(), nullable=True),
        sa.Column("stage_position_x", sa.Float(), nullable=True),
        sa.Column("stage_position_y", sa.Float(), nullable=True),
        sa.Column("stage_position_z", sa.Float(), nullable=True),
        sa.Column("center_x", sa.Float(), nullable=True),
        sa.Column("center_y", sa.Float(), nullable=True),
        sa.Column("physical_x", sa.Float(), nullable=True),
        sa.Column("physical_y", sa.Float(), nullable=True),
        sa.Column("size_width", sa.Float(), nullable=True),
        sa.Column("size_height", sa.Float(), nullable=True),
        sa.Column("acquisition_datetime", schema.Instant(), nullable=True),
        sa.Column("defocus", sa.Float(), nullable=True),
        sa.Column("applied_defocus", sa.Float(), nullable=True),
        sa.Column("magnification", sa.Float(), nullable=True),
        sa.Column("pixel_size", sa.Float(), nullable=True),
        sa.Column("detector_name", sa.Text(), nullable=True),
        sa.Column("n_foilhole_positions", sa.Integer(), nullable=True),
        sa.Column("lowmag", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("metadata_file", sa.Text(), nullable=True),
        sa.Column("manifest_file", sa.Text(), nullable=True),
        sa.Column("manifest_stamp", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["grid_uuid"], ["grid.uuid"], name=op.f("fk_gridsquare_grid_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_gridsquare")),
        sa.UniqueConstraint("uuid", name=op.f("uq_gridsquare_uuid")),
    )
    op.create_index(
        op.f("ix_gridsquare_grid_uuid_gridsquare_id"),
        "gridsquare",
        ["grid_uuid", "gridsquare_id"],
        unique=False,
    )
    op.create_table(
        "metric_statistics",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("value_sum", sa.Float(), nullable=False),
        sa.Column("squared_value_sum", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_metric_statistics_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["name"], ["metric.name"], name=op.f("fk_metric_statistics_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "grid_uuid", name=op.f("pk_metric_statistics")),
    )
    op.create_table(
        "micrograph",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=False),
        sa.Column("foilhole_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_id", sa.Text(), nullable=True),
        sa.Column("foilhole_id", sa.Text(), nullable=True),
        sa.Column("location_id", sa.Text(), nullable=True),
        sa.Column("micrograph_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="none", nullable=False),
        sa.Column("high_res_path", sa.Text(), nullable=True),
        sa.Column("manifest_file", sa.Text(), nullable=True),
        sa.Column("manifest_stamp", sa.Text(), nullable=True),
        sa.Column("acquisition_datetime", schema.Instant(), nullable=True),
        sa.Column("defocus", sa.Float(), nullable=True),
        sa.Column("applied_defocus", sa.Float(), nullable=True),
        sa.Column("magnification", sa.Float(), nullable=True),
        sa.Column("pixel_size", sa.Float(), nullable=True),
        sa.Column("detector_name", sa.Text(), nullable=True),
        sa.Column("energy_filter", sa.Boolean(), nullable=True),
        sa.Column("phase_plate", sa.Boolean(), nullable=True),
        sa.Column("image_size_x", sa.Integer(), nullable=True),
        sa.Column("image_size_y", sa.Integer(), nullable=True),
        sa.Column("binning_x", sa.Integer(), nullable=True),
        sa.Column("binning_y", sa.Integer(), nullable=True),
        sa.Column("fractions", sa.Integer(), nullable=True),
        sa.Column("exposure_time", sa.Float(), nullable=True),
        sa.Column("dose", sa.Float(), nullable=True),
        sa.Column("high_tension", sa.Float(), nullable=True),
        sa.Column("stage_x", sa.Float(), nullable=True),
        sa.Column("stage_y", sa.Float(), nullable=True),
        sa.Column("stage_z", sa.Float(), nullable=True),
        sa.Column("beam_shift_x", sa.Float(), nullable=True),
        sa.Column("beam_shift_y", sa.Float(), nullable=True),
        sa.Column("total_motion", sa.Float(), nullable=True),
        sa.Column("average_motion", sa.Float(), nullable=True),
        sa.Column("ctf_max_resolution_estimate", sa.Float(), nullable=True),
        sa.Column("number_of_particles_picked", sa.Integer(), nullable=True),
        sa.Column("number_of_particles_selected", sa.Integer(), nullable=True),
        sa.Column("number_of_particles_rejected", sa.Integer(), nullable=True),
        sa.Column("pick_distribution", sa.Text(), nullable=True),
        sa.Column("selection_distribution", sa.Text(), nullable=True),
        sa.Column("updated_at", schema.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["grid_uuid"], ["grid.uuid"], name=op.f("fk_micrograph_grid_uuid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_micrograph")),
        sa.UniqueConstraint("uuid", name=op.f("uq_micrograph_uuid")),
    )
    op.create_index(
        op.f("ix_micrograph_foilhole_uuid_number"),
        "micrograph",
        ["foilhole_uuid", "number"],
        unique=False,
    )
    op.create_index(
        op.f("ix_micrograph_grid_uuid_acquisition_datetime"),
        "micrograph",
        ["grid_uuid", "acquisition_datetime"],
        unique=False,
    )
    op.create_index(
        op.f("ix_micrograph_grid_uuid_defocus"),
        "micrograph",
        ["grid_uuid", "defocus"],
        unique=False,
    )
    op.create_index(
        op.f("ix_micrograph_grid_uuid_number"), "micrograph", ["grid_uuid", "number"], unique=False
    )
    op.create_index(
        op.f("ix_micrograph_gridsquare_uuid_number"),
        "micrograph",
        ["gridsquare_uuid", "number"],
        unique=False,
    )
    op.create_index(op.f("ix_micrograph_updated_at"), "micrograph", ["updated_at"], unique=False)
    op.create_table(
        "model_parameter",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("timestamp", schema.Instant(), nullable=False),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("group", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_model_parameter_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_model_parameter_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_model_parameter_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_parameter")),
    )
    op.create_index(
        op.f("ix_model_parameter_grid_uuid_prediction_model_name_group_key"),
        "model_parameter",
        ["grid_uuid", "prediction_model_name", "group", "key"],
        unique=False,
    )
    op.create_table(
        "agent_acknowledgement",
        sa.Column("acknowledgement_id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("instruction_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("processing_time_ms", sa.Float(), nullable=True),
        sa.Column("processed_at", schema.Instant(), nullable=True),
        sa.Column("created_at", schema.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instruction_id"],
            ["agent_instruction.instruction_id"],
            name=op.f("fk_agent_acknowledgement_instruction_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["agent_session.session_id"],
            name=op.f("fk_agent_acknowledgement_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("acknowledgement_id", name=op.f("pk_agent_acknowledgement")),
    )
    op.create_index(
        op.f("ix_agent_acknowledgement_instruction_id"),
        "agent_acknowledgement",
        ["instruction_id"],
        unique=False,
    )
    op.create_table(
        "atlas_tile",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("atlas_uuid", sa.Text(), nullable=False),
        sa.Column("tile_id", sa.Text(), server_default="", nullable=False),
        sa.Column("position_x", sa.Float(), nullable=True),
        sa.Column("position_y", sa.Float(), nullable=True),
        sa.Column("size_x", sa.Float(), nullable=True),
        sa.Column("size_y", sa.Float(), nullable=True),
        sa.Column("file_format", sa.Text(), nullable=True),
        sa.Column("base_filename", sa.Text(), nullable=True),
        sa.Column("gridsquares", schema.Json, nullable=True),
        sa.ForeignKeyConstraint(
            ["atlas_uuid"],
            ["atlas.uuid"],
            name=op.f("fk_atlas_tile_atlas_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_atlas_tile")),
        sa.UniqueConstraint("uuid", name=op.f("uq_atlas_tile_uuid")),
    )
    op.create_index(
        op.f("ix_atlas_tile_atlas_uuid_number"),
        "atlas_tile",
        ["atlas_uuid", "number"],
        unique=False,
    )
    op.create_table(
        "current_prediction",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=True),
        sa.Column("foilhole_uuid", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["foilhole_uuid"],
            ["foilhole.uuid"],
            name=op.f("fk_current_prediction_foilhole_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_current_prediction_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["gridsquare_uuid"],
            ["gridsquare.uuid"],
            name=op.f("fk_current_prediction_gridsquare_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_current_prediction_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_current_prediction_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_current_prediction")),
    )
    op.create_index(
        op.f("ix_current_prediction_foilhole_uuid"),
        "current_prediction",
        ["foilhole_uuid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_current_prediction_grid_uuid"), "current_prediction", ["grid_uuid"], unique=False
    )
    op.create_index(
        op.f("ix_current_prediction_gridsquare_uuid"),
        "current_prediction",
        ["gridsquare_uuid"],
        unique=False,
    )
    op.create_table(
        "foilhole_group_member",
        sa.Column("group_uuid", sa.Text(), nullable=False),
        sa.Column("foilhole_uuid", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["foilhole_uuid"],
            ["foilhole.uuid"],
            name=op.f("fk_foilhole_group_member_foilhole_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["group_uuid"],
            ["foilhole_group.uuid"],
            name=op.f("fk_foilhole_group_member_group_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "group_uuid", "foilhole_uuid", name=op.f("pk_foilhole_group_member")
        ),
    )
    op.create_index(
        op.f("ix_foilhole_group_member_foilhole_uuid"),
        "foilhole_group_member",
        ["foilhole_uuid"],
        unique=False,
    )
    op.create_table(
        "group_prediction",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("group_uuid", sa.Text(), nullable=True),
        sa.Column("timestamp", schema.Instant(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["group_uuid"],
            ["foilhole_group.uuid"],
            name=op.f("fk_group_prediction_group_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_group_prediction_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_group_prediction_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_group_prediction")),
    )
    op.create_index(
        op.f("ix_group_prediction_group_uuid_id"),
        "group_prediction",
        ["group_uuid", "id"],
        unique=False,
    )
    op.create_table(
        "model_weight",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("micrograph_uuid", sa.Text(), nullable=True),
        sa.Column("micrograph_quality", sa.Boolean(), nullable=True),
        sa.Column("timestamp", schema.Instant(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["grid_uuid"], ["grid.uuid"], name=op.f("fk_model_weight_grid_uuid"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_model_weight_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["micrograph_uuid"],
            ["micrograph.uuid"],
            name=op.f("fk_model_weight_micrograph_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_model_weight_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_weight")),
    )
    op.create_index(
        op.f("ix_model_weight_grid_uuid_prediction_model_name_id"),
        "model_weight",
        ["grid_uuid", "prediction_model_name", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_model_weight_micrograph_uuid"), "model_weight", ["micrograph_uuid"], unique=False
    )
    op.create_table(
        "overall_prediction",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("grid_uuid", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=True),
        sa.Column("foilhole_uuid", sa.Text(), nullable=True),
        sa.Column("suggested_acquisition_index", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["foilhole_uuid"],
            ["foilhole.uuid"],
            name=op.f("fk_overall_prediction_foilhole_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["grid_uuid"],
            ["grid.uuid"],
            name=op.f("fk_overall_prediction_grid_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["gridsquare_uuid"],
            ["gridsquare.uuid"],
            name=op.f("fk_overall_prediction_gridsquare_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_overall_prediction")),
    )
    op.create_index(
        op.f("ix_overall_prediction_foilhole_uuid"),
        "overall_prediction",
        ["foilhole_uuid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_overall_prediction_grid_uuid"), "overall_prediction", ["grid_uuid"], unique=False
    )
    op.create_index(
        op.f("ix_overall_prediction_gridsquare_uuid"),
        "overall_prediction",
        ["gridsquare_uuid"],
        unique=False,
    )
    op.create_table(
        "prediction",
        sa.Column("id", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("timestamp", schema.Instant(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("prediction_model_name", sa.Text(), nullable=False),
        sa.Column("metric_name", sa.Text(), nullable=True),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=True),
        sa.Column("foilhole_uuid", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["foilhole_uuid"],
            ["foilhole.uuid"],
            name=op.f("fk_prediction_foilhole_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["gridsquare_uuid"],
            ["gridsquare.uuid"],
            name=op.f("fk_prediction_gridsquare_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["metric_name"],
            ["metric.name"],
            name=op.f("fk_prediction_metric_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["prediction_model_name"],
            ["prediction_model.name"],
            name=op.f("fk_prediction_prediction_model_name"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prediction")),
    )
    op.create_index(
        op.f("ix_prediction_foilhole_uuid_id"), "prediction", ["foilhole_uuid", "id"], unique=False
    )
    op.create_index(
        op.f("ix_prediction_gridsquare_uuid_id"),
        "prediction",
        ["gridsquare_uuid", "id"],
        unique=False,
    )
    op.create_table(
        "atlas_tile_position",
        sa.Column("number", schema.BigId, autoincrement=True, nullable=False),
        sa.Column("atlastile_uuid", sa.Text(), nullable=False),
        sa.Column("gridsquare_uuid", sa.Text(), nullable=False),
        sa.Column("center_x", sa.Float(), nullable=False),
        sa.Column("center_y", sa.Float(), nullable=False),
        sa.Column("size_width", sa.Float(), nullable=False),
        sa.Column("size_height", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["atlastile_uuid"],
            ["atlas_tile.uuid"],
            name=op.f("fk_atlas_tile_position_atlastile_uuid"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["gridsquare_uuid"],
            ["gridsquare.uuid"],
            name=op.f("fk_atlas_tile_position_gridsquare_uuid"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_atlas_tile_position")),
    )
    op.create_index(
        op.f("ix_atlas_tile_position_gridsquare_uuid"),
        "atlas_tile_position",
        ["gridsquare_uuid"],
        unique=False,
    )
    op.create_index(
        "uq_atlas_tile_position",
        "atlas_tile_position",
        ["atlastile_uuid", "gridsquare_uuid"],
        unique=True,
    )


def downgrade() -> None:
    """Take this migration back."""
    op.drop_index("uq_atlas_tile_position", table_name="atlas_tile_position")
    op.drop_index(op.f("ix_atlas_tile_position_gridsquare_uuid"), table_name="atlas_tile_position")
    op.drop_table("atlas_tile_position")
    op.drop_index(op.f("ix_prediction_gridsquare_uuid_id"), table_name="prediction")
    op.drop_index(op.f("ix_prediction_foilhole_uuid_id"), table_name="prediction")
    op.drop_table("prediction")
    op.drop_index(op.f("ix_overall_prediction_gridsquare_uuid"), table_name="overall_prediction")
    op.drop_index(op.f("ix_overall_prediction_grid_uuid"), table_name="overall_prediction")
    op.drop_index(op.f("ix_overall_prediction_foilhole_uuid"), table_name="overall_prediction")
    op.drop_table("overall_prediction")
    op.drop_index(op.f("ix_model_weight_micrograph_uuid"), table_name="model_weight")
    op.drop_index(
        op.f("ix_model_weight_grid_uuid_prediction_model_name_id"), table_name="model_weight"
    )
    op.drop_table("model_weight")
    op.drop_index(op.f("ix_group_prediction_group_uuid_id"), table_name="group_prediction")
    op.drop_table("group_prediction")
    op.drop_index(
        op.f("ix_foilhole_group_member_foilhole_uuid"), table_name="foilhole_group_member"
    )
    op.drop_table("foilhole_group_member")
    op.drop_index(op.f("ix_current_prediction_gridsquare_uuid"), table_name="current_prediction")
    op.drop_index(op.f("ix_current_prediction_grid_uuid"), table_name="current_prediction")
    op.drop_index(op.f("ix_current_prediction_foilhole_uuid"), table_name="current_prediction")
    op.drop_table("current_prediction")
    op.drop_index(op.f("ix_atlas_tile_atlas_uuid_number"), table_name="atlas_tile")
    op.drop_table("atlas_tile")
    op.drop_index(
        op.f("ix_agent_acknowledgement_instruction_id"), table_name="agent_acknowledgement"
    )
    op.drop_table("agent_acknowledgement")
    op.drop_index(
        op.f("ix_model_parameter_grid_uuid_prediction_model_name_group_key"),
        table_name="model_parameter",
    )
    op.drop_table("model_parameter")
    op.drop_index(op.f("ix_micrograph_updated_at"), table_name="micrograph")
    op.drop_index(op.f("ix_micrograph_gridsquare_uuid_number"), table_name="micrograph")
    op.drop_index(op.f("ix_micrograph_grid_uuid_number"), table_name="micrograph")
    op.drop_index(op.f("ix_micrograph_grid_uuid_defocus"), table_name="micrograph")
    op.drop_index(op.f("ix_micrograph_grid_uuid_acquisition_datetime"), table_name="micrograph")
    op.drop_index(op.f("ix_micrograph_foilhole_uuid_number"), table_name="micrograph")
    op.drop_table("micrograph")
    op.drop_table("metric_statistics")
    op.drop_index(op.f("ix_gridsquare_grid_uuid_gridsquare_id"), table_name="gridsquare")
    op.drop_table("gridsquare")
    op.drop_index(op.f("ix_foilhole_group_grid_uuid"), table_name="foilhole_group")
    op.drop_table("foilhole_group")
    op.drop_index(op.f("ix_foilhole_gridsquare_uuid_number"), table_name="foilhole")
    op.drop_index(op.f("ix_foilhole_grid_uuid_foilhole_id"), table_name="foilhole")
    op.drop_table("foilhole")
    op.drop_index(
        op.f("ix_current_model_weight_grid_uuid_prediction_model_name"),
        table_name="current_model_weight",
    )
    op.drop_table("current_model_weight")
    op.drop_index(op.f("ix_atlas_grid_uuid_number"), table_name="atlas")
    op.drop_table("atlas")
    op.drop_index(op.f("ix_agent_log_session_id_id"), table_name="agent_log")
    op.drop_table("agent_log")
    op.drop_index(op.f("ix_agent_instruction_session_id_status"), table_name="agent_instruction")
    op.drop_table("agent_instruction")
    op.drop_index(op.f("ix_agent_connection_session_id"), table_name="agent_connection")
    op.drop_table("agent_connection")
    op.drop_index(op.f("ix_grid_atlas_uuid"), table_name="grid")
    op.drop_index(op.f("ix_grid_acquisition_uuid_number"), table_name="grid")
    op.drop_table("grid")
    op.drop_index(op.f("ix_agent_session_agent_id"), table_name="agent_session")
    op.drop_table("agent_session")
    op.drop_index(op.f("ix_source_file_grid_uuid"), table_name="source_file")
    op.drop_table("source_file")
    op.drop_table("setting")
    op.drop_table("run_rows")
    op.drop_table("prediction_model")
    op.drop_table("outbox")
    op.drop_table("metric")
    op.drop_index(op.f("ix_applied_message_applied_at"), table_name="applied_message")
    op.drop_table("applied_message")
    op.drop_table("acquisition")
