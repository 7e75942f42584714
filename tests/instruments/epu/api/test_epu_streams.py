"""The service as a process: streams of events, its end, its death."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.event import listen
from sqlalchemy.exc import OperationalError
from support import forked
from support.epu_api import make_hole
from support.waiting import until

from skywright.instruments.epu.agent.instructions import events
from skywright.instruments.epu.api import agents, app, frontend, instructions
from skywright.instruments.epu.api.models_services import Acknowledgement, InstructionCreate
from skywright.instruments.epu.api.service import Service
from skywright.instruments.epu.api.streams import PING, event
from skywright.instruments.epu.broker.events import read_event
from skywright.instruments.epu.database import Database, write
from skywright.instruments.epu.database.schema_exchange import (
    agent_connection,
    agent_instruction,
    agent_log,
    agent_session,
    outbox,
)

LIMIT_S = 120.0


def read_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def instruct(api: Any, session: str, **fields: Any) -> str:
    answer = httpx.post(f"{api.url}/debug/session/{session}/create-instruction", json=fields)
    return str(answer.json()["instruction_id"])


def test_instructions_come_by_priority_and_sequence_each_once(api: Any) -> None:
    httpx.post(f"{api.url}/debug/sessions/create", json={"session_id": "s", "agent_id": "a"})
    order = [("low", 1), ("normal", 2), ("normal", 1), ("high", 9), ("high", 3), ("normal", None)]
    made = {
        (priority, number): instruct(api, "s", priority=priority, sequence_number=number)
        for priority, number in order
    }
    expected = [
        made[key]
        for key in [
            ("high", 3),
            ("high", 9),
            ("normal", 1),
            ("normal", 2),
            ("normal", None),
            ("low", 1),
        ]
    ]
    url = f"{api.url}/agent/a/session/s/instructions/stream"
    received = []
    with httpx.stream("GET", url, timeout=LIMIT_S) as stream:
        events = read_events(stream.iter_lines())
        name, first = next(events)
        assert (name, first["type"]) == ("connection", "connection")
        assert httpx.post(f"{api.url}/agent/a/session/s/heartbeat").status_code == 200
        for name, data in events:
            if name == "instruction":
                received.append(data["instruction_id"])
                if len(received) == len(expected):
                    received.append(instruct(api, "s", priority="low"))  # comes at once
                elif len(received) > len(expected):
                    assert data["instruction_id"] == received[-2]
                    break
    assert received[: len(expected)] == expected

    def closed() -> bool:
        found = httpx.get(f"{api.url}/debug/agent-connections").json()
        return bool(found["total_count"] == 0)

    until(closed)
    last = instruct(api, "s")
    with httpx.stream("GET", url, timeout=LIMIT_S) as stream:
        for name, data in read_events(stream.iter_lines()):
            if name == "instruction":
                assert data["instruction_id"] == last
                break


def test_line_ends_of_unicode_do_not_cut_an_event() -> None:
    payload = {"reason": "line\u2028paragraph\u2029next\x85end"}
    answer = httpx.Response(200, content=event("instruction", {"payload": payload}))
    assert list(events(answer.iter_lines())) == [{"type": "instruction", "payload": payload}]


def test_a_session_that_may_not_be_used_gets_an_error_event(api: Any) -> None:
    httpx.post(f"{api.url}/debug/sessions/create", json={"session_id": "s", "agent_id": "a"})
    for path in ("agent/a/session/none", "agent/b/session/s"):
        with httpx.stream("GET", f"{api.url}/{path}/instructions/stream") as stream:
            ((name, data),) = list(read_events(stream.iter_lines()))
        assert (name, data["error"]) == ("error", "session_validation_failed")


def test_the_stream_of_a_session_that_is_closed_ends_without_its_instructions(api: Any) -> None:
    httpx.post(f"{api.url}/debug/sessions/create", json={"session_id": "over", "agent_id": "a"})
    url = f"{api.url}/agent/a/session/over/instructions/stream"
    with httpx.stream("GET", url, timeout=LIMIT_S) as stream:
        events = read_events(stream.iter_lines())
        assert [next(events)[0] for _ in range(2)] == ["connection", "heartbeat"]
        closed = httpx.delete(f"{api.url}/debug/sessions/over/close")
        assert closed.status_code == 200
        instruct(api, "over")
        assert list(events) == []
    connections = httpx.get(f"{api.url}/debug/agent-connections").json()["active_connections"]
    assert "over" not in {each["session_id"] for each in connections}


async def taken_from_stream(database: Database, most: int) -> list[str]:
    """Take instructions from a stream that breaks while the last one is sent."""
    service = Service(database)
    service.start()
    stream = await agents._open(service, "a", "s", "")
    found: list[str] = []
    async for chunk in stream:
        ((name, data),) = read_events(iter(chunk.decode().splitlines()))
        if name == "instruction":
            found.append(data["instruction_id"])
            if len(found) == most:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    service.writer.close()
    return found


def given(database: Database, *minutes: float) -> list[str]:
    """Store a session and an instruction for each time of expiry."""
    now = datetime.now(UTC)
    row = {"session_id": "s", "agent_id": "a", "created_at": now, "last_activity_at": now}
    with database.write() as connection:
        connection.execute(agent_session.insert().values(row))
        bodies = [InstructionCreate(expires_in_minutes=each) for each in minutes]
        made = [instructions.instruct(connection, "s", body) for body in bodies]
    return [each["instruction_id"] for each in made]


def test_an_instruction_comes_once_though_its_transaction_is_done_again(
    database: Database,
) -> None:
    """As where another request of the same moment is refused."""

    def refuse(connection: Connection) -> None:
        raise ValueError("refused")

    async def taken() -> list[str]:
        service, begun, free = Service(database), threading.Event(), threading.Event()
        service.start()
        ids = {"agent_id": "a", "session_id": "s"}
        ids["connection_id"] = await service.writer.do(
            lambda connection: instructions.connect(connection, "a", "s", "")
        )
        service.writer.post(lambda _: begun.set() or free.wait(LIMIT_S))
        assert await asyncio.to_thread(begun.wait, LIMIT_S)
        rows: list[instructions.Row] = []
        taking = asyncio.create_task(agents._take_waiting(service, ids, rows))
        async with asyncio.timeout(LIMIT_S):
            while not service.writer._jobs.qsize():
                await asyncio.sleep(0)
        refused = service.writer.post(refuse)
        free.set()
        assert await taking is None
        with pytest.raises(ValueError, match="refused"):
            await asyncio.wrap_future(refused)
        service.writer.close()
        return [row["instruction_id"] for row in rows]

    ids = given(database, 60)
    assert asyncio.run(taken()) == ids


def test_what_a_broken_stream_did_not_deliver_comes_again(database: Database) -> None:
    ids = given(database, 60, 60, 60)
    assert asyncio.run(taken_from_stream(database, 2)) == ids[:2]
    table = agent_instruction.c
    query = select(table.status, table.retry_count).order_by(table.number)
    with database.read() as connection:
        rows = connection.execute(query).all()
    assert rows == [("sent", 0), ("pending", 1), ("pending", 1)]
    assert asyncio.run(taken_from_stream(database, 2)) == ids[1:]


def test_an_instruction_that_cannot_be_sent_does_not_end_the_stream(database: Database) -> None:
    ids = given(database, 60, 60)
    table = agent_instruction
    with database.write() as connection:  # an older version took it
        mine = table.c.instruction_id == ids[0]
        connection.execute(table.update().where(mine).values(payload={"x": 2**70}))
    assert asyncio.run(taken_from_stream(database, 1)) == ids[1:]
    with database.read() as connection:
        query = select(table.c.status).order_by(table.c.number)
        assert connection.execute(query).scalars().first() == "failed"


def test_what_a_killed_server_had_taken_comes_again(database: Database) -> None:
    async def take() -> None:
        service = Service(database)
        service.start()
        stream = await agents._open(service, "a", "s", "")
        for _ in range(4):  # connection, heartbeat, the first instruction, half of the second one
            await anext(stream)
        service.writer.close()  # as SIGKILL: nothing is written any more

    ids = given(database, 60, 60, 60)
    asyncio.run(take())
    with database.write() as connection:
        instructions.close_stale(connection, 0.0)
        instructions.connect(connection, "a", "s", "")
        waiting = instructions.hand_out(connection, "s")
    assert [row["instruction_id"] for row in waiting] == ids[1:]


def test_streams_are_never_silent_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chunks() -> list[bytes]:
        service = Service(database)
        service.start()
        view = frontend._View({"agent.log"}, None, None)
        streams = await agents._open(service, "a", "s", ""), frontend._events(service, view)
        found = [await anext(stream) for stream in streams for _ in range(3)]
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        service.writer.close()
        return found

    given(database)
    for module in (agents, frontend):
        monkeypatch.setattr(module, "PING_S", 0.0)
    monkeypatch.setattr(frontend, "PERIOD_MIN_S", 0.0)
    monkeypatch.setattr(frontend, "POLL_S", 0.0)
    # The streams begin with connection and heartbeat, and with heartbeat.
    is_ping = [chunk == PING for chunk in asyncio.run(chunks())]
    assert is_ping == [False, False, True, False, True, True]


def test_streams_go_on_when_the_database_was_away(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the end of a stream the agent of smartem-decisions never connects again."""

    async def next_event(stream: Any) -> str:
        while (chunk := await anext(stream)) == PING:
            pass
        return str(next(read_events(iter(chunk.decode().splitlines())))[0])

    async def names() -> list[str]:
        service = Service(database)
        service.start()
        view = frontend._View({"acquisition.progress"}, None, None)
        streams = await agents._open(service, "a", "s", ""), frontend._events(service, view)
        found = [await next_event(stream) for stream in (streams[0], *streams)]
        for uuid in ("before", "meanwhile"):
            with database.write() as connection:
                instructions.instruct(connection, "s", InstructionCreate())
                write.record(connection, "acquisition", [{"uuid": uuid, "name": "n"}])
            if uuid == "meanwhile":
                with monkeypatch.context() as away:
                    failure = OperationalError("SELECT", {}, Exception("it is away"))
                    away.setattr(Database, "read", Mock(side_effect=failure))
                    for stream in (*streams, *streams, *streams):
                        assert await anext(stream) == PING
            found += [await next_event(stream) for stream in streams]
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        service.writer.close()
        return found

    given(database)
    for module in (agents, frontend):
        monkeypatch.setattr(module, "POLL_S", 0.0)
        monkeypatch.setattr(module, "PING_S", 0.0)
    monkeypatch.setattr(frontend, "PERIOD_MIN_S", 0.0)
    begin = ["connection", "heartbeat", "heartbeat"]
    assert asyncio.run(names()) == [*begin, *2 * ["instruction", "acquisition.progress"]]
    assert caplog.text.count("it is away") == 2


