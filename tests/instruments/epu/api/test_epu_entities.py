"""Entities by the HTTP API: status codes, states, paging, on both kinds of database."""

import random
import string
from datetime import datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.exc import TimeoutError as NoConnection
from support.epu_api import TIME, events, hole

from skywright.instruments.epu.api import app
from skywright.instruments.epu.database import Database, read

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


PATHS = {
    "acquisitions": "a",
    "grids": "g",
    "atlases": "at",
    "atlas-tiles": "t",
    "gridsquares": "s",
    "foilholes": "h",
    "micrographs": "m",
}


@pytest.mark.parametrize("path", PATHS)
def test_read_change_delete(tree: TestClient, path: str) -> None:
    url = f"/{path}/{PATHS[path]}"
    before = tree.get(url).json()
    assert tree.get(f"/{path}").json() == [before]
    field, value = {
        "atlas-tiles": ("file_format", "Mrc"),
        "gridsquares": ("state", "Completed"),
        "foilholes": ("quality", 0.75),
        "micrographs": ("location_id", "9"),
    }.get(path, ("name", "changed"))
    answer = tree.put(url, json={field: value})
    assert answer.status_code == 200
    ignored = {"updated_at"}
    assert {key: value for key, value in answer.json().items() if key not in ignored} == {
        key: value for key, value in (before | {field: value}).items() if key not in ignored
    }
    assert tree.delete(url).status_code == 204
    assert [tree.request(method, url).status_code for method in ("GET", "DELETE")] == [404, 404]
    assert tree.put(url, json={field: value}).status_code == 404
    assert tree.get(f"/{path}").json() == []


@pytest.mark.parametrize("path", PATHS)
def test_a_change_that_names_another_uuid_is_refused(tree: TestClient, path: str) -> None:
    url = f"/{path}/{PATHS[path]}"
    before = tree.get(url).json()
    assert tree.put(url, json={**before, "uuid": "other"}).status_code == 422
    assert tree.get(url).json() == before
    assert tree.put(url, json={"uuid": PATHS[path]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/acquisitions/x/grids", {"uuid": "n", "name": "grid", "acquisition_uuid": "x"}),
        ("/grids/x/atlas", {"uuid": "n", "grid_uuid": "x", "name": "Atlas"}),
        ("/atlases/x/tiles", {"uuid": "n", "atlas_uuid": "x"}),
        ("/grids/x/gridsquares", {"uuid": "n", "gridsquare_id": "3", "grid_uuid": "x"}),
        ("/gridsquares/x/foilholes", [hole("n", gridsquare_uuid="x")]),
        ("/foilholes/x/micrographs", {"uuid": "n", "foilhole_id": "1"}),
    ],
)
def test_an_unknown_parent_is_404_and_stores_nothing(
    tree: TestClient, database: Database, path: str, body: Any
) -> None:
    before = events(database)
    assert tree.post(path, json=body).status_code == 404
    assert tree.get(path).status_code == 404
    assert events(database) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/acquisitions", {}),
        ("/acquisitions", {"uuid": ""}),
        ("/acquisitions", {"uuid": "n", "start_time": "yesterday"}),
        ("/acquisitions", {"uuid": "n", "status": "sleeping"}),
        ("/acquisitions/a/grids", {"uuid": "n", "acquisition_uuid": "a"}),
        ("/grids/g/gridsquares", {"uuid": "n", "grid_uuid": "g"}),
        ("/grids/g/gridsquares", {"uuid": "n", "gridsquare_id": "3", "atlas_node_id": 2**70}),
        ("/grids/g/gridsquares/batch", {"gridsquares": []}),
        ("/grids/g/gridsquares/batch", {"gridsquares": [{"uuid": "n", "gridsquare_id": "1"}] * 2}),
        ("/gridsquares/s/foilholes", [hole("n"), {"uuid": "o"}]),
        ("/gridsquares/s/foilholes", [hole("n"), hole("n")]),
        ("/foilholes/h/micrographs", {"uuid": "n"}),
        ("/foilholes/h/micrographs", {"uuid": "n", "foilhole_id": "h", "total_motion": -1}),
        ("/foilholes/h/micrographs", {"uuid": "n\x00", "foilhole_id": "h"}),
        ("/foilholes/h/micrographs", {"uuid": "n", "foilhole_id": "h", "image_size_x": 2**40}),
        ("/micrographs/m/motion_correction/completed", {"total_motion": 1}),
        ("/micrographs/m/motion_correction/completed", {"total_motion": 1, "average_motion": -1}),
        ("/micrographs/m/ctf_estimation/completed", {"ctf_max_res": -3}),
        ("/micrographs/m/ctf_estimation/registered", {"quality": "perhaps"}),
        ("/micrographs/m/ctf_estimation/registered", {"quality": True, "metric_name": "beauty"}),
        ("/quality_predictions", {"value": 0.5}),
    ],
)
def test_a_bad_body_is_422_and_stores_nothing(
    tree: TestClient, database: Database, path: str, body: Any
) -> None:
    before = events(database)
    answer = tree.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert events(database) == before


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/foilholes/h/micrographs", "defocus", b'{"uuid":"n","foilhole_id":"1","defocus":NaN}'),
        ("/foilholes/h/micrographs", "defocus", b'{"uuid":"n","foilhole_id":"1","defocus":-1e999}'),
        ("/gridsquares/s/foilholes", "quality", b'[{"uuid":"n","foilhole_id":"1","quality":NaN}]'),
        (
            "/grids/g/atlas",
            "position_x",
            b'{"uuid":"n","atlas_id":"1","tiles":[{"uuid":"u","tile_id":"1","position_x":1e400}]}',
        ),
        (
            "/micrographs/m/motion_correction/completed",
            "total_motion",
            b'{"total_motion":Infinity,"average_motion":1}',
        ),
        ("/foilholes/h/micrographs", "uuid", b'{"uuid":[NaN],"foilhole_id":"1"}'),
        ("/foilholes/h/micrographs", "uuid", b'{"uuid":["\\ud800"],"foilhole_id":"1"}'),
    ],
)
def test_a_number_that_json_does_not_have_is_422(
    tree: TestClient, path: str, field: str, body: bytes
) -> None:
    """Python's JSON reader takes NaN and 1e999; the answer cannot have them."""
    answer = tree.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == field
    assert len(tree.get("/micrographs").json()) == 1


