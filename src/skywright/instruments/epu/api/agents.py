"""Routes of agents: the stream of instructions, answers, heartbeats, logs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.instruments.epu.api import instructions, models_services
from skywright.instruments.epu.api.answers import answer
from skywright.instruments.epu.api.service import Service, ServiceOf
from skywright.instruments.epu.api.streams import PING, PING_S, event, event_stream
from skywright.instruments.epu.database import report_failure
from skywright.instruments.epu.database.schema_exchange import (
    agent_connection,
    agent_log,
    agent_session,
)
from skywright.instruments.epu.database.write import set_values

logger = logging.getLogger(__name__)
router = APIRouter()

POLL_S = 1.0
"""Longest delay of an instruction that another process stored; one of our own comes at once."""

HEARTBEAT_S = 30.0
LOGS_MAX = 500
"""Lines of a batch that are stored."""


@router.get("/agent/{agent_id}/session/{session_id}/instructions/stream")
async def stream(agent_id: str, session_id: str, request: Request, service: ServiceOf) -> Response:
    """Stream instructions to an agent, as server-sent events.

    Each comes once, unless a newer stream replaces the one that took it before it is acknowledged,
    or the server is killed in the moment in which it is sent.
    """
    client = request.client.host if request.client else ""
    return event_stream(await _open(service, agent_id, session_id, client))


async def _open(
    service: Service, agent_id: str, session_id: str, client: str
) -> AsyncIterator[bytes]:
    """Give the events of a new stream; where the database is away, the answer is its error."""

    def begin(connection: Connection) -> tuple[str, str | None]:
        problem = instructions.session_problem(connection, agent_id, session_id)
        if problem is not None:
            return "", problem
        return instructions.connect(connection, agent_id, session_id, client), None

    connection_id, problem = await service.writer.do(begin)
    if problem is not None:
        return _refusal(problem)
    ids = {"agent_id": agent_id, "session_id": session_id, "connection_id": connection_id}
    return _instructions(service, ids)


async def _refusal(problem: str) -> AsyncIterator[bytes]:
    yield event("error", {"error": "session_validation_failed", "message": problem})


async def _instructions(service: Service, ids: dict[str, str]) -> AsyncIterator[bytes]:
    session_id, connection_id = ids["session_id"], ids["connection_id"]
    reason = "client_disconnect"
    undelivered: list[instructions.Row] = []
    service.streams.add(connection_id)
    try:
        yield event("connection", {**ids, "status": "connected"})
        next_heartbeat = next_ping = 0.0
        is_noted, trouble = True, ""
        while not service.stopping.is_set():
            changed = service.changed
            if time.monotonic() >= next_heartbeat:
                next_heartbeat = time.monotonic() + HEARTBEAT_S
                next_ping = time.monotonic() + PING_S
                yield event("heartbeat", {**ids, "timestamp": datetime.now(UTC)})
                is_noted = False
            elif time.monotonic() >= next_ping:
                next_ping = time.monotonic() + PING_S
                yield PING
            try:
                closed = await _take_waiting(service, ids, undelivered)
                if closed == "replaced":
                    message = f"a newer stream of session {session_id} has replaced this one"
                    yield event("error", {"error": closed, "message": message})
                if closed is not None:  # the agent connects again
                    return
                if not is_noted:
                    await service.writer.do(partial(instructions.beat, connection_id=connection_id))
                    is_noted = True
                while undelivered:
                    number = undelivered[0]["instruction_id"]
                    try:
                        chunk = event("instruction", _instruction(undelivered[0]))
                    except TypeError as error:  # made before `_deliverable` refused such
                        logger.error("instruction %s cannot be sent: %s", number, error)
                        became: dict[str, Any] = {"status": "failed"}  # not handed out again
                    else:
                        yield chunk
                        became = {"sent_at": datetime.now(UTC)}
                    undelivered.pop(0)
                    note = partial(instructions.mark, instruction_id=number, **became)
                    await service.writer.do(note)
                trouble = ""
            except SQLAlchemyError as error:
                # After the end of a stream the agent of smartem-decisions never connects again.
                trouble = report_failure("instructions for agents", error, trouble)
            await service.wait(POLL_S, changed)
        reason = "server_shutdown"
    finally:
        service.streams.discard(connection_id)

        def end(connection: Connection) -> None:
            if instructions.close_reason(connection, connection_id) != "replaced":
                instructions.put_back(connection, undelivered)
            instructions.disconnect(connection, connection_id, reason)

        # The task may be cancelled here; the writer's thread does this by itself.
        service.writer.post(end)


async def _take_waiting(
    service: Service, ids: dict[str, str], rows: list[instructions.Row]
) -> str | None:
    """Add the instructions that wait to `rows`, also where this task is cancelled meanwhile.

    Return why the stream was closed; None while it is open.
    """
    before = list(rows)

    def is_due() -> bool:
        with service.database.read() as connection:
            waits = instructions.waiting(connection, ids["session_id"])
            return waits or bool(instructions.close_reason(connection, ids["connection_id"]))

    def take(connection: Connection) -> str | None:
        reason = instructions.close_reason(connection, ids["connection_id"])
        if reason is None:
            # Not `extend`: the writer may do this twice
            rows[:] = [*before, *instructions.hand_out(connection, ids["session_id"])]
        return reason

    try:
        return await service.writer.do(take) if await asyncio.to_thread(is_due) else None
    except SQLAlchemyError:
        rows[:] = before  # they were not handed out after all
        raise


def _instruction(row: instructions.Row) -> dict[str, Any]:
    names = (
        *("instruction_id", "agent_id", "session_id", "instruction_type", "payload"),
        *("sequence_number", "priority", "created_at", "expires_at", "metadata"),
    )
    return {name: row[name] for name in names}


@router.post(
    "/agent/{agent_id}/session/{session_id}/instructions/{instruction_id}/ack",
    response_model=models_services.AcknowledgementAnswer,
)
async def acknowledge(
    agent_id: str,
    session_id: str,
    instruction_id: str,
    body: models_services.Acknowledgement,
    service: ServiceOf,
) -> Response:
    """Take an agent's answer to an instruction; there is one answer to each."""
    ids = {"instruction_id": instruction_id, "agent_id": agent_id, "session_id": session_id}
    at = await service.writer.do(
        lambda connection: instructions.acknowledge(connection, body=body, **ids)
    )
    return answer({"status": "success", **ids, "acknowledged_at": at})