def test_pages_of_a_long_log_follow_one_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lines() -> list[str]:
        service = Service(database)
        service.start()
        view = frontend._View({"agent.log"}, None, None)
        stream = frontend._events(service, view)
        await anext(stream)  # the heartbeat: what comes from now on is followed
        await service.writer.do(lambda connection: connection.execute(agent_log.insert(), rows))
        async with asyncio.timeout(LIMIT_S):
            found = [await anext(stream) for _ in rows]
        await stream.aclose()  # type: ignore[attr-defined]
        service.writer.close()
        events = (next(read_events(iter(chunk.decode().splitlines()))) for chunk in found)
        return [data["message"] for _, data in events]

    given(database)
    line = {"session_id": "s", "agent_id": "a", "timestamp": datetime.now(UTC), "level": "INFO"}
    rows = [line | {"message": str(number)} for number in range(7)]
    monkeypatch.setattr(frontend, "LOGS_MAX", 3)
    monkeypatch.setattr(frontend, "POLL_S", 2 * LIMIT_S)
    monkeypatch.setattr(frontend, "PERIOD_MIN_S", 0.0)
    assert asyncio.run(lines()) == [row["message"] for row in rows]


def test_a_newer_stream_of_a_session_replaces_the_older_one(database: Database) -> None:
    async def both() -> list[tuple[str, dict[str, Any]]]:
        service = Service(database)
        service.start()
        old, new = [await agents._open(service, "a", "s", "") for _ in range(2)]
        for stream in (old, old, new, new):  # connection and heartbeat
            await anext(stream)
        with database.write() as connection:
            instructions.instruct(connection, "s", InstructionCreate())
        found = [
            next(read_events(iter((await anext(stream)).decode().splitlines())))
            for stream in (old, new)
        ]
        assert [chunk async for chunk in old] == []
        await new.aclose()  # type: ignore[attr-defined]
        service.writer.close()
        return found

    given(database)
    (error, about), (name, _) = asyncio.run(both())
    assert (error, about.get("error"), name) == ("error", "replaced", "instruction")
    query = select(agent_connection.c.close_reason).order_by(agent_connection.c.created_at)
    with database.read() as connection:
        assert list(connection.execute(query).scalars()) == ["replaced", "client_disconnect"]