def test_a_key_that_no_index_holds_is_the_request_s_fault(
    tree: TestClient, database: Database
) -> None:
    """PostgreSQL's index takes keys of some 2700 bytes; a client that gets 503 sends again."""
    long = "".join(random.Random(1).choices(string.ascii_letters, k=9000))
    bodies: list[tuple[str, Any]] = [
        ("/acquisitions", {"uuid": long}),
        ("/grids/g/gridsquares", {"uuid": "n", "gridsquare_id": long}),
        ("/gridsquares/s/foilholes", [hole("n", foilhole_id=long)]),
        ("/prediction_models", {"name": long, "description": "d"}),
    ]
    wanted = 201 if database.dialect == "sqlite" else 422
    assert [tree.post(path, json=body).status_code for path, body in bodies] == [wanted] * 4
    assert tree.post("/acquisitions", json={"uuid": "next"}).status_code == 201


def test_a_request_that_gets_no_connection_may_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Engine) -> None:
        raise NoConnection("QueuePool limit of size 10 overflow 20 reached")

    monkeypatch.setattr(Engine, "connect", refuse)
    answer = client.get("/micrographs")
    assert (answer.status_code, "QueuePool" in answer.json()["detail"]) == (503, True)


def test_a_body_over_the_limit_is_413(tree: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_BYTES_MAX", 10_000)
    holes = [hole(f"n{number}") for number in range(1000)]
    answer = tree.post("/gridsquares/s/foilholes", json=holes)
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "the body is larger than 10000 bytes",
    )
    assert tree.post("/gridsquares/s/foilholes", json=holes[:1]).status_code == 201


def test_a_batch_over_the_limit_is_422(tree: TestClient) -> None:
    squares = [{"uuid": f"n{i}", "gridsquare_id": str(i), "grid_uuid": "g"} for i in range(1001)]
    answer = tree.post("/grids/g/gridsquares/batch", json={"gridsquares": squares})
    assert answer.status_code == 422
    assert "1000" in answer.json()["detail"]
    answer = tree.post("/grids/g/gridsquares/batch", json={"gridsquares": squares[:1000]})
    assert answer.status_code == 201
    assert [row["uuid"] for row in answer.json()["gridsquares"]] == [
        row["uuid"] for row in squares[:1000]
    ]


def test_a_batch_with_a_stored_square_is_409_and_stores_none(tree: TestClient) -> None:
    squares = [{"uuid": uuid, "gridsquare_id": "9", "grid_uuid": "g"} for uuid in ("n", "s")]
    answer = tree.post("/grids/g/gridsquares/batch", json={"gridsquares": squares})
    assert answer.status_code == 409
    assert [row["uuid"] for row in tree.get("/gridsquares").json()] == ["s"]


