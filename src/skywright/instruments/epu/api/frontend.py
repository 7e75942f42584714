"""The stream of events for front ends: agents, progress, instructions, results, logs."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.instruments.epu.api.instructions import UNANSWERED
from skywright.instruments.epu.api.models import Text
from skywright.instruments.epu.api.service import Service, ServiceOf
from skywright.instruments.epu.api.streams import PING, PING_S, event, event_stream
from skywright.instruments.epu.database import report_failure, schema
from skywright.instruments.epu.database.read import last_change
from skywright.instruments.epu.database.schema_exchange import (
    agent_acknowledgement,
    agent_connection,
    agent_instruction,
    agent_log,
    agent_session,
)
from skywright.instruments.epu.database.write import chunks

router = APIRouter()

EVENT_TYPES = (
    "agent.status",
    "acquisition.progress",
    "instruction.lifecycle",
    "processing.metric",
    "agent.log",
    "heartbeat",
)
POLL_S = 5.0
"""Longest delay of a change that another process made."""
PERIOD_MIN_S = 0.5
"""Shortest time between two queries of the database."""
HEARTBEAT_S = 30.0
LOGS_MAX = 200
METRICS_MAX = 1000


@router.get("/frontend/events/stream")
async def stream(
    service: ServiceOf,
    event_types: str | None = None,
    acquisition_uuid: Text | None = None,
    agent_id: Text | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream changes as server-sent events; first the present state, then what changes.

    Unknown ``event_types`` are passed over. The ids of the events go on from ``Last-Event-ID``.
    """
    wanted = {name.strip() for name in event_types.split(",")} if event_types else set(EVENT_TYPES)
    view = _View(wanted, acquisition_uuid or None, agent_id or None)
    try:
        last = int(last_event_id or 0)
    except ValueError:
        last = 0
    return event_stream(_events(service, view, last))


async def _events(service: Service, view: "_View", last: int = 0) -> AsyncIterator[bytes]:
    def take(found: list[tuple[str, dict[str, Any]]]) -> None:
        with service.database.read() as connection:
            if view.last_log is None:
                view.begin(connection)
            found.extend(view.changes(connection))

    numbers = itertools.count(last + 1)
    began = time.monotonic()
    next_heartbeat = next_ping = 0.0
    trouble = ""
    while not service.stopping.is_set():
        changed = service.changed
        found: list[tuple[str, dict[str, Any]]] = []
        try:
            await asyncio.to_thread(take, found)
            trouble = ""
        except SQLAlchemyError as error:  # what was found before is sent all the same
            trouble = report_failure("events for front ends", error, trouble)
        if time.monotonic() >= next_heartbeat:  # whatever is wanted: front ends count on it
            next_heartbeat = time.monotonic() + HEARTBEAT_S
            next_ping = time.monotonic() + PING_S
            beat = {"timestamp": datetime.now(UTC), "connection_time_s": time.monotonic() - began}
            yield event("heartbeat", beat, next(numbers))
        elif time.monotonic() >= next_ping:
            next_ping = time.monotonic() + PING_S
            yield PING
        for name, data in found:
            yield event(name, data, next(numbers))
        if len(found) < LOGS_MAX:  # else it may be a page, and the next one follows
            await service.wait(POLL_S, changed)
        await service.wait(PERIOD_MIN_S, service.stopping)