def test_what_a_replaced_stream_took_without_an_answer_comes_again(database: Database) -> None:
    async def both() -> tuple[list[str], list[str], bool]:
        service = Service(database)
        service.start()
        streams: list[Any] = []
        found = []
        for count in (5, 4):  # connection, heartbeat and instructions
            stream = await agents._open(service, "a", "s", "")  # the first one stays open
            chunks = [(await anext(stream)).decode() for _ in range(count)]
            read = [next(read_events(iter(chunk.splitlines()))) for chunk in chunks[2:]]
            found.append([data["instruction_id"] for _, data in read])
            streams.append(stream)
            if len(found) == 1:
                with database.write() as connection:
                    body = Acknowledgement(status="processed")
                    instructions.acknowledge(connection, "a", "s", ids[1], body)
        await streams[0].aclose()  # it had not finished the last one
        waits = await service.writer.do(lambda connection: instructions.waiting(connection, "s"))
        await streams[1].aclose()
        service.writer.close()
        return *found, waits

    ids = given(database, 60, 60, 60)
    old, new, waits = asyncio.run(both())
    assert (old, new, waits) == (ids, [ids[0], ids[2]], False)


def test_an_open_stream_that_the_database_heard_nothing_of_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chunk() -> bytes:
        service = Service(database)
        service.start()
        stream = await agents._open(service, "a", "s", "")
        for _ in range(3):  # connection, heartbeat and a ping: its sign of life is stored
            await anext(stream)
        closing = asyncio.create_task(app._close_stale(service))
        reason = partial(instructions.close_reason, connection_id="dead")
        async with asyncio.timeout(LIMIT_S):
            while await service.writer.do(reason) is None:
                pass
        closing.cancel()
        found = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        service.writer.close()
        return found

    given(database)
    with database.write() as connection:
        old = datetime(2025, 1, 8, tzinfo=UTC)
        row = {"connection_id": "dead", "session_id": "s", "agent_id": "a", "created_at": old}
        connection.execute(agent_connection.insert().values(**row, last_heartbeat_at=old))
    monkeypatch.setattr(app, "STALE_S", 0.0)
    for name in ("POLL_S", "PING_S"):
        monkeypatch.setattr(agents, name, 0.0)
    assert asyncio.run(chunk()) == PING