def test_sending_again_makes_no_second_entity(tree: TestClient, database: Database) -> None:
    before = events(database)
    again = {"uuid": "m", "foilhole_id": "h", "defocus": -1e-6}
    assert tree.post("/foilholes/h/micrographs", json=again).status_code == 200
    assert events(database) == before
    changed = tree.post("/foilholes/h/micrographs", json=again | {"defocus": -2e-6})
    assert changed.json()["defocus"] == -2e-6
    assert len(tree.get("/micrographs").json()) == 1
    assert events(database)[len(before) :] == [
        {
            "event_type": "micrograph.updated",
            "uuid": "m",
            "foilhole_uuid": "h",
            "foilhole_id": "h",
            "micrograph_id": None,
        }
    ]


def test_a_uuid_under_another_parent_is_a_conflict(tree: TestClient) -> None:
    tree.post("/gridsquares/s/foilholes", json=[hole("h2")])
    answer = tree.post("/foilholes/h2/micrographs", json={"uuid": "m", "foilhole_id": "h2"})
    assert answer.status_code == 409
    assert tree.get("/micrographs/m").json()["foilhole_uuid"] == "h"


def test_each_change_is_one_message_in_order(tree: TestClient, database: Database) -> None:
    tree.put("/micrographs/m", json={"defocus": -3e-6})
    tree.put("/micrographs/none", json={"defocus": -3e-6})
    tree.post("/grids/g/gridsquares", json={"uuid": "low", "gridsquare_id": "4", "lowmag": True})
    tree.post("/gridsquares/s/registered")
    tree.post("/grids/g/registered?count=2")
    tree.delete("/gridsquares/s")
    assert [(event["event_type"], event.get("uuid")) for event in events(database)] == [
        ("acquisition.created", "a"),
        ("grid.created", "g"),
        ("atlas.created", "at"),
        ("atlas_tile.created", "t"),
        ("gridsquare.created", "s"),
        ("foilhole.created", "h"),
        ("micrograph.created", "m"),
        ("micrograph.updated", "m"),
        ("gridsquare_lowmag.created", "low"),
        ("gridsquare.registered", "s"),
        ("grid.registered", None),
        ("gridsquare.deleted", "s"),
    ]
    assert events(database)[9] == {
        "event_type": "gridsquare.registered",
        "uuid": "s",
        "grid_uuid": "g",
        "count": 1,
    }


def test_a_square_stays_one_of_the_atlas_only_until_a_request_says_otherwise(
    tree: TestClient, database: Database
) -> None:
    low = {"uuid": "low", "gridsquare_id": "4"}
    tree.post("/grids/g/gridsquares", json={**low, "lowmag": True})
    for given in ({"state": "Defined"}, {"lowmag": None, "selected": True}):
        assert tree.put("/gridsquares/low", json=given).status_code == 200
    assert tree.post("/grids/g/gridsquares", json={**low, "rotation": 0.5}).status_code == 200
    with database.read() as connection:
        square = read.get(connection, "gridsquare", "low")
    assert square is not None
    assert square["lowmag"]
    tree.put("/gridsquares/low", json={"lowmag": False})
    tree.put("/gridsquares/low", json={"state": "Completed"})
    names = [event["event_type"] for event in events(database) if event.get("uuid") == "low"]
    assert names == [
        "gridsquare_lowmag.created",
        *["gridsquare_lowmag.updated"] * 3,
        *["gridsquare.updated"] * 2,
    ]


def test_the_status_of_a_request_is_not_taken_on_create(client: TestClient) -> None:
    body = {"uuid": "a", "name": "n", "status": "completed"}
    assert client.post("/acquisitions", json=body).json()["status"] == "started"
    grid = {"uuid": "g", "name": "g", "acquisition_uuid": "a", "status": "scan started"}
    assert client.post("/acquisitions/a/grids", json=grid).json()["status"] == "none"


def test_the_status_none_leaves_the_status(tree: TestClient) -> None:
    assert tree.post("/gridsquares/s/registered").json() is True
    answer = tree.put("/gridsquares/s", json={"status": "none", "state": "Completed"}).json()
    assert answer["status"] == "all foil holes registered"
    assert answer["state"] == "Completed"
    for status in ("scan started", "none"):  # it does so for squares only
        assert tree.put("/grids/g", json={"status": status}).json()["status"] == status
    tree.put("/acquisitions/a", json={"status": "paused"})
    assert tree.get("/acquisitions/a").json()["status"] == "paused"


