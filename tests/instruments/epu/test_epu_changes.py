"""Changes of micrographs are followed by their numbers, whatever the clocks of the writers say."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import insert, select, text

from skywright.instruments.epu.api import frontend, instructions
from skywright.instruments.epu.api.models_services import Acknowledgement, InstructionCreate
from skywright.instruments.epu.broker import apply
from skywright.instruments.epu.database import Database, open_database, record, schema
from skywright.instruments.epu.database.migrate import alembic_config
from skywright.instruments.epu.database.schema_exchange import agent_session
from skywright.instruments.epu.decisions.decider import Decider
from skywright.instruments.epu.runs.layouts import STREAMS
from skywright.instruments.epu.runs.tracked import TrackedGrids

COUNT = 6
LINKS = {"grid_uuid": "g", "gridsquare_uuid": "s", "foilhole_uuid": "h", "gridsquare_id": "1"}


@pytest.fixture
def session(database: Database) -> Database:
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a", "name": "n"}])
        record(connection, "grid", [{"uuid": "g", "acquisition_uuid": "a", "name": "n"}])
        square = {"uuid": "s", "grid_uuid": "g", "gridsquare_id": "1"}
        record(connection, "gridsquare", [square])
        rows = [{"uuid": f"m{n}", "foilhole_id": "1", **LINKS} for n in range(COUNT)]
        record(connection, "micrograph", rows)
    return database


def report(database: Database, number: int) -> None:
    """Store a result as the consumer does."""
    event = {"event_type": "ctf.completed", "micrograph_uuid": f"m{number}"}
    with database.write() as connection:
        apply.apply_event(connection, event | {"ctf_max_resolution_estimate": 3.0 + number})


class SlowClock(datetime):
    """The clock of a host that is behind."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)


def test_results_of_a_host_whose_clock_is_behind_are_followed(
    session: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = TrackedGrids(session, tmp_path)
    decider = Decider(session, tmp_path)
    grids.begin("g", "run", tmp_path)
    report(session, 0)
    assert grids.poll()
    decider.step()
    monkeypatch.setattr(apply, "datetime", SlowClock)
    report(session, 1)
    assert grids.poll()
    assert not grids.poll()
    assert grids.counts()["run"][STREAMS["result"]] == 2
    decider.step()
    assert decider.overview["results"] == 2
    grids.close()


def test_results_with_the_same_time_reach_front_ends_page_by_page(
    session: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "METRICS_MAX", 4)
    view = frontend._View({"processing.metric"}, None, None)
    now = datetime.now(UTC)
    rows = [
        {"uuid": f"m{n}", **LINKS, "total_motion": 1.0, "updated_at": now} for n in range(COUNT)
    ]
    with session.write() as connection:
        record(connection, "micrograph", rows)
    found = []
    for _ in range(3):
        with session.read() as connection:
            found.append([data["micrograph_uuid"] for _, data in view.changes(connection)])
    assert found == [["m0", "m1", "m2", "m3"], ["m4", "m5"], []]


@pytest.mark.parametrize("url", ["sqlite_url", "empty_postgres_url"])
def test_a_database_without_numbers_of_changes_gets_them(
    url: str, request: pytest.FixtureRequest
) -> None:
    database_url = request.getfixturevalue(url)
    database = open_database(database_url)
    with database.write() as connection:
        command.downgrade(alembic_config(connection), "0001")
    old = schema.micrograph
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a", "name": "n"}])
        record(connection, "grid", [{"uuid": "g", "acquisition_uuid": "a", "name": "n"}])
        for number in range(3):
            values = {"uuid": f"m{number}", "foilhole_id": "1", **LINKS}
            connection.execute(insert(old).values(values))
    database.close()
    database = open_database(database_url)
    report(database, 1)
    with database.read() as connection:
        query = select(old.c.uuid).where(old.c.change > 0).order_by(old.c.change)
        assert list(connection.execute(query).scalars()) == ["m0", "m2", "m1"]
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    database.close()


def test_front_ends_hear_how_each_instruction_ended(database: Database) -> None:
    now = datetime.now(UTC)
    row = {"session_id": "s", "agent_id": "a", "created_at": now, "last_activity_at": now}
    view = frontend._View({"instruction.lifecycle"}, None, None)

    def states() -> list[tuple[str, str]]:
        with database.read() as connection:
            found = [data for _, data in view.changes(connection)]
        return [(data["instruction_id"], data["status"]) for data in found]

    def make(*minutes: float) -> list[str]:
        with database.write() as connection:
            bodies = [InstructionCreate(expires_in_minutes=each) for each in minutes]
            return [
                instructions.instruct(connection, "s", body)["instruction_id"] for body in bodies
            ]

    with database.write() as connection:
        connection.execute(insert(agent_session).values(row))
    (over,) = make(60)
    with database.write() as connection:
        instructions.hand_out(connection, "s")
        instructions.acknowledge(connection, "a", "s", over, Acknowledgement(status="processed"))
    late, good = make(1e-9, 60)
    with database.read() as connection:
        view.begin(connection)
    assert states() == []
    with database.write() as connection:
        instructions.hand_out(connection, "s")
    assert states() == [(late, "expired"), (good, "sent")]
    (new,) = make(60)
    assert states() == [(new, "pending")]
    with database.write() as connection:
        instructions.acknowledge(connection, "a", "s", good, Acknowledgement(status="failed"))
        instructions.acknowledge(connection, "a", "s", new, Acknowledgement(status="processed"))
    assert states() == [(good, "acknowledged"), (new, "acknowledged")]
    assert states() == []
    assert view.unanswered == {}