def test_a_stream_that_begins_while_the_database_is_away_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = OperationalError("SELECT", {}, Exception("it is away"))
    monkeypatch.setattr(Database, "write", Mock(side_effect=failure))
    answer = client.get("/agent/a/session/s/instructions/stream")
    assert (answer.status_code, "it is away" in answer.json()["detail"]) == (503, True)


def test_a_stream_that_counts_as_stale_ends_without_an_error(database: Database) -> None:
    async def events() -> list[bytes]:
        service = Service(database)
        service.start()
        stream = await agents._open(service, "a", "s", "")
        for _ in range(2):  # connection and heartbeat
            await anext(stream)
        with database.write() as connection:
            instructions.close_stale(connection, 0.0)
        rest = [chunk async for chunk in stream]
        service.writer.close()
        return rest

    given(database)
    assert asyncio.run(events()) == []


def test_instructions_are_not_compared_with_one_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of thousands wait for an agent that was away for some days."""
    given(database, 60, *4 * [1e-9], 60)
    monkeypatch.setattr(RowMapping, "__eq__", lambda *_: 1 / 0, raising=False)
    monkeypatch.setattr(write, "CHUNK", 3)
    with database.write() as connection:
        assert len(instructions.hand_out(connection, "s")) == 2
    monkeypatch.undo()
    table = agent_instruction.c
    with database.read() as connection:
        states = connection.execute(select(table.status).order_by(table.number)).scalars().all()
    assert states == ["sent", *4 * ["expired"], "sent"]


def test_many_instructions_that_were_taken_wait_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement takes some ten thousands of values only."""
    ids, values = given(database, *30 * [60]), []
    monkeypatch.setattr(write, "CHUNK", 3)
    with database.write() as connection:
        listen(connection, "before_cursor_execute", lambda *about: values.append(len(about[3])))
        instructions.put_back(connection, instructions.hand_out(connection, "s"))
        assert len(instructions.hand_out(connection, "s")) == len(ids)
        instructions.connect(connection, "a", "s", "")  # its server was killed
        rows = instructions.hand_out(connection, "s")
    assert [row["instruction_id"] for row in rows] == ids
    assert [row["retry_count"] for row in rows] == len(ids) * [2]
    assert max(values) < 20