def test_uuid_natural_id_and_parent_suffice(tree: TestClient) -> None:
    atlas = {"uuid": "at2", "atlas_id": "7", "grid_uuid": "g"}
    answer = tree.post("/grids/g/atlas", json=atlas)
    assert (answer.status_code, answer.json()["atlas_id"]) == (201, "7")
    for body in ({"uuid": "h2", "foilhole_id": "8"}, [{"uuid": "h3", "foilhole_id": "9"}]):
        assert tree.post("/gridsquares/s/foilholes", json=body).status_code == 201
    for uuid in ("h2", "h3"):
        assert tree.get(f"/foilholes/{uuid}").json()["gridsquare_id"] == "3"  # its square's


@pytest.mark.parametrize(
    ("sent", "instant"),
    [
        (TIME, "2025-01-08T14:49:18.115828+00:00"),
        ("2025-01-08T15:49:18Z", "2025-01-08T15:49:18+00:00"),
        ("2025-01-08T15:49:18", "2025-01-08T15:49:18+00:00"),
    ],
)
def test_times_keep_their_instant(tree: TestClient, sent: str, instant: str) -> None:
    tree.put("/micrographs/m", json={"acquisition_datetime": sent})
    time = tree.get("/micrographs/m").json()["acquisition_datetime"]
    assert datetime.fromisoformat(time) == datetime.fromisoformat(instant)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_outside_the_calendar_is_422(tree: TestClient, time: str) -> None:
    body = {"acquisition_datetime": time}
    assert tree.put("/micrographs/m", json=body).status_code == 422
    body |= {"uuid": "n", "foilhole_id": "h"}
    assert tree.post("/foilholes/h/micrographs", json=body).status_code == 422


def test_pixel_positions_are_answered_as_integers(tree: TestClient) -> None:
    answer = tree.put("/gridsquares/s", json={"center_x": 2236.751, "physical_x": 1.5}).json()
    assert (answer["center_x"], answer["physical_x"]) == (2237, 1.5)
    assert isinstance(answer["center_x"], int)
    answer = tree.put("/foilholes/h", json={"x_location": 10.2, "center_x": 10.2}).json()
    assert (answer["x_location"], answer["center_x"]) == (10, 10.2)
    assert "gridsquare_uuid" not in answer
    position = {"center_x": 1.4, "center_y": 2, "size_width": 3, "size_height": 4}
    for _ in range(2):
        answer = tree.post("/atlas-tiles/t/gridsquares/s", json=position)
        assert (answer.status_code, answer.json()["center_x"]) == (201, 1)
    many = [position | {"gridsquare_uuid": uuid} for uuid in ("s", "none")]
    assert tree.post("/atlas-tiles/t/gridsquares", json=many).status_code == 404
    assert tree.post("/atlas-tiles/t/gridsquares", json=many[:1]).status_code == 201


def test_pixel_positions_beyond_64_bits_are_answered(tree: TestClient) -> None:
    assert tree.put("/foilholes/h", json={"x_location": 1e30}).json()["x_location"] == 1e30
    assert [row["x_location"] for row in tree.get("/foilholes").json()] == [1e30]
    position = {"center_x": -1e30, "center_y": 2, "size_width": 3, "size_height": 4}
    answer = tree.post("/atlas-tiles/t/gridsquares/s", json=position)
    assert (answer.status_code, answer.json()["center_x"]) == (201, -1e30)


@pytest.mark.parametrize(
    ("depth", "status"), [(253, 422), (300, 422), (500, 422), (900, 422), (5000, 400)]
)
def test_a_body_that_is_nested_too_deep_is_refused(
    tree: TestClient, depth: int, status: int
) -> None:
    body = depth * b'{"a":' + b"1" + depth * b"}"
    for path, content in (
        ("/foilholes/h/micrographs", body),
        ("/debug/session/s/create-instruction", b'{"payload": ' + body + b"}"),
    ):
        answer = tree.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, path


def test_lists_have_pages_in_a_stable_order(tree: TestClient) -> None:
    holes = [hole(f"x{index:03}", is_near_grid_bar=index % 2 == 0) for index in range(30)]
    tree.post("/gridsquares/s/foilholes", json=holes)
    url = "/gridsquares/s/foilholes"
    every = [row["uuid"] for row in tree.get(url).json()]
    pages = [
        row["uuid"]
        for offset in range(0, 35, 8)
        for row in tree.get(url, params={"limit": 8, "offset": offset}).json()
    ]
    assert pages == every == ["h", *[row["uuid"] for row in holes]]
    assert tree.get(url, params={"limit": 0}).json() == []
    assert [row["uuid"] for row in tree.get(url, params={"on_square_only": True}).json()] == [
        "h",
        *[row["uuid"] for row in holes if not row["is_near_grid_bar"]],
    ]
    for bad in ({"limit": -1}, {"offset": -1}, {"limit": "x"}, {"limit": 2**70}):
        assert tree.get(url, params=bad).status_code == 422


