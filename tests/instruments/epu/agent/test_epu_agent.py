"""The agent against a real API: sending, network away, instructions, proxy, lean installation."""

import base64
import hashlib
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from support.scripted_http import Visit, scripted
from support.waiting import until

from skywright.errors import ConfigError
from skywright.instruments.epu.agent import Agent, ApiSettings, upload
from skywright.instruments.epu.agent import agent as agent_module
from skywright.instruments.epu.agent import instructions as instructions_module
from skywright.instruments.epu.agent.client import ServerUnavailableError
from skywright.instruments.epu.agent.control import ControlClient
from skywright.instruments.epu.agent.instructions import answer_unfinished, carry_out, events
from skywright.instruments.epu.api.app import create_app
from skywright.instruments.epu.database import (
    Database,
    open_database,
    record,
    record_files,
    remove,
    schema,
)
from skywright.instruments.epu.database.schema import setting
from skywright.instruments.epu.database.schema_exchange import outbox

LIMIT_S = 120.0
COUNT = 40


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "agent.sqlite", announce=True)
    yield opened
    opened.close()


def tree() -> list[tuple[str, dict[str, Any]]]:
    """A session with its micrographs, parents first."""
    rows: list[tuple[str, dict[str, Any]]] = [
        ("acquisition", {"uuid": "a", "name": "session", "instrument_id": "3632"}),
        ("grid", {"uuid": "g", "acquisition_uuid": "a", "name": "grid"}),
        ("atlas", {"uuid": "at", "grid_uuid": "g", "name": "Atlas", "atlas_id": "1"}),
        ("atlas_tile", {"uuid": "t", "atlas_uuid": "at", "tile_id": "2", "position_x": 3.0}),
        (
            "gridsquare",
            {"uuid": "s", "grid_uuid": "g", "gridsquare_id": "3", "n_foilhole_positions": 4},
        ),
    ]
    for index in range(4):
        hole = {"uuid": f"h{index}", "grid_uuid": "g", "gridsquare_uuid": "s"}
        rows.append(("foilhole", hole | {"gridsquare_id": "3", "foilhole_id": f"{index}"}))
    for index in range(COUNT):
        links = {"grid_uuid": "g", "gridsquare_uuid": "s", "foilhole_uuid": f"h{index % 4}"}
        about = {"foilhole_id": f"{index % 4}", "defocus": -1e-6 * index}
        rows.append(("micrograph", {"uuid": f"m{index}", **links, **about}))
    return rows


def store(database: Database, rows: list[tuple[str, dict[str, Any]]]) -> None:
    for kind, row in rows:
        with database.write() as connection:
            record(connection, kind, [row])


def stored(url: str) -> dict[str, float | None]:
    rows = httpx.get(f"{url}/micrographs", timeout=LIMIT_S).json()
    return {row["uuid"]: row["defocus"] for row in rows}


EXPECTED = {f"m{index}": -1e-6 * index for index in range(COUNT)}


def test_what_is_recorded_in_any_order_arrives(local: Database, api: Any) -> None:
    head, *rest = tree()
    grid, *rest = rest
    atlas, *rest = rest
    random.Random(7).shuffle(rest)
    tiles_last = [row for row in rest if row[0] != "atlas_tile"]
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    store(local, [head, grid, *tiles_last, atlas, *[row for row in rest if row[0] == "atlas_tile"]])
    agent.wake()
    until(lambda: stored(api.url) == EXPECTED)
    until(lambda: httpx.get(f"{api.url}/gridsquares/s").json()["status"] != "none")
    assert agent.state()["refused"] == 0
    assert agent.close() == 0
    assert [row["uuid"] for row in httpx.get(f"{api.url}/atlases/at/tiles").json()] == ["t"]


class Near:
    """An API in this process, and an uploader that sends to it."""

    def __init__(self, local: Database, database: Database, client: TestClient) -> None:
        self.database, self.client = database, client
        self.uploader = upload.Uploader(local, self)  # type: ignore[arg-type]

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.client.request(method, path, json=body)

    def send(self) -> None:
        """Send all that can be sent."""
        while self.uploader.upload():
            pass