def test_an_instruction_whose_time_is_over_is_not_sent(database: Database) -> None:
    late, good = given(database, 1e-9, 60)
    assert asyncio.run(taken_from_stream(database, 1)) == [good]
    table = agent_instruction.c
    with database.read() as connection:
        expired = select(table.instruction_id).where(table.status == "expired")
        assert list(connection.execute(expired).scalars()) == [late]
        bodies = [json.loads(body) for body in connection.execute(select(outbox.c.body)).scalars()]
    (message,) = [body for body in bodies if body["event_type"] == "agent.instruction.expired"]
    assert (message["instruction_id"], message["session_id"]) == (late, "s")
    assert read_event(json.dumps(message).encode()).event_type == "agent.instruction.expired"


def test_front_ends_hear_of_progress_and_results(api: Any) -> None:
    make_hole(api.url)
    url = f"{api.url}/frontend/events/stream"
    for name in ("acquisition_uuid", "agent_id"):  # PostgreSQL would break the stream off
        assert httpx.get(url, params={name: "\0"}).status_code == 422
    wanted = {"event_types": "nonsense, acquisition.progress,processing.metric", "agent_id": ""}
    with httpx.stream("GET", url, params=wanted, timeout=LIMIT_S) as stream:
        events = read_events(stream.iter_lines())
        assert next(events)[0] == "heartbeat"
        name, data = next(events)
        assert name == "acquisition.progress"
        assert (data["foilhole_count"], data["micrograph_count"]) == (1, 0)
        body: dict[str, Any] = {"uuid": "m", "foilhole_id": "1"}
        httpx.post(f"{api.url}/foilholes/h/micrographs", json=body)
        body = {"ctf_max_res": 3.5}
        httpx.post(f"{api.url}/micrographs/m/ctf_estimation/completed", json=body)
        seen: dict[str, Any] = {}
        for name, data in events:
            seen[name] = data
            if seen.get("processing.metric", {}).get("ctf_max_resolution_estimate") == 3.5:
                break
    assert seen["acquisition.progress"]["micrograph_count"] == 1