def test_micrographs_by_defocus_and_time(tree: TestClient) -> None:
    for index in range(6):
        body = {
            "uuid": f"n{index}",
            "foilhole_id": "h",
            "defocus": -1e-6 * index,
            "acquisition_datetime": f"2025-01-08T10:0{index}:00Z",
        }
        tree.post("/foilholes/h/micrographs", json=body)
    chosen = {"defocus_min": -3.5e-6, "defocus_max": -1.5e-6, "order_by": "defocus"}
    assert [row["uuid"] for row in tree.get("/micrographs", params=chosen).json()] == ["n3", "n2"]
    late = {"time_from": "2025-01-08T11:04:00+01:00", "gridsquare_uuid": "s"}
    assert [row["uuid"] for row in tree.get("/micrographs", params=late).json()] == ["n4", "n5"]
    for uuid, count in (("a", 7), ("none", 0)):
        answer = tree.get("/micrographs", params={"acquisition_uuid": uuid})
        assert len(answer.json()) == count
    for name in ("time_from", "time_to"):
        answer = tree.get("/micrographs", params={name: "0001-01-01T00:00:00+05:00"})
        assert answer.status_code == 422


def test_counts_of_grids(tree: TestClient) -> None:
    tree.post("/acquisitions", json={"uuid": "empty", "name": "n"})
    tree.post("/acquisitions/a/grids", json={"uuid": "g2", "name": "second"})
    tree.put("/grids/g2", json={"status": "grid squares decision completed"})
    url = "/acquisitions/grid-counts"
    expected = [
        {"acquisition_uuid": "a", "grids_total": 2, "grids_completed": 1},
        {"acquisition_uuid": "empty", "grids_total": 0, "grids_completed": 0},
    ]
    assert tree.get(url).json() == expected
    assert tree.get(url, params={"limit": 1}).json() == expected[:1]
    assert tree.get(url, params={"offset": 1}).json() == expected[1:]
    assert tree.get(url, params={"limit": -1}).status_code == 422


def test_what_is_below_moves_along_to_a_new_parent(tree: TestClient, database: Database) -> None:
    for path, body in (
        ("/acquisitions/a/grids", {"uuid": "g2", "name": "other", "acquisition_uuid": "a"}),
        ("/grids/g2/gridsquares", {"uuid": "s2", "gridsquare_id": "4", "grid_uuid": "g2"}),
        ("/gridsquares/s2/foilholes", [hole("h2", gridsquare_uuid="s2", gridsquare_id="4")]),
    ):
        assert tree.post(path, json=body).status_code == 201

    changes: list[int] = []
    """Numbers of the last change of the micrograph, by which readers find what has changed."""

    def links(kind: str, uuid: str) -> list[str]:
        with database.read() as connection:
            row = read.get(connection, kind, uuid)
        assert row is not None
        if kind == "micrograph":
            changes.append(row["change"])
        names = ("grid_uuid", "gridsquare_uuid", "gridsquare_id", "foilhole_uuid", "foilhole_id")
        return [row.get(name, row["uuid"]) for name in names]

    assert links("micrograph", "m") == ["g", "s", "3", "h", "h"]
    assert tree.put("/gridsquares/s", json={"grid_uuid": "g2"}).status_code == 200
    assert links("foilhole", "h") == ["g2", "s", "3", "h", "h"]
    assert links("micrograph", "m") == ["g2", "s", "3", "h", "h"]
    assert tree.put("/gridsquares/s", json={"grid_uuid": "g"}).status_code == 200
    assert tree.put("/foilholes/h", json={"gridsquare_uuid": "s2"}).status_code == 200
    assert links("foilhole", "h") == ["g2", "s2", "4", "h", "h"]
    assert links("micrograph", "m") == ["g2", "s2", "4", "h", "h"]
    assert tree.put("/foilholes/h", json={"gridsquare_uuid": "s"}).status_code == 200
    assert tree.put("/micrographs/m", json={"foilhole_uuid": "h2"}).status_code == 200
    assert links("micrograph", "m") == ["g2", "s2", "4", "h2", "h2"]
    assert tree.get("/foilholes/h/micrographs").json() == []
    assert [each["uuid"] for each in tree.get("/foilholes/h2/micrographs").json()] == ["m"]
    assert changes == sorted(set(changes))
    assert tree.put("/foilholes/h", json={"gridsquare_uuid": "none"}).status_code == 404