@pytest.fixture
def near(local: Database, tmp_path: Path) -> Iterator[Near]:
    database = open_database(tmp_path / "api.sqlite", announce=True)
    with TestClient(create_app(database)) as client:
        yield Near(local, database, client)
    database.close()


def test_a_grid_and_its_squares_are_registered_when_all_is_sent(
    local: Database, near: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "BATCH", 3)
    rows = tree()
    place = {"center": [1.0, 2.0], "size": [3.0, 4.0]}
    rows[3][1]["gridsquares"] = {"3": [place], "4": [place], "77": [place], "5": []}
    second = {"uuid": "s4", "grid_uuid": "g", "gridsquare_id": "9", "atlas_node_id": 4}
    rows.insert(5, ("gridsquare", second))
    store(local, rows[:20])

    def send() -> list[str]:
        near.send()
        with near.database.read() as connection:
            names = select(outbox.c.event_type).order_by(outbox.c.id)
            return list(connection.execute(names).scalars())

    names = send()
    assert names.count("grid.registered") == names.count("gridsquare.registered") == 1
    for last, registered in (("gridsquare", "grid"), ("foilhole", "gridsquare")):
        made = [place for place, name in enumerate(names) if name == f"{last}.created"]
        assert max(made) < names.index(f"{registered}.registered")
    third = {"uuid": "s77", "grid_uuid": "g", "gridsquare_id": "77"}
    store(local, [("gridsquare", third)])
    assert send().count("grid.registered") == 1
    with near.database.read() as connection:
        table = schema.atlas_tile_position.c
        query = select(table.atlastile_uuid, table.gridsquare_uuid, table.size_height)
        found = connection.execute(query.order_by(table.gridsquare_uuid)).all()
    assert found == [("t", uuid, 4.0) for uuid in ("s", "s4", "s77")]


def test_two_grids_on_one_atlas_have_it_in_the_api(local: Database, near: Near) -> None:
    mark = {"name": "registered g2", "value": hashlib.sha256(b"{}").hexdigest()}
    rows = tree()
    rows[1][1]["atlas_uuid"] = None
    second = {"uuid": "g2", "acquisition_uuid": "b", "name": "2", "atlas_uuid": "at"}
    store(local, [*rows[:4], ("acquisition", {"uuid": "b", "name": "again"}), ("grid", second)])
    store(local, [("gridsquare", {"uuid": "s2", "grid_uuid": "g2", "gridsquare_id": "3"})])
    with local.write() as connection:  # an older version has registered it, without the atlas
        connection.execute(setting.insert().values(mark))
    near.send()
    for grid in ("g", "g2"):
        assert near.client.get(f"/grids/{grid}/atlas").json()["uuid"] == "at"
    assert len(near.client.get("/atlases").json()) == 1
    nowhere = near.client.post("/grids/none/atlas", json={"uuid": "at", "name": "Atlas"})
    assert nowhere.status_code == 404


def test_an_atlas_whose_session_has_not_come_holds_nothing_up(local: Database, near: Near) -> None:
    alone = {"uuid": "at2", "name": "Atlas", "atlas_id": "7"}
    tile = {"uuid": "t2", "atlas_uuid": "at2", "tile_id": "8"}
    store(local, [("atlas", alone), ("atlas_tile", tile), *tree()])
    near.send()
    assert len(near.client.get("/micrographs").json()) == COUNT
    assert near.uploader.waiting == near.uploader.pending() == 2
    store(local, [("acquisition", {"uuid": "b", "name": "2"})])
    store(local, [("grid", {"uuid": "g2", "acquisition_uuid": "b", "name": "2"})])
    store(local, [("atlas", alone | {"grid_uuid": "g2"})])
    near.send()
    assert [row["uuid"] for row in near.client.get("/atlases/at2/tiles").json()] == ["t2"]
    assert near.uploader.pending() == 0


def test_a_micrograph_whose_hole_has_come_before_its_square_is_not_lost(
    local: Database, near: Near
) -> None:
    rows = tree()
    for part in ([row for row in rows if row[0] != "gridsquare"], rows):
        store(local, part)
        near.send()
    assert (near.uploader.refused, near.uploader.pending()) == (0, 0)
    assert len(near.client.get("/micrographs").json()) == COUNT