def test_front_ends_can_tell_events_by_their_ids(api: Any) -> None:
    httpx.post(f"{api.url}/acquisitions", json={"uuid": "a", "name": "n"})
    url = f"{api.url}/frontend/events/stream"
    for header, first in ((None, 1), ("41", 42), ("odd", 1)):
        headers = {} if header is None else {"Last-Event-ID": header}
        wanted = {"event_types": "acquisition.progress"}
        with httpx.stream("GET", url, params=wanted, headers=headers, timeout=LIMIT_S) as stream:
            ids = (line for line in stream.iter_lines() if line.startswith("id: "))
            assert [next(ids) for _ in range(2)] == [f"id: {first}", f"id: {first + 1}"]


@pytest.fixture
def two_agents(api: Any) -> Iterator[dict[str, httpx.Response]]:
    """Two acquisitions with an agent each, and the agents' open streams."""
    with contextlib.ExitStack() as stack:
        streams, kept = {}, []
        for agent, uuid in (("one", "a"), ("two", "b")):
            httpx.post(f"{api.url}/acquisitions", json={"uuid": uuid, "name": "n"})
            body = {"session_id": f"s-{agent}", "agent_id": agent, "acquisition_uuid": uuid}
            httpx.post(f"{api.url}/debug/sessions/create", json=body)
            url = f"{api.url}/agent/{agent}/session/s-{agent}/instructions/stream"
            streams[agent] = stack.enter_context(httpx.stream("GET", url, timeout=LIMIT_S))
            kept.append(streams[agent].iter_lines())  # a stream ends with its iterator
            assert next(kept[-1]) == "event: connection"
        yield streams


def test_front_ends_hear_of_one_agent_alone(
    api: Any, two_agents: dict[str, httpx.Response]
) -> None:
    wanted = {"event_types": "agent.status,instruction.lifecycle,agent.log", "agent_id": "one"}
    url = f"{api.url}/frontend/events/stream"
    with httpx.stream("GET", url, params=wanted, timeout=LIMIT_S) as stream:
        events = (each for each in read_events(stream.iter_lines()) if each[0] != "heartbeat")
        name, data = next(events)
        assert (name, data["agent_id"], data["acquisition_uuid"]) == ("agent.status", "one", "a")
        assert (data["status"], data["connection_count"]) == ("online", 1)
        for agent in ("two", "one"):
            session = f"{api.url}/agent/{agent}/session/s-{agent}"
            line = {
                "timestamp": "2025-01-08T10:00:00Z",
                "level": "INFO",
                "message": f"I am {agent}",
            }
            httpx.post(f"{session}/logs", json={"logs": [line]})
            made = instruct(api, f"s-{agent}", instruction_type="agent.status.request")
            done = httpx.post(f"{session}/instructions/{made}/ack", json={"status": "processed"})
            assert done.status_code == 200
        told: dict[str, list[dict[str, Any]]] = {}
        for name, data in events:
            assert data["agent_id"] == "one"
            told.setdefault(name, []).append(data)
            steps = told.get("instruction.lifecycle", [])
            if steps and steps[-1]["ack_status"] and "agent.log" in told:
                break
        assert steps[-1]["instruction_id"] == made
        assert (steps[-1]["status"], steps[-1]["ack_status"]) == ("acknowledged", "processed")
        assert [line["message"] for line in told["agent.log"]] == ["I am one"]
        two_agents["one"].close()
        offline = next(data for _, data in events if data.get("status") == "offline")
        assert (offline["session_id"], offline["connection_count"]) == ("s-one", 0)