@router.post("/agent/{agent_id}/session/{session_id}/heartbeat")
async def heartbeat(agent_id: str, session_id: str, service: ServiceOf) -> Response:
    """Note that an agent with an open stream is alive."""
    now = datetime.now(UTC)
    table = agent_connection

    def work(connection: Connection) -> str:
        query = select(table.c.connection_id).where(
            table.c.agent_id == agent_id,
            table.c.session_id == session_id,
            table.c.status == "active",
        )
        newest = query.order_by(table.c.created_at.desc()).limit(1)
        connection_id = connection.execute(newest).scalar()
        if connection_id is None:
            raise HTTPException(404, "No active connection found for agent and session")
        instructions.beat(connection, connection_id)
        mine = agent_session.c.session_id == session_id
        seen = {"last_activity_at": now, "last_heartbeat_at": now}
        set_values(connection, agent_session, mine, **seen)
        return str(connection_id)

    connection_id = await service.writer.do(work)
    ids = {"agent_id": agent_id, "session_id": session_id, "connection_id": connection_id}
    return answer({"status": "success", **ids, "heartbeat_timestamp": now})


@router.post(
    "/agent/{agent_id}/session/{session_id}/logs", response_model=models_services.LogsStored
)
async def logs(
    agent_id: str, session_id: str, body: models_services.LogBatch, service: ServiceOf
) -> dict[str, int]:
    """Store lines of an agent's log, the first 500 of a request."""

    def work(connection: Connection) -> int:
        row = instructions.session(connection, session_id)
        if row is None:
            raise HTTPException(404, "Session not found")
        if row["agent_id"] != agent_id:
            raise HTTPException(403, "Session belongs to another agent")
        entries = [
            {"session_id": session_id, "agent_id": agent_id, **entry.model_dump()}
            for entry in body.logs[:LOGS_MAX]
        ]
        if entries:
            connection.execute(insert(agent_log), entries)
        instructions.touch(connection, session_id)
        return len(entries)

    return {"stored": await service.writer.do(work)}