def test_a_hole_that_is_not_found_in_its_new_image_has_no_center_in_the_api(
    local: Database, near: Near
) -> None:
    rows = tree()[:9]
    rows[5][1].update(center_x=2.5, quality=0.8, x_location=7, manifest_file="old")
    new = {"center_x": None, "quality": None, "manifest_file": "new"}
    for changes in ({}, {5: new, 6: {"diameter": 3}}):
        # A watcher that has read no image of a hole clears nothing of it.
        near.client.put("/foilholes/h1", json={"quality": 0.7})
        for place, change in changes.items():
            rows[place][1].update(change)
        store(local, rows)
        near.send()
    first, second = (near.client.get(f"/foilholes/{uuid}").json() for uuid in ("h0", "h1"))
    assert [first[name] for name in ("center_x", "quality", "x_location")] == [None, None, 7]
    assert (second["quality"], second["diameter"]) == (0.7, 3)


@pytest.mark.parametrize("url", ["http://u:secret@host:80a", "http://[::1", "ftp://host", "http:"])
def test_a_wrong_address_is_named_without_its_password(local: Database, url: str) -> None:
    for what, make in (("API", lambda: Agent(local, ApiSettings(url))),
                       ("acquisition control", lambda: ControlClient(url))):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{what} ") as caught:
            make()
        assert "secret" not in str(caught.value)


