"""From results in the database to the acquisition software: ranks, suggestions, instructions."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import func, literal, select
from support.scripted_http import Visit, scripted
from support.waiting import until

from skywright.errors import HardwareError
from skywright.instruments.epu.agent import Agent, ApiSettings
from skywright.instruments.epu.agent.client import ApiClient
from skywright.instruments.epu.agent.control import ControlClient
from skywright.instruments.epu.agent.instructions import DeclinedError
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.broker.quality import store_predictions
from skywright.instruments.epu.database import Database, open_database, record, schema
from skywright.instruments.epu.database.schema_quality import (
    current_prediction,
    overall_prediction,
    prediction_model,
)
from skywright.instruments.epu.decisions.analysis import CTF_LIMIT_A
from skywright.instruments.epu.decisions.control import InstructionSender
from skywright.instruments.epu.decisions.decider import MODEL, Decider, Troubles, troubles
from skywright.instruments.epu.decisions.policy import EpuOrder, Suggestion
from skywright.instruments.epu.housekeeping import find_duplicates
from skywright.instruments.epu.twin.processing import processing_of
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import visit_files
from skywright.instruments.epu.watch.watcher import Watcher

VISIT = plan_visit(11, 1, 9, imaged=9, holes=8)


@pytest.fixture
def double() -> Iterator[SimpleNamespace]:
    """Stands for the acquisition-control service: keeps its orders, declines squares 0."""
    orders: list[tuple[str, dict[str, Any]]] = []

    def take(visit: Visit) -> None:
        body = json.loads(visit.body)
        if "0" in body.get("gridsquare_ids", ()):
            visit.answer(409, b"square 0 is not of this grid")
        else:
            orders.append((visit.path, body))
            visit.answer(200, b"OK" if body.get("plain") else b'{"accepted": true}')

    with scripted(take) as server:
        yield SimpleNamespace(orders=orders, url=server.url)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Database]:
    """Two thirds of a visit's files, with the results of processing."""
    files = list(visit_files(VISIT))
    for file in files[: 2 * len(files) // 3]:
        file.put(tmp_path / "data")
    database = open_database(tmp_path / "epu.sqlite", durable=False)
    Watcher(tmp_path / "data", database).run(idle_exit=0.2)
    stop = threading.Event()
    thread = threading.Thread(target=processing_of(VISIT, 1e9), args=(database, stop))
    thread.start()
    table = schema.micrograph
    query = select(table.c.number).where(table.c.ctf_max_resolution_estimate.is_(None))

    def done() -> bool:
        with database.read() as connection:
            return connection.execute(query.limit(1)).first() is None

    until(done)
    stop.set()
    thread.join()
    yield database
    database.close()


def test_squares_are_ranked_as_they_truly_are(recorded: Database, tmp_path: Path) -> None:
    suggested: list[tuple[str, Suggestion]] = []
    decider = Decider(recorded, tmp_path / "data", suggested=lambda *found: suggested.append(found))
    decider.step()
    decider.step()  # nothing new: nothing is suggested again
    ((grid, suggestion),) = suggested
    found = decider.overview
    judged = {each.id: each.resolution <= CTF_LIMIT_A for each in VISIT.micrographs()}
    table = schema.micrograph
    with recorded.read() as connection:
        taken = list(connection.execute(select(table.c.uuid)).scalars())
        kept = current_prediction.c
        query = select(kept.value).where(kept.prediction_model_name == MODEL)
        stored = sorted(connection.execute(query).scalars())
    assert found["results"] == found["micrographs"] == len(taken)
    assert found["good"] == sum(judged[uuid] for uuid in taken)
    shares = {name: share for name, *_, share in found["squares"] if share is not None}
    np.testing.assert_allclose(stored, sorted(shares.values()), rtol=1e-3)
    true = {str(square.id): square.share for square in VISIT.grids[0].squares}
    names = sorted(shares)
    ranks = np.corrcoef([shares[name] for name in names], [true[name] for name in names])
    assert ranks[0, 1] > 0.5
    assert suggestion.squares
    assert decider.suggestion["grid"] == grid
    assert (decider.troubles.orphans, decider.troubles.late) == (0, 0)
    assert decider.troubles.duplicates == len(list(find_duplicates(tmp_path / "data", [])))


def test_holes_are_suggested_by_what_models_predict(recorded: Database, tmp_path: Path) -> None:
    decider = Decider(recorded, tmp_path / "data")
    hole, table, overall = schema.foilhole, schema.micrograph, overall_prediction
    newest = select(table.c.gridsquare_id).order_by(table.c.number.desc()).limit(1)
    with recorded.write() as connection:
        square = connection.execute(newest).scalar()
        query = select(hole).where(hole.c.gridsquare_id == square).order_by(hole.c.number)
        _, *others = connection.execute(query).mappings()
        taken = [other["uuid"] for other in others]
        connection.execute(table.delete().where(table.c.foilhole_uuid.in_(taken)))
    decider.step()
    assert decider.suggestion["squares"][0] == square  # it has too few results to be left
    before = tuple(other["foilhole_id"] for other in others)
    assert decider.suggestion["holes"] == before
    with recorded.write() as connection:
        connection.execute(prediction_model.insert().values(name="model", description=""))
        for other, value in ((others[-1], 0.99), (others[0], 0.01)):
            grid, uuid = other["grid_uuid"], other["uuid"]
            store_predictions(connection, "foilhole", {uuid: grid}, "model", value)
    decider.step()
    assert decider.suggestion["holes"] == (before[-1], *before[1:-1])
    assert decider.suggestion["skipped_holes"] == (before[0],)
    with recorded.read() as connection:
        query = select(overall.c.foilhole_uuid, overall.c.suggested_acquisition_index)
        stored = connection.execute(query.where(overall.c.foilhole_uuid.is_not(None))).tuples()
        assert dict(stored.all()) == {taken[-1]: 0, taken[0]: None}


def test_a_suggestion_that_could_not_be_stored_is_made_again(
    recorded: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggested: list[Suggestion] = []
    decider = Decider(
        recorded, tmp_path / "data", suggested=lambda _, suggestion: suggested.append(suggestion)
    )
    with monkeypatch.context() as failing:

        def store_and_fail(*arguments: Any) -> None:
            store_predictions(*arguments)
            raise ZeroDivisionError

        place = "skywright.instruments.epu.decisions.decider.store_predictions"
        failing.setattr(place, store_and_fail)
        with pytest.raises(ZeroDivisionError):
            decider.step()
    assert (decider.suggestion, suggested) == ({}, [])
    decider.step()
    assert len(suggested) == 1
    with recorded.read() as connection:
        stored = connection.execute(select(func.count()).select_from(current_prediction))
        results = [share for *_, share in decider.overview["squares"] if share is not None]
        assert stored.scalar() == len(results)


def test_results_that_come_after_the_last_hole_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suggestion does not change any more."""
    database = open_database(tmp_path / "epu.sqlite", durable=False)
    links = {"grid_uuid": "g", "gridsquare_uuid": "s", "gridsquare_id": "1"}
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a"}])
        record(connection, "grid", [{"uuid": "g", "acquisition_uuid": "a", "name": "n"}])
        square = {"uuid": "s", "grid_uuid": "g", "gridsquare_id": "1"}
        record(connection, "gridsquare", [square])
        record(connection, "foilhole", [{"uuid": "h", "foilhole_id": "2", **links}])
        micrograph: dict[str, Any] = {"foilhole_uuid": "h", **links}
        rows = [{"uuid": f"m{n}", **micrograph} for n in range(30)]
        rows.append({**micrograph, "uuid": "m30", "gridsquare_id": None})  # its share has no square
        record(connection, "micrograph", rows)
    suggested: list[Suggestion] = []
    decider = Decider(
        database, tmp_path, EpuOrder(), suggested=lambda _, each: suggested.append(each)
    )
    decider.step()
    for numbers, resolution in (([0, 1, 2, 30], 3.0), (range(3, 30), 9.0)):
        with database.write() as connection:
            for number in numbers:
                event = {"event_type": "ctf.completed", "micrograph_uuid": f"m{number}"}
                apply_event(connection, event | {"ctf_max_resolution_estimate": resolution})
        decider.step()
        ((*_, share),) = decider.overview["squares"]
        with database.read() as connection:
            stored = connection.execute(select(current_prediction.c.value)).scalars().all()
        assert stored == pytest.approx([share], rel=1e-3)
    assert len(suggested) == 1
    monkeypatch.setattr(Database, "write", lambda _: 1 / 0)
    decider.step()  # there is nothing to store
    database.close()


def test_the_present_square_is_that_of_the_newest_micrograph(
    recorded: Database, tmp_path: Path
) -> None:
    table, hole = schema.micrograph, schema.foilhole
    first = select(table).order_by(table.c.number).limit(1)  # read first
    with recorded.write() as connection:
        row = connection.execute(first).mappings().one()
        mine = table.c.uuid == row["uuid"]
        connection.execute(
            table.update().where(mine).values(acquisition_datetime=datetime.now(UTC))
        )
        left = {key: row[key] for key in ("grid_uuid", "gridsquare_uuid")}
        for square in ("9", "10"):
            own = {"uuid": square, "gridsquare_id": square, "foilhole_id": square}
            connection.execute(hole.insert().values({**left, **own}))
    decider = Decider(recorded, tmp_path / "data", EpuOrder())
    decider.step()
    assert decider.overview["current"] == row["gridsquare_id"]
    assert decider.overview["newest"][0][0] == row["micrograph_id"]
    assert decider.suggestion["squares"][:2] == ("9", "10")


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=3)])
@pytest.mark.parametrize("wrong", [timedelta(days=1), timedelta(days=365 * 3900)])
def test_a_micrograph_that_is_dated_in_the_future_is_not_the_newest(
    tmp_path: Path, wrong: timedelta, ahead: timedelta
) -> None:
    """The clock of the microscope's machine was wrong for a while; it may be ahead by hours."""
    database = open_database(tmp_path / "epu.sqlite", durable=False)
    now = datetime.now(UTC)
    future, present = now + wrong, now + ahead
    rows = [("old", "1", future + wrong), ("new", "1", future), ("new", "3", present)]
    rows.append(("new", "2", present - timedelta(seconds=9)))  # read later than it was taken
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a"}])
        for grid in ("old", "new"):
            record(connection, "grid", [{"uuid": grid, "acquisition_uuid": "a", "name": grid}])
        for grid, square, date in rows:
            own = {"grid_uuid": grid, "gridsquare_id": square}
            uuid = f"{grid}{square}"
            record(connection, "gridsquare", [{"uuid": uuid, **own}])
            own |= {"gridsquare_uuid": uuid, "foilhole_id": "5"}
            record(connection, "foilhole", [{"uuid": uuid, **own}])
            own |= {"foilhole_uuid": uuid, "micrograph_id": uuid, "acquisition_datetime": date}
            record(connection, "micrograph", [{"uuid": uuid, **own}])
    decider = Decider(database, tmp_path, EpuOrder())
    decider.step()
    assert decider.suggestion["grid"] == "new"
    assert decider.overview["current"] == "3"
    assert [each[0] for each in decider.overview["newest"]] == ["new3", "new2", "new1"]
    database.close()


def test_orphans_late_ones_and_duplicates_are_counted(recorded: Database, tmp_path: Path) -> None:
    hole, file = schema.foilhole, schema.source_file
    with recorded.write() as connection:
        several = select(file.c.entity_uuid).where(file.c.kind == "foilhole")
        several = several.group_by(file.c.entity_uuid).having(func.count() > 1)
        before = troubles(connection, tmp_path / "data", 300.0)
        name = connection.execute(select(schema.micrograph.c.foilhole_uuid).limit(1)).scalar()
        connection.execute(hole.delete().where(hole.c.uuid == name))
        row = (
            connection.execute(
                select(file)
                .where(file.c.kind == "foilhole", file.c.entity_uuid.not_in(several))
                .limit(1)
            )
            .mappings()
            .one()
        )
        connection.execute(file.insert().values({**row, "path": row["path"] + ".again.xml"}))
        moved = [literal("/moved").label(c.name) if c is file.c.root else c for c in file.c]
        connection.execute(file.insert().from_select(list(file.c), select(*moved)))
        here = schema.micrograph.c.foilhole_uuid == name
        orphans = len(connection.execute(select(schema.micrograph.c.number).where(here)).all())
    patient, strict = (
        Decider(recorded, tmp_path / "data"),
        Decider(recorded, tmp_path / "data", late_s=1e-3),
    )
    patient.step()
    strict.step()
    assert (patient.troubles.orphans, patient.troubles.late) == (orphans, 0)
    assert strict.troubles.late == orphans
    long_ago = datetime.now(UTC) - timedelta(seconds=400)
    with recorded.write() as connection:
        connection.execute(file.update().values(recorded_at=long_ago))
    patient.step()
    assert patient.troubles.late == orphans
    elsewhere = Decider(recorded, tmp_path)
    elsewhere.step()
    assert elsewhere.troubles == Troubles()
    assert not elsewhere.suggestion
    result = {"event_type": "ctf.completed", "ctf_max_resolution_estimate": 3.0}
    with recorded.write() as connection:
        uuids = select(schema.micrograph.c.uuid).where(schema.micrograph.c.foilhole_uuid == name)
        for uuid in list(connection.execute(uuids).scalars()):
            apply_event(connection, {**result, "micrograph_uuid": uuid})
    patient.step()
    assert patient.troubles.late == orphans  # a result does not end the wait
    assert patient.troubles.duplicates == before.duplicates + 1


def test_the_acquisition_software_is_asked_without_a_proxy(
    double: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    ControlClient(double.url).order("reorder_gridsquares", {"gridsquare_ids": ["5"]})
    assert double.orders == [("/reorder_gridsquares", {"gridsquare_ids": ["5"]})]


def test_a_suggestion_reaches_the_acquisition_software_and_is_acknowledged(
    double: SimpleNamespace, run_service: Callable[..., Any], tmp_path: Path
) -> None:
    api = run_service("serve", "--port", "0", "--database", f"sqlite:///{tmp_path}/api.sqlite")
    local = open_database(tmp_path / "agent.sqlite", announce=True)
    control = ControlClient(double.url)
    agent = Agent(
        local, ApiSettings(api.url), agent_id="scope", session_id="s", handlers=control.handlers()
    )
    sender = InstructionSender(ApiClient(ApiSettings(api.url)), "s")
    # Before the agent is there.
    sender.send("grid", Suggestion(("5", "6", "7"), ("7",), "go to 5"))
    agent.start()
    until(lambda: len(double.orders) == 2)
    assert double.orders[0][0] == "/reorder_gridsquares"
    assert double.orders[0][1]["gridsquare_ids"] == ["5", "6", "7"]
    assert double.orders[1] == (
        "/skip_gridsquares",
        {"gridsquare_ids": ["7"], "reason": "go to 5"},
    )
    url = f"{api.url}/debug/session/s/instructions"

    def statuses() -> list[str]:
        return [row["status"] for row in httpx.get(url).json()["instructions"]]

    until(lambda: set(statuses()) == {"acknowledged"})
    # The next square is the same.
    sender.send("grid", Suggestion(("5", "7", "6"), ("7",), "stay in 5"))
    sender.send("grid", Suggestion(("0", "7"), ("7",), "go to 0"))
    until(lambda: statuses() == 3 * ["acknowledged"])
    found = httpx.get(f"{api.url}/debug/session/s/instructions").json()
    assert found["acknowledgement_statistics"] == {"processed": 2, "declined": 1}
    assert len(double.orders) == 2

    def suggest(skipped: str, holes: tuple[str, ...], bad: tuple[str, ...]) -> None:
        sender.send("grid", Suggestion(("5", "7"), (skipped,), "stay in 5", holes, bad))

    suggest("7", ("52", "51", "53"), ("54",))  # and square 5 again
    until(lambda: len(double.orders) == 4)
    assert double.orders[3] == (
        "/reorder_foilholes",
        {
            "gridsquare_id": "5",
            "foilhole_ids": ["52", "51", "53"],
            "skipped_foilhole_ids": ["54"],
            "reason": "stay in 5",
        },
    )
    suggest("8", ("51", "53"), ("54",))  # hole 52 is taken: the order of the others is the same
    until(lambda: len(double.orders) == 5)
    suggest("8", ("51",), ("53", "54"))  # hole 53 turns out bad
    until(lambda: len(double.orders) == 6)
    assert double.orders[4][0] == "/skip_gridsquares"
    assert double.orders[5][1]["foilhole_ids"] == ["51"]
    until(lambda: set(statuses()) == {"acknowledged"})
    found = httpx.get(f"{api.url}/debug/session/s/instructions").json()
    assert found["acknowledgement_statistics"] == {"processed": 6, "declined": 1}
    sender.close()
    agent.close()
    control.close()
    local.close()


def test_what_was_sent_for_another_grid_is_sent_again(double: SimpleNamespace) -> None:
    """Grids that were taken with the same atlas have squares of the same ids."""
    sender = InstructionSender(ApiClient(ApiSettings(double.url)), "s")
    suggestion = Suggestion(("5", "6"), ("6",), "go to 5", ("51",))
    sender.send("first", suggestion)
    until(lambda: len(double.orders) == 3)
    sender.send("first", replace(suggestion, reason="stay in 5"))
    sender.send("second", suggestion)
    until(lambda: len(double.orders) == 6)
    sender.close()
    kinds = [body["instruction_type"].rpartition(".")[2] for _, body in double.orders]
    assert kinds == 2 * ["reorder_gridsquares", "skip_gridsquares", "reorder_foilholes"]


@pytest.mark.parametrize("grids", [("last",), ("first", "last")])
def test_squares_that_were_skipped_before_a_restart_or_on_another_grid_are_skipped_no_more(
    double: SimpleNamespace, grids: tuple[str, ...]
) -> None:
    """The service keeps its list until another one comes; an empty one replaces it too."""
    sender = InstructionSender(ApiClient(ApiSettings(double.url)), "s")
    for number, grid in enumerate(grids, 1):
        skipped = () if grid == "last" else ("7",)
        sender.send(grid, Suggestion(("5", "7"), skipped, "go to 5"))
        until(lambda sent=2 * number: len(double.orders) == sent)
    sender.send("last", Suggestion(("7",), (), "go to 7"))  # an empty list is sent once
    until(lambda: len(double.orders) == 2 * len(grids) + 1)
    sender.close()
    found = [
        (body["instruction_type"].rpartition(".")[2], body["payload"]["gridsquare_ids"])
        for _, body in double.orders[-3:]
    ]
    assert found == [
        ("reorder_gridsquares", ["5", "7"]),
        ("skip_gridsquares", []),
        ("reorder_gridsquares", ["7"]),
    ]


def test_no_order_is_sent_before_there_is_a_square_to_take(double: SimpleNamespace) -> None:
    sender = InstructionSender(ApiClient(ApiSettings(double.url)), "s")
    sender.send("grid", Suggestion((), reason="no planned hole is left"))
    until(lambda: len(double.orders) == 1)
    sender.close()
    assert double.orders[0][1]["instruction_type"].endswith(".skip_gridsquares")


def test_a_suggestion_to_a_session_that_is_missing_is_sent_less_and_less_often() -> None:
    waits: list[float] = []
    answers = iter([*6 * [404], 200, 200])
    client: Any = SimpleNamespace(
        request=lambda *_: httpx.Response(next(answers)), close=lambda: None
    )
    sender = InstructionSender(client, "s")
    sender._stopped.wait = waits.append  # type: ignore[assignment]
    sender.send("grid", Suggestion(("5",)))
    until(lambda: len(waits) == 6 and not sender.problem)
    sender.close()
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_orders_of_each_kind_reach_the_service(double: SimpleNamespace) -> None:
    control = ControlClient(double.url)
    handlers = control.handlers()
    kinds = ["move_stage", "take_image", "reorder_gridsquares", "skip_gridsquares"]
    for kind in [*kinds, "reorder_foilholes"]:
        assert handlers[f"microscope.control.{kind}"]({"x": 1e-4}) == {"accepted": True}
    assert double.orders == [(f"/{kind}", {"x": 1e-4}) for kind in [*kinds, "reorder_foilholes"]]
    assert control.order("move_stage", {"plain": True}) == "OK"  # done, though it is no JSON
    control.close()


def test_a_service_that_is_away_is_an_error_of_the_instruction(double: SimpleNamespace) -> None:
    with pytest.raises(DeclinedError, match="not of this grid"):
        ControlClient(double.url).order("skip_gridsquares", {"gridsquare_ids": ["0"]})
    with pytest.raises(HardwareError, match="skip_gridsquares"):
        ControlClient("http://127.0.0.1:9").order("skip_gridsquares", {"gridsquare_ids": []})