@dataclass
class _View:
    """What one front end wants and has been sent."""

    wanted: set[str]
    acquisition: str | None
    agent: str | None
    sent: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    last_metric: int = 0
    last_log: int | None = None
    last_instruction: int | None = None
    unanswered: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Instructions that are not over, as they were sent, by number."""

    def begin(self, connection: Connection) -> None:
        """Note what is there already, of which a front end does not hear."""
        self.last_metric = last_change(connection)
        self._instructions(connection)
        self._logs(connection)

    def changes(self, connection: Connection) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give what is new since the last call; the first call gives the present state."""
        states = (
            ("agent.status", "session_id", self._agents),
            ("acquisition.progress", "acquisition_uuid", self._progress),
        )
        for name, key, rows in states:
            if name not in self.wanted:
                continue
            for data in rows(connection):
                if self.sent.get((name, data[key])) != data:
                    self.sent[name, data[key]] = data
                    yield name, data
        followed = {
            "instruction.lifecycle": self._instructions,
            "processing.metric": self._metrics,
            "agent.log": self._logs,
        }
        for name, news in followed.items():
            if name in self.wanted:
                for data in news(connection):
                    yield name, data

    def _agents(self, connection: Connection) -> list[dict[str, Any]]:
        session, link = agent_session, agent_connection
        active = func.count().filter(link.c.status == "active")
        query = (
            select(
                session.c.agent_id,
                session.c.session_id,
                session.c.acquisition_uuid,
                func.max(link.c.last_heartbeat_at).label("last_heartbeat_at"),
                active.label("connection_count"),
            )
            .join_from(session, link, link.c.session_id == session.c.session_id)
            .group_by(session.c.agent_id, session.c.session_id, session.c.acquisition_uuid)
        )
        if self.agent is not None:
            query = query.where(session.c.agent_id == self.agent)
        if self.acquisition is not None:
            query = query.where(session.c.acquisition_uuid == self.acquisition)
        return [
            {**row, "status": "online" if row["connection_count"] else "offline"}
            for row in connection.execute(query).mappings()
        ]

    def _progress(self, connection: Connection) -> list[dict[str, Any]]:
        acquisition, grid = schema.acquisition, schema.grid
        query = select(acquisition.c.uuid, acquisition.c.status)
        if self.acquisition is not None:
            query = query.where(acquisition.c.uuid == self.acquisition)
        counts: dict[str, dict[str, int]] = {}
        for kind in ("grid", "gridsquare", "foilhole", "micrograph"):
            table = schema.ENTITIES[kind]
            count = select(grid.c.acquisition_uuid, func.count()).group_by(grid.c.acquisition_uuid)
            if table is not grid:
                count = count.join_from(grid, table, table.c.grid_uuid == grid.c.uuid)
            if self.acquisition is not None:
                count = count.where(grid.c.acquisition_uuid == self.acquisition)
            counts[kind] = dict(connection.execute(count).tuples().all())
        return [
            {
                "acquisition_uuid": uuid,
                **{f"{kind}_count": found.get(uuid, 0) for kind, found in counts.items()},
                "status": status,
            }
            for uuid, status in connection.execute(query).tuples()
        ]

    def _instructions(self, connection: Connection) -> list[dict[str, Any]]:
        """Give the instructions that are new or were not over; the others never change."""
        table, ack = agent_instruction, agent_acknowledgement
        newest = (
            select(ack.c.status)
            .where(ack.c.instruction_id == table.c.instruction_id)
            .order_by(ack.c.acknowledgement_id.desc())
            .limit(1)
            .scalar_subquery()
        )
        times = (table.c.created_at, table.c.sent_at, table.c.acknowledged_at)
        query = select(
            *(table.c.number, table.c.instruction_id, table.c.agent_id, table.c.session_id),
            *(table.c.instruction_type, table.c.status, *times, newest.label("ack_status")),
        ).order_by(table.c.number)
        if self.agent is not None:
            query = query.where(table.c.agent_id == self.agent)
        last, before, changed = self.last_instruction, self.unanswered, []
        which: list[Any] = [table.c.status.in_(UNANSWERED)]
        if last is not None:
            which = [table.c.number.in_(part) for part in chunks(list(before))]
            which.append(table.c.number > last)
        newest_number = connection.execute(select(func.max(table.c.number))).scalar() or 0
        unanswered: dict[int, dict[str, Any]] = {}
        for condition in which:
            for row in connection.execute(query.where(condition)).mappings():
                data = dict(row)
                number = data.pop("number")
                if data["status"] in UNANSWERED:
                    unanswered[number] = data
                if last is not None and before.get(number) != data:
                    changed.append(data)
        self.last_instruction, self.unanswered = newest_number, unanswered
        return changed

    def _metrics(self, connection: Connection) -> list[dict[str, Any]]:
        table, grid = schema.micrograph, schema.grid
        names = (
            "foilhole_uuid",
            "total_motion",
            "average_motion",
            "ctf_max_resolution_estimate",
            "number_of_particles_picked",
            "number_of_particles_selected",
        )
        query = (
            select(table.c.uuid, table.c.change, *[table.c[name] for name in names])
            .where(table.c.change > self.last_metric)
            .order_by(table.c.change)
            .limit(METRICS_MAX)
        )
        if self.acquisition is not None:
            grids = select(grid.c.uuid).where(grid.c.acquisition_uuid == self.acquisition)
            query = query.where(table.c.grid_uuid.in_(grids))
        rows = list(connection.execute(query).mappings())
        if rows:
            self.last_metric = rows[-1]["change"]
        return [
            {"micrograph_uuid": row["uuid"], **{name: row[name] for name in names}} for row in rows
        ]

    def _logs(self, connection: Connection) -> list[dict[str, Any]]:
        table = agent_log
        if self.last_log is None:
            newest = connection.execute(select(func.max(table.c.id))).scalar()
            self.last_log = newest or 0
            return []
        query = select(table).where(table.c.id > self.last_log).order_by(table.c.id)
        if self.agent is not None:
            query = query.where(table.c.agent_id == self.agent)
        rows = [dict(row) for row in connection.execute(query.limit(LOGS_MAX)).mappings()]
        if rows:
            self.last_log = rows[-1]["id"]
        return rows
