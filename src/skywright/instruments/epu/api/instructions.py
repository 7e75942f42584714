"""Instructions for agents in the database: make, hand out, acknowledge."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from fastapi import HTTPException
from sqlalchemy import Connection, RowMapping, case, func, insert, select

from skywright.instruments.epu.api import models_services
from skywright.instruments.epu.database.schema_exchange import (
    agent_acknowledgement,
    agent_connection,
    agent_instruction,
    agent_session,
)
from skywright.instruments.epu.database.write import announce, chunks, set_values

Row = RowMapping
UNANSWERED = ("pending", "sent")
"""States of an instruction that is not over."""
_RANK = case({"high": 0, "normal": 1, "low": 2}, value=agent_instruction.c.priority, else_=1)


def session(connection: Connection, session_id: str) -> Row | None:
    """Give an agent session."""
    query = select(agent_session).where(agent_session.c.session_id == session_id)
    return connection.execute(query).mappings().first()


def session_problem(connection: Connection, agent_id: str, session_id: str) -> str | None:
    """Say why an agent may not use a session; None where it may."""
    row = session(connection, session_id)
    if row is None:
        return f"Session {session_id} not found"
    if row["agent_id"] != agent_id:
        return f"Session {session_id} does not belong to agent {agent_id}"
    if row["status"] != "active":
        return f"Session {session_id} is not active (status: {row['status']})"
    return None


def instruct(
    connection: Connection, session_id: str, body: models_services.InstructionCreate
) -> dict[str, Any]:
    """Store an instruction for the agent of a session, and announce it.

    Raises
    ------
    HTTPException
        404: there is no such session.
    """
    row = session(connection, session_id)
    if row is None:
        raise HTTPException(404, "Session not found")
    now = datetime.now(UTC)
    minutes = body.expires_in_minutes
    values = {
        "instruction_id": str(uuid4()),
        "session_id": session_id,
        "agent_id": row["agent_id"],
        "instruction_type": body.instruction_type,
        "payload": body.payload,
        "sequence_number": body.sequence_number,
        "priority": body.priority,
        "created_at": now,
        "expires_at": now + timedelta(minutes=minutes) if minutes else None,
        "metadata": body.metadata,
    }
    connection.execute(insert(agent_instruction).values(values))
    names = ("instruction_id", "session_id", "agent_id", "instruction_type", "payload")
    _announce(
        connection,
        "agent.instruction.created",
        {name: values[name] for name in (*names, "sequence_number", "priority")}
        | {"expires_at": _iso(values["expires_at"]), "instruction_metadata": body.metadata},
    )
    return values


def hand_out(connection: Connection, session_id: str) -> Sequence[Row]:
    """Give the instructions that wait for the agent of a session; their status becomes ``sent``.

    The order is priority (high, normal, low), then sequence number, then age. Instructions whose
    time is over become ``expired`` instead. When each was sent is stored by `mark`.
    """
    table = agent_instruction
    now = datetime.now(UTC)
    query = (
        select(table)
        .where(table.c.session_id == session_id, table.c.status == "pending")
        .order_by(
            _RANK,
            table.c.sequence_number.is_(None),  # those without a number come last
            table.c.sequence_number,
            table.c.number,
        )
    )
    rows = list(connection.execute(query).mappings())
    late = [row for row in rows if row["expires_at"] is not None and row["expires_at"] <= now]
    for row in late:
        _announce(
            connection,
            "agent.instruction.expired",
            {name: row[name] for name in ("instruction_id", "session_id", "agent_id")}
            | {"expires_at": _iso(row["expires_at"]), "retry_count": row["retry_count"]},
        )
    expired = {row["instruction_id"] for row in late}
    sent = [row for row in rows if row["instruction_id"] not in expired]
    for status, part in (("expired", late), ("sent", sent)):
        # After days without its agent a session has more than a statement takes.
        for ids in chunks([row["instruction_id"] for row in part]):
            set_values(connection, table, table.c.instruction_id.in_(ids), status=status)
    touch(connection, session_id)
    return sent


def mark(connection: Connection, instruction_id: str, **values: Any) -> None:
    """Note what has become of an instruction."""
    mine = agent_instruction.c.instruction_id == instruction_id
    set_values(connection, agent_instruction, mine, **values)


def put_back(connection: Connection, rows: Sequence[Row]) -> None:
    """Let instructions wait again that a stream took and that may not have reached its agent.

    ``retry_count`` counts these. ``max_retries`` does not limit them: only their time of expiry
    ends them.
    """
    for ids in chunks([row["instruction_id"] for row in rows]):
        _put_back(connection, agent_instruction.c.instruction_id.in_(ids))


def _put_back(connection: Connection, *which: Any) -> None:
    table = agent_instruction
    again = {"status": "pending", "sent_at": None, "retry_count": table.c.retry_count + 1}
    set_values(connection, table, table.c.status == "sent", *which, **again)


def waiting(connection: Connection, session_id: str) -> bool:
    """Say whether a session has instructions to hand out."""
    table = agent_instruction
    query = select(table.c.number).where(
        table.c.session_id == session_id, table.c.status == "pending"
    )
    return connection.execute(query.limit(1)).first() is not None


def acknowledge(
    connection: Connection,
    agent_id: str,
    session_id: str,
    instruction_id: str,
    body: models_services.Acknowledgement,
) -> datetime:
    """Store an agent's answer to an instruction and give the time of it.

    Raises
    ------
    HTTPException
        404: no such session or instruction; 403: it is another agent's; 409: it has an answer.
    """
    row = session(connection, session_id)
    if row is None:
        raise HTTPException(404, f"Session {session_id} not found")
    if row["agent_id"] != agent_id:
        raise HTTPException(403, f"Session {session_id} does not belong to agent {agent_id}")
    table = agent_instruction
    found = connection.execute(
        select(table).where(
            table.c.instruction_id == instruction_id, table.c.session_id == session_id
        )
    )
    instruction = found.mappings().first()
    if instruction is None:
        raise HTTPException(404, "Instruction not found")
    if instruction["status"] not in UNANSWERED:
        status = instruction["status"]
        raise HTTPException(409, f"Instruction cannot be acknowledged: it is {status}")
    now = datetime.now(UTC)
    ids = {"instruction_id": instruction_id, "session_id": session_id, "agent_id": agent_id}
    mark(connection, instruction_id, status="acknowledged", acknowledged_at=now)
    connection.execute(
        insert(agent_acknowledgement).values(created_at=now, **ids, **body.model_dump())
    )
    touch(connection, session_id)
    _announce(
        connection,
        "agent.instruction.updated",
        {**ids, "status": "acknowledged", "acknowledged_at": now.isoformat()},
    )
    return now


def touch(connection: Connection, session_id: str) -> None:
    """Note that a session is in use."""
    mine = agent_session.c.session_id == session_id
    set_values(connection, agent_session, mine, last_activity_at=datetime.now(UTC))


def connect(connection: Connection, agent_id: str, session_id: str, client: str) -> str:
    """Store that an agent's stream began and give the id of the connection.

    It takes the place of earlier streams of the session: the network may hide that they are dead.
    What they took without an answer waits again; skywright's agent passes over an instruction that
    comes twice. So does what a stream took but had not sent when its server died.
    """
    table, mine = agent_instruction.c, agent_connection.c.session_id == session_id
    active = agent_connection.c.status == "active"
    since = select(func.min(agent_connection.c.created_at)).where(mine, active).scalar_subquery()
    taken = table.sent_at.is_(None) | (table.sent_at >= since)
    _put_back(connection, table.session_id == session_id, taken)
    _close(connection, "replaced", mine)
    now = datetime.now(UTC)
    connection_id = str(uuid4())
    connection.execute(
        insert(agent_connection).values(
            connection_id=connection_id,
            session_id=session_id,
            agent_id=agent_id,
            client_info={"address": client},
            created_at=now,
            last_heartbeat_at=now,
        )
    )
    return connection_id


def disconnect(connection: Connection, connection_id: str, reason: str) -> None:
    """Store that an agent's stream ended."""
    _close(connection, reason, agent_connection.c.connection_id == connection_id)