def test_an_api_that_is_away_loses_nothing(
    local: Database,
    run_service: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = f"sqlite:///{tmp_path}/api.sqlite"
    first = run_service("serve", "--port", "0", "--database", database)
    port = str(first.facts["port"])
    rows = tree()
    agent = Agent(local, ApiSettings(first.url))
    agent.start()
    store(local, rows[:20])
    agent.wake()
    until(lambda: len(stored(first.url)) > 5)
    first.kill()
    store(local, rows[20:])
    agent.wake()
    until(lambda: agent.away is not None)
    (said,) = (record for record in caplog.records if "is away" in record.message)
    assert said.levelno == logging.ERROR  # which is shown without -v: the address may be wrong
    second = run_service("serve", "--port", port, "--database", database)
    until(lambda: stored(second.url) == EXPECTED)
    assert agent.close() == 0
    assert agent.away is None


def test_a_second_agent_sends_what_the_first_could_not(local: Database, api: Any) -> None:
    nobody = Agent(local, ApiSettings("http://127.0.0.1:9"))
    store(local, tree())
    nobody.start()
    until(lambda: nobody.away is not None)
    assert nobody.close(drain=1.0) == len(tree())
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    until(lambda: stored(api.url) == EXPECTED)
    assert agent.close() == 0


def test_an_api_that_lost_its_database_gets_the_parents_again(local: Database, api: Any) -> None:
    rows = tree()
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    store(local, rows[:-1])
    agent.wake()
    until(lambda: len(stored(api.url)) == COUNT - 1)
    assert httpx.delete(f"{api.url}/acquisitions/a").status_code == 204
    store(local, rows[-1:])
    agent.wake()
    until(lambda: len(stored(api.url)) == 1)
    agent.close()


def test_holes_that_came_and_went_do_not_stop_what_follows(
    local: Database, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fill more than one batch."""
    monkeypatch.setattr(upload, "BATCH", 50)
    rows = tree()
    store(local, rows[:-1])
    gone = [
        {"uuid": f"gone{index}", "grid_uuid": "g", "gridsquare_uuid": "s", "foilhole_id": "9"}
        for index in range(60)
    ]
    with local.write() as connection:
        record(connection, "foilhole", gone)
    with local.write() as connection:
        for hole in gone:
            remove(connection, "foilhole", hole["uuid"])
    store(local, rows[-1:])
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    until(lambda: stored(api.url) == EXPECTED)
    until(lambda: agent.state()["pending"] == 0)
    assert agent.close() == 0
    assert len(httpx.get(f"{api.url}/foilholes").json()) == 4


def test_of_a_refused_list_only_the_wrong_hole_is_refused(local: Database, api: Any) -> None:
    rows = tree()
    for path, body in (
        ("acquisitions", {"uuid": "a", "name": "n"}),
        ("acquisitions/a/grids", {"uuid": "g", "name": "n"}),
        ("grids/g/gridsquares", {"uuid": "other", "gridsquare_id": "1"}),
        (
            "gridsquares/other/foilholes",
            [{"uuid": "h2", "foilhole_id": "1", "gridsquare_id": "1"}],
        ),
    ):
        assert httpx.post(f"{api.url}/{path}", json=body).status_code == 201
    store(local, rows[:9])
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    until(lambda: agent.state()["pending"] == 0)
    agent.close()
    assert agent.state()["refused"] == 1
    found = httpx.get(f"{api.url}/gridsquares/s/foilholes").json()
    assert [row["uuid"] for row in found] == ["h0", "h1", "h3"]


def test_a_gateway_that_is_in_the_way_loses_nothing(
    local: Database, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [301, 403, 404, 405, 413]
    place = itertools.cycle(statuses)

    monkeypatch.setattr(agent_module, "RETRY_S", (0.01, 0.05))
    rows = tree()
    store(local, rows)
    reasons: set[str | None] = set()
    with scripted(lambda visit: visit.answer(next(place))) as gateway:
        agent = Agent(local, ApiSettings(f"{gateway.url}/wrong"))
        agent.start()

        def all_came() -> bool:
            reasons.add(agent.away)
            return all(any(str(each) in (reason or "") for reason in reasons) for each in statuses)

        until(all_came)
        assert agent.close(drain=30.0) == len(rows)
    agent = Agent(local, ApiSettings(api.url))
    agent.start()
    until(lambda: stored(api.url) == EXPECTED)
    assert agent.close() == 0


def test_instructions_are_carried_out_once_and_acknowledged(local: Database, api: Any) -> None:
    done: list[dict[str, Any]] = []

    def skip(payload: dict[str, Any]) -> dict[str, int]:
        done.append(payload)
        return {"skipped": 1}

    def fail(payload: dict[str, Any]) -> None:
        raise RuntimeError("the stage is locked")

    agent = Agent(
        local,
        ApiSettings(api.url),
        agent_id="scope",
        session_id="session",
        handlers={
            "microscope.control.skip_gridsquares": skip,
            "microscope.control.move_stage": fail,
        },
    )
    agent.start()
    types = [
        "microscope.control.skip_gridsquares",
        "microscope.control.move_stage",
        "microscope.control.take_image",
        "agent.status.request",
    ]
    session = f"{api.url}/debug/session/session"
    until(lambda: httpx.get(f"{api.url}/debug/connection-stats").json()["active_connections"] > 0)
    for kind in types:
        made = httpx.post(
            f"{session}/create-instruction",
            json={"instruction_type": kind, "payload": {"gridsquares": ["3"]}},
        )
        assert made.status_code == 200

    def answered() -> bool:
        found = httpx.get(f"{session}/instructions").json()
        return sum(found["acknowledgement_statistics"].values()) == len(types)

    until(answered)
    found = httpx.get(f"{session}/instructions").json()
    assert found["acknowledgement_statistics"] == {"processed": 2, "failed": 1, "declined": 1}
    assert {row["status"] for row in found["instructions"]} == {"acknowledged"}
    assert done == [{"gridsquares": ["3"]}]
    agent.close()


def test_a_session_that_an_operator_closes_stays_closed(
    local: Database, api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agent_module, "RETRY_S", (0.01, 0.05))
    caplog.set_level(logging.ERROR, agent_module.__name__)

    def sessions() -> set[str]:
        found = httpx.get(f"{api.url}/debug/sessions").json()["active_sessions"]
        return {session["session_id"] for session in found}

    def started() -> Agent:
        agent = Agent(local, ApiSettings(api.url), agent_id="scope", session_id="night")
        agent.start()
        until(lambda: "night" in sessions())
        return agent

    agent = started()
    assert httpx.delete(f"{api.url}/debug/sessions/night/close").status_code == 200
    until(lambda: "Session night is not active" in caplog.text)
    assert "night" not in sessions()
    agent.close()
    started().close()  # a new agent makes its session again


def test_information_and_settings_are_answered(
    local: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tree()
    store(local, [row for row in rows if row[1]["uuid"] != "h3"])
    row = {"root": "/r", "path": "bad.xml", "kind": "foilhole", "size": 1, "mtime_ns": 1}
    with local.write() as connection:
        record_files(connection, [row | {"problem": "not XML"}, row | {"path": "good.xml"}])
    agent = Agent(local, ApiSettings("http://127.0.0.1:9"))
    monkeypatch.setattr(logging.getLogger("skywright"), "level", logging.WARNING)

    def ask(kind: str, **payload: Any) -> Any:
        event = {"instruction_id": f"{kind} {payload}", "instruction_type": kind}
        event |= {"payload": payload}
        status = carry_out(local, agent._handlers, "/path", event, agent._stop)
        with local.read() as connection:
            newest = select(outbox.c.body).order_by(outbox.c.id.desc()).limit(1)
            body = json.loads(connection.execute(newest).scalar_one())["acknowledgement"]
        return status, json.loads(body["result"] or "null"), body["error_message"]

    assert ask("agent.info.datastore")[:2] == (
        "processed",
        {"acquisition": 1, "grid": 1, "atlas": 1, "atlas_tile": 1, "gridsquare": 1}
        | {"foilhole": 3, "micrograph": COUNT},
    )
    bad = {"path": "bad.xml", "problem": "not XML"}
    assert ask("agent.info.errors")[1] == {"count": 1, "errors": [bad]}
    late = [row[1]["uuid"] for row in rows if row[1].get("foilhole_uuid") == "h3"]
    assert ask("agent.info.orphans")[1] == {"count": len(late), "micrographs": late}
    status, _, problem = ask("agent.config.update", colour="red")
    assert (status, "colour" in problem) == ("declined", True)
    assert ask("agent.config.update", heartbeat_interval=0)[0] == "declined"
    assert ask("agent.config.update", log_level="debug", heartbeat_interval=5)[0] == "processed"
    assert logging.getLogger("skywright").level == logging.DEBUG


def full_disk() -> OperationalError:
    return OperationalError("INSERT", {}, Exception("database or disk is full"))


def test_a_database_that_fails_is_reported_once_in_a_line(
    local: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(local, ApiSettings("http://127.0.0.1:9"))
    monkeypatch.setattr(agent_module, "RETRY_S", (0.0, 0.0))
    failures = [full_disk(), full_disk()]

    def upload() -> bool:
        if failures:
            raise failures.pop()
        agent._stop.set()
        agent.wake()
        return False

    monkeypatch.setattr(agent._uploader, "upload", upload)
    agent._send()
    (record,) = caplog.records
    assert "database or disk is full" in record.message
    assert record.exc_info is None


def test_a_database_that_fails_at_each_instruction_is_reported_once(
    local: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(local, ApiSettings("http://127.0.0.1:9"))
    monkeypatch.setattr(agent_module, "RETRY_S", (0.0, 0.0))
    lines = ["event: connected", "data: {}", "", "event: instruction", "data: {}", ""]
    stream = nullcontext(SimpleNamespace(iter_lines=lambda: iter(lines)))
    client = SimpleNamespace(
        request=lambda *_: httpx.Response(200), stream=lambda *_: stream, close=lambda: None
    )
    monkeypatch.setattr(agent, "_client", client)
    failures = [full_disk(), full_disk()]

    def fail(*_: object) -> None:
        if failures:
            raise failures.pop()
        agent._stop.set()

    monkeypatch.setattr(agent_module, "carry_out", fail)
    agent._take()
    assert [each.message.partition(":")[0] for each in caplog.records] == ["instructions"]


def test_an_answer_waits_for_the_database(
    local: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures, announce = [full_disk()], instructions_module.announce

    def announce_late(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        announce(*arguments)

    monkeypatch.setattr(instructions_module, "announce", announce_late)
    monkeypatch.setattr(instructions_module, "RETRY_S", 0.0, raising=False)
    instruction = {"instruction_id": "1", "instruction_type": "count"}
    handlers = {"count": lambda payload: 3}
    assert carry_out(local, handlers, "/path", instruction, threading.Event()) == "processed"
    with local.read() as connection:
        body = json.loads(connection.execute(select(outbox.c.body)).scalar_one())
    assert (body["path"], body["acknowledgement"]["result"]) == ("/path/1/ack", "3")
    assert "database or disk is full" in caplog.text


@pytest.mark.parametrize("status", [403, 404])
def test_an_answer_is_kept_unless_the_api_itself_refuses_it(local: Database, status: int) -> None:
    answers = [httpx.Response(status, html="<p>"), httpx.Response(status, json={"detail": "no"})]
    client: Any = SimpleNamespace(request=lambda *_: answers.pop(0))
    instruction = {"instruction_id": "1", "instruction_type": "count"}
    carry_out(local, {}, "/path", instruction, threading.Event())
    uploader = upload.Uploader(local, client)
    with pytest.raises(ServerUnavailableError, match=f"POST /path/1/ack: status {status}"):
        uploader.upload()
    assert uploader.pending() == 1
    uploader.upload()
    assert uploader.pending() == 0


def test_an_agent_that_was_killed_answers_what_it_had_begun(local: Database) -> None:
    class KilledError(BaseException):
        pass

    def die(payload: dict[str, Any]) -> None:
        raise KilledError

    def answers() -> list[tuple[str, str]]:
        with local.read() as connection:
            texts = connection.execute(select(outbox.c.body)).scalars().all()
        bodies = [json.loads(text) for text in texts]
        return [(body["path"], body["acknowledgement"]["status"]) for body in bodies]

    begun = {"instruction_id": "1", "instruction_type": "move"}
    handlers = {"move": die, "count": lambda payload: 3}
    with pytest.raises(KilledError):
        carry_out(local, handlers, "/path", begun, threading.Event())
    whole = {"instruction_id": "2", "instruction_type": "count"}
    carry_out(local, handlers, "/path", whole, threading.Event())
    answer_unfinished(local, "/other")
    assert answers() == [("/path/2/ack", "processed")]
    for _ in range(2):
        answer_unfinished(local, "/path")
        assert answers() == [("/path/2/ack", "processed"), ("/path/1/ack", "failed")]
    assert carry_out(local, handlers, "/path", begun, threading.Event()) is None


def test_events_are_read_from_lines() -> None:
    lines = [
        ": a comment",
        "event: instruction",
        'data: {"type": "instruction",',
        'data: "instruction_id": "1"}',
        "",
        "event: heartbeat",
        "data: {}",
        "",
        "data: no json",
        "",
        "data: " + "[" * 100_000,
        "",
    ]
    assert list(events(iter(lines))) == [
        {"type": "instruction", "instruction_id": "1"},
        {"type": "heartbeat"},
    ]


def test_a_proxy_with_credentials(
    local: Database, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
    forwarded: list[str] = []

    def forward(visit: Visit) -> None:
        if f"proxy-authorization: {expected}".lower() not in visit.head.lower():
            visit.answer(407)
        elif visit.head.startswith("POST"):
            forwarded.append(visit.path)
            about = {"Content-Type": "application/json"}
            request = urllib.request.Request(visit.path, visit.body or None, about, method="POST")
            with urllib.request.urlopen(request) as response:
                visit.answer(response.status, response.read())

    monkeypatch.setenv("SKYWRIGHT_PROXY_USER", "user")
    monkeypatch.setenv("SKYWRIGHT_PROXY_PASSWORD", "p@ss")
    with scripted(forward) as proxy:
        agent = Agent(local, ApiSettings(api.url, proxy=proxy.url))
        store(local, tree()[:2])
        agent.start()
        until(lambda: httpx.get(f"{api.url}/grids").json() != [])
        agent.close()
    assert f"{api.url}/acquisitions" in forwarded


@pytest.mark.parametrize(
    "settings",
    [
        ApiSettings("ftp://host"),
        ApiSettings("http://host", proxy="nonsense://host"),
        ApiSettings("https://host", ca_file=Path("/none/ca.pem")),
    ],
)
def test_bad_settings_are_refused(local: Database, settings: ApiSettings) -> None:
    with pytest.raises(ConfigError):
        Agent(local, settings)


BLOCKING = """
import builtins, sys

POSIX = {
    "fcntl", "pwd", "grp", "resource", "termios", "pty", "tty", "syslog", "crypt", "posix",
}
HEAVY = {
    "caproto", "epics", "ophyd", "bluesky", "event_model", "tiled", "databroker", "h5py",
    "fastapi", "uvicorn", "aio_pika", "psycopg", "numba", "skimage", "scipy", "matplotlib",
    "inotify_simple",
}
plain_import = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    top = name.partition(".")[0]
    importer = (globals or {}).get("__name__", "")
    # Other packages choose by platform what they import; ours must do so too.
    ours = importer.partition(".")[0] in ("skywright", "__main__")
    if level == 0 and (top in HEAVY or (top in POSIX and ours)):
        raise ModuleNotFoundError(f"blocked: {name} in {importer}", name=top)
    return plain_import(name, globals, locals, fromlist, level)

builtins.__import__ = guarded
"""

LEAN = """
from skywright.instruments.epu.agent import Agent, ApiSettings
from skywright.instruments.epu.agent import agent as agent_module
from skywright.instruments.epu.database import open_database, record

database = open_database(sys.argv[2], announce=True)
with database.write() as connection:
    record(connection, "acquisition", [{"uuid": "lean", "name": "lean"}])
agent = Agent(database, ApiSettings(sys.argv[1]))
agent.start()
left = agent.close(drain=30.0)
assert left == 0, left
assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
print("sent")
"""

WATCH = """
from skywright.cli import main
main()
"""


def test_the_agent_runs_without_posix_epics_bluesky_and_tiled(api: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKING + LEAN, api.url, str(tmp_path / "lean.sqlite")],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.stdout == "sent\n", done.stderr
    assert json.loads(httpx.get(f"{api.url}/acquisitions/lean").text)["name"] == "lean"


def test_a_watched_directory_arrives_whole(
    run_service: Callable[..., Any], api: Any, tmp_path: Path, test_data: Path
) -> None:
    expected = json.loads((test_data / "epu" / "synthetic-sample.expected.json").read_text())
    command = [sys.executable, "-c", BLOCKING + WATCH, "epu", "watch"]
    options = ["--idle-exit", "1", "--polling", "0.3"]
    options += ["--database", f"{tmp_path}/watch.sqlite"]
    for more in ([], ["--api-url", api.url]):  # recorded before there is an API, sent later
        done = subprocess.run(
            [*command, str(test_data / "epu" / "synthetic-sample"), *options, *more],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for name in ("foilholes", "micrographs"):
        rows = httpx.get(f"{api.url}/{name}").json()
        given = [row for grid in expected["grids"] for row in grid[name]]
        assert len(rows) == len(given), name
    (grid,) = httpx.get(f"{api.url}/grids").json()
    assert len(httpx.get(f"{api.url}/grids/{grid['uuid']}/gridsquares").json()) >= len(
        expected["grids"][0]["gridsquares"]
    )
    atlas = httpx.get(f"{api.url}/grids/{grid['uuid']}/atlas").json()
    assert atlas["atlas_id"] == expected["atlas"][0]["id"]
    tiles = httpx.get(f"{api.url}/atlases/{atlas['uuid']}/tiles").json()
    assert len(tiles) == len(expected["atlas"][0]["tiles"])
    by_uuid = {row["id"]: row for one in expected["grids"] for row in one["micrographs"]}
    for row in httpx.get(f"{api.url}/micrographs").json():
        for field in ("defocus", "applied_defocus", "dose", "detector_name", "image_size_x"):
            assert row[field] == by_uuid[row["uuid"]][field], field


HURRIED = """
from skywright.instruments.epu.agent import Agent

Agent.close.__defaults__ = (0.0,)
"""
"""At the end there is no time left to send."""


def test_a_watch_that_ends_by_itself_sends_all(api: Any, tmp_path: Path, test_data: Path) -> None:
    sample = test_data / "epu" / "synthetic-sample"
    command = [sys.executable, "-c", HURRIED + WATCH, "epu", "watch", str(sample)]
    options = ["--idle-exit", "0", "--database", f"{tmp_path}/watch.sqlite"]
    done = subprocess.run(
        [*command, *options, "--api-url", api.url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = json.loads((test_data / "epu" / "synthetic-sample.expected.json").read_text())
    micrographs = [row["id"] for grid in expected["grids"] for row in grid["micrographs"]]
    assert set(stored(api.url)) >= set(micrographs)
