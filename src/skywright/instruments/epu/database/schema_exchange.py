"""Tables of what is exchanged with others: messages out and in, agents and their instructions."""

from sqlalchemy import Column, Float, Index, Integer, Table, Text

from skywright.instruments.epu.database.schema import Instant, Json, counted, metadata, parent

outbox = Table(
    "outbox",
    metadata,
    # AUTOINCREMENT: the id is part of the message id and must never be given twice.
    counted("id"),
    Column("event_type", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)
"""Messages that the broker has not taken yet, in the order in which they were committed."""

applied_message = Table(
    "applied_message",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("applied_at", Instant, nullable=False),
    Index(None, "applied_at"),
)
"""Messages that a consumer has applied; the row is written in the transaction that applies it."""


def _session() -> Column[str]:
    return parent("session_id", "agent_session.session_id", nullable=False)


agent_session = Table(
    "agent_session",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("agent_id", Text, nullable=False),
    parent("acquisition_uuid", "acquisition.uuid"),
    Column("name", Text),
    Column("description", Text),
    Column("experimental_parameters", Json),
    Column("status", Text, nullable=False, server_default="active"),
    Column("created_at", Instant, nullable=False),
    Column("last_activity_at", Instant, nullable=False),
    Column("last_heartbeat_at", Instant),
    Index(None, "agent_id"),
)

agent_instruction = Table(
    "agent_instruction",
    metadata,
    counted(),
    Column("instruction_id", Text, nullable=False, unique=True),
    _session(),
    Column("agent_id", Text, nullable=False),
    Column("instruction_type", Text, nullable=False),
    Column("payload", Json, nullable=False),
    Column("sequence_number", Integer),
    Column("priority", Text, nullable=False, server_default="normal"),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("sent_at", Instant),
    Column("acknowledged_at", Instant),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("max_retries", Integer, nullable=False, server_default="3"),
    Column("metadata", Json),
    Index(None, "session_id", "status"),
)

agent_connection = Table(
    "agent_connection",
    metadata,
    Column("connection_id", Text, primary_key=True),
    _session(),
    Column("agent_id", Text, nullable=False),
    Column("client_info", Json),
    Column("status", Text, nullable=False, server_default="active"),
    Column("close_reason", Text),
    Column("created_at", Instant, nullable=False),
    Column("last_heartbeat_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Index(None, "session_id"),
)

agent_acknowledgement = Table(
    "agent_acknowledgement",
    metadata,
    counted("acknowledgement_id"),
    parent("instruction_id", "agent_instruction.instruction_id", nullable=False),
    _session(),
    Column("agent_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("result", Text),
    Column("error_message", Text),
    Column("processing_time_ms", Float),
    Column("processed_at", Instant),
    Column("created_at", Instant, nullable=False),
    Index(None, "instruction_id"),
)

agent_log = Table(
    "agent_log",
    metadata,
    counted("id"),
    _session(),
    Column("agent_id", Text, nullable=False),
    Column("timestamp", Instant, nullable=False),
    Column("level", Text, nullable=False),
    Column("logger_name", Text, nullable=False, server_default=""),
    Column("message", Text, nullable=False),
    Index(None, "session_id", "id"),
)