def end_streams(connection: Connection, session_id: str) -> None:
    """Let the open streams of a session end, which is closed now."""
    _close(connection, "session closed", agent_connection.c.session_id == session_id)


def close_reason(connection: Connection, connection_id: str) -> str | None:
    """Return why an agent's stream was closed; None while it is open."""
    table = agent_connection.c
    query = select(table.close_reason).where(table.connection_id == connection_id)
    row = connection.execute(query).first()
    return row.close_reason if row is not None else "removed with its session"


def beat(connection: Connection, connection_id: str) -> None:
    """Note that an agent's stream is alive."""
    mine = agent_connection.c.connection_id == connection_id
    set_values(connection, agent_connection, mine, last_heartbeat_at=datetime.now(UTC))


def close_stale(connection: Connection, seconds: float, alive: Collection[str] = ()) -> None:
    """Close the connections without a sign of life for a time: their server died.

    Those that are `alive` stay: while the database was away, it got no signs of life.
    """
    table, last = agent_connection.c, datetime.now(UTC) - timedelta(seconds=seconds)
    silent = (table.last_heartbeat_at <= last) & table.connection_id.not_in(alive)
    _close(connection, "server died", silent)


def _close(connection: Connection, reason: str, which: Any) -> None:
    active = agent_connection.c.status == "active"
    closed = {"status": "closed", "close_reason": reason, "closed_at": datetime.now(UTC)}
    set_values(connection, agent_connection, active, which, **closed)


def _announce(connection: Connection, name: str, body: dict[str, Any]) -> None:
    announce(connection, [{"event_type": name, **body}])


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None