def test_front_ends_hear_of_one_acquisition_alone(
    api: Any, two_agents: dict[str, httpx.Response]
) -> None:
    for uuid in ("a", "b"):
        post = [
            (f"acquisitions/{uuid}/grids", {"uuid": f"g-{uuid}", "name": "n"}),
            (f"grids/g-{uuid}/gridsquares", {"uuid": f"s-{uuid}", "gridsquare_id": "1"}),
            (f"gridsquares/s-{uuid}/foilholes", [{"uuid": f"h-{uuid}", "foilhole_id": "1"}]),
        ]
        for path, body in post:
            assert httpx.post(f"{api.url}/{path}", json=body).status_code == 201
    wanted = {
        "event_types": "agent.status,acquisition.progress,processing.metric",
        "acquisition_uuid": "b",
    }
    url = f"{api.url}/frontend/events/stream"
    with httpx.stream("GET", url, params=wanted, timeout=LIMIT_S) as stream:
        events = (each for each in read_events(stream.iter_lines()) if each[0] != "heartbeat")
        (_, agent), (_, progress) = next(events), next(events)
        assert (agent["agent_id"], agent["acquisition_uuid"]) == ("two", "b")
        assert (progress["acquisition_uuid"], progress["foilhole_count"]) == ("b", 1)
        for uuid in ("a", "b"):
            body: dict[str, Any] = {"uuid": f"m-{uuid}", "foilhole_id": "1", "total_motion": 3.0}
            httpx.post(f"{api.url}/foilholes/h-{uuid}/micrographs", json=body)
        for name, data in events:
            if name == "processing.metric":
                assert (data["micrograph_uuid"], data["foilhole_uuid"]) == ("m-b", "h-b")
                break
            assert data["acquisition_uuid"] == "b"


def test_it_ends_on_sigterm_with_streams_open(api: Any) -> None:
    httpx.post(f"{api.url}/debug/sessions/create", json={"session_id": "s", "agent_id": "a"})
    urls = [
        f"{api.url}/agent/a/session/s/instructions/stream",
        f"{api.url}/frontend/events/stream",
    ]
    with httpx.Client(timeout=LIMIT_S) as http:
        streams = [http.send(http.build_request("GET", url), stream=True) for url in urls]
        lines = [stream.iter_lines() for stream in streams]
        for line in lines:
            assert next(line).startswith("event: ")
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(90) == 0
        for stream in streams:
            stream.close()


def test_what_was_answered_survives_a_kill(run_service: Callable[..., Any], tmp_path: Path) -> None:
    options = ("serve", "--port", "0", "--database", f"sqlite:///{tmp_path}/api.sqlite")
    first = run_service(*options)
    answer = httpx.post(f"{first.url}/acquisitions", json={"uuid": "a", "name": "n"})
    assert answer.status_code == 201
    first.kill()
    second = run_service(*options)
    assert httpx.get(f"{second.url}/acquisitions/a").status_code == 200


def test_a_broker_out_of_reach_is_503_and_the_rest_works(
    run_service: Callable[..., Any], tmp_path: Path
) -> None:
    api = run_service(
        *("serve", "--port", "0", "--database", f"sqlite:///{tmp_path}/api.sqlite"),
        *("--broker", "amqp://guest:guest@127.0.0.1:9/"),
    )
    assert httpx.post(f"{api.url}/acquisitions", json={"uuid": "a", "name": "n"}).status_code == 201
    health = httpx.get(f"{api.url}/health")
    assert health.status_code == 503
    for body in (health.json(), health.json()["detail"]):
        assert body["services"]["event_broker"]["status"] == "error"
        assert body["services"]["database"]["status"] == "ok"


def test_the_smoke_test_passes_and_leaves_nothing(api: Any) -> None:
    def check(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "skywright.cli", "epu", "check-api", url, "-v"]
        return forked.run(command, capture_output=True, text=True, check=False)

    done = check(api.url)
    assert done.returncode == 0, done.stdout
    assert "ok     GET /health" in done.stdout
    assert httpx.get(f"{api.url}/acquisitions").json() == []
    failed = check("http://127.0.0.1:9")
    assert failed.returncode == 1
    assert failed.stdout.count("FAILED") == 1  # not once for each request
    assert "FAILED the connection" in failed.stdout


def test_it_is_importable_as_an_asgi_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWRIGHT_EPU_DATABASE", str(tmp_path / "epu.sqlite"))
    monkeypatch.delenv("SKYWRIGHT_EPU_BROKER", raising=False)
    monkeypatch.delenv("RABBITMQ_HOST", raising=False)
    from skywright.instruments.epu.api.asgi import app

    async def version() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://asgi") as client:
            return (await client.get("/version")).status_code

    assert asyncio.run(version()) == 200
