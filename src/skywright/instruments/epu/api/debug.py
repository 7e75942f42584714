"""Routes that tests and operators use to make and look at agent sessions and instructions."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, HTTPException, Response
from sqlalchemy import Connection, Table, func, insert, select

from skywright.instruments.epu.api import instructions, models_services
from skywright.instruments.epu.api.answers import answer
from skywright.instruments.epu.api.instructions import UNANSWERED
from skywright.instruments.epu.api.service import PageOf, Service, ServiceOf
from skywright.instruments.epu.database import read
from skywright.instruments.epu.database.schema_exchange import (
    agent_acknowledgement,
    agent_connection,
    agent_instruction,
    agent_session,
)
from skywright.instruments.epu.database.write import set_values

router = APIRouter(prefix="/debug", tags=["debug"])


@router.get("/sessions")
def sessions(service: ServiceOf, page: PageOf) -> Response:
    """Give the active sessions, the last used first, and how many there are."""
    rows = _active(service, agent_session, "last_activity_at")
    # smartem-decisions answers this field, and never sets it.
    found = [row | {"started_at": None} for row in rows]
    return answer({"active_sessions": page.cut(found), "total_count": len(found)})


def _active(service: Service, table: Table, newest: str) -> list[dict[str, Any]]:
    query = select(table).where(table.c.status == "active")
    order = (table.c[newest].desc(), *table.primary_key)
    with service.database.read() as connection:
        return [dict(row) for row in connection.execute(query.order_by(*order)).mappings()]


@router.get("/agent-connections")
def connections(service: ServiceOf, page: PageOf) -> Response:
    """Give the open streams, and how many there are."""
    rows = _active(service, agent_connection, "last_heartbeat_at")
    found = [row | {"connection_type": "sse"} for row in rows]
    return answer({"active_connections": page.cut(found), "total_count": len(found)})


@router.get("/connection-stats")
def connection_stats(service: ServiceOf) -> Response:
    """Count sessions, streams, and instructions that wait or are not acknowledged."""
    with service.database.read() as connection:
        of_instructions, of_connections, of_sessions = (
            _by_status(connection, table)
            for table in (agent_instruction, agent_connection, agent_session)
        )
    return answer(
        {
            "active_connections": of_connections["active"],
            "total_connections": of_connections.total(),
            "active_sessions": of_sessions["active"],
            "total_sessions": of_sessions.total(),
            "pending_instructions": of_instructions["pending"],
            "sent_instructions": of_instructions["sent"],
            "total_instructions_pending": sum(of_instructions[each] for each in UNANSWERED),
            "timestamp": datetime.now(UTC),
        }
    )


def _by_status(connection: Connection, table: Table, *where: Any) -> Counter[str]:
    """Return the number of rows of each status."""
    query = select(table.c.status, func.count()).where(*where).group_by(table.c.status)
    return Counter(dict(connection.execute(query).tuples().all()))


async def _create_session(service: Service, body: models_services.SessionCreate) -> dict[str, Any]:
    now = datetime.now(UTC)
    session_id = body.session_id or str(uuid4())

    def work(connection: Connection) -> None:
        uuid = body.acquisition_uuid
        if uuid is not None and read.get(connection, "acquisition", uuid) is None:
            raise HTTPException(404, f"Acquisition {uuid} not found")
        known = instructions.session(connection, session_id)
        if known is not None:
            if known["agent_id"] != body.agent_id:
                raise HTTPException(409, f"Session {session_id} belongs to another agent")
            mine = agent_session.c.session_id == session_id
            set_values(connection, agent_session, mine, status="active", last_activity_at=now)
            return
        connection.execute(
            insert(agent_session).values(
                session_id=session_id,
                agent_id=body.agent_id,
                acquisition_uuid=uuid,
                name=body.name,
                description=body.description,
                experimental_parameters=body.experimental_parameters,
                created_at=now,
                last_activity_at=now,
            )
        )

    await service.writer.do(work)
    return {
        "session_id": session_id,
        "agent_id": body.agent_id,
        "status": "created",
        "created_at": now,
    }


@router.post("/sessions/create")
async def create_session(body: models_services.SessionCreate, service: ServiceOf) -> Response:
    """Make an agent session, or use one of that name again."""
    return answer(await _create_session(service, body))


@router.post("/sessions/create-managed")
async def create_managed(body: models_services.SessionCreate, service: ServiceOf) -> Response:
    """Make an agent session."""
    made = await _create_session(service, body)
    return answer(made | {"created_via": "connection_manager", "timestamp": made["created_at"]})


@router.delete("/sessions/{session_id}/close")
async def close_session(session_id: str, service: ServiceOf) -> Response:
    """Close a session; its agent gets no more instructions."""

    def work(connection: Connection) -> None:
        mine = agent_session.c.session_id == session_id
        if not set_values(connection, agent_session, mine, status="closed"):
            raise HTTPException(404, f"Session {session_id} not found")
        instructions.end_streams(connection, session_id)

    await service.writer.do(work)
    return answer(
        {
            "session_id": session_id,
            "status": "closed",
            "closed_via": "connection_manager",
            "timestamp": datetime.now(UTC),
        }
    )


@router.post("/session/{session_id}/create-instruction")
async def create_instruction(
    session_id: str, body: models_services.InstructionCreate, service: ServiceOf
) -> Response:
    """Make an instruction for the agent of a session."""
    row = await service.writer.do(
        lambda connection: instructions.instruct(connection, session_id, body)
    )
    return answer(
        {
            "instruction_id": row["instruction_id"],
            "status": "created",
            "created_at": row["created_at"],
        }
    )


@router.get("/session/{session_id}/instructions")
def session_instructions(session_id: str, service: ServiceOf, page: PageOf) -> Response:
    """Give the instructions of a session, the newest first, and how they were answered."""
    table, ack = agent_instruction, agent_acknowledgement
    query = select(table).where(table.c.session_id == session_id).order_by(table.c.number.desc())
    with service.database.read() as connection:
        if instructions.session(connection, session_id) is None:
            raise HTTPException(404, f"Session {session_id} not found")
        rows = [dict(row) for row in connection.execute(query).mappings()]
        per = select(ack.c.instruction_id, func.count()).group_by(ack.c.instruction_id)
        counts = dict(connection.execute(per.where(ack.c.session_id == session_id)).tuples().all())
        statistics = _by_status(connection, ack, ack.c.session_id == session_id)
    for row in rows:
        row["acknowledgements_count"] = counts.get(row["instruction_id"], 0)
        del row["number"]
    return answer(
        {
            "session_id": session_id,
            "instructions": page.cut(rows),
            "total_instructions": len(rows),
            "acknowledgement_statistics": statistics,
        }
    )
