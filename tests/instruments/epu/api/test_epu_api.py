"""The HTTP API: resources, status codes, states, paging, on both kinds of database."""

import io
import json
import os
import random
import string
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from skywright import __version__
from skywright.instruments.epu.api.app import create_app
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.database import Database, read
from skywright.instruments.epu.database.schema_exchange import outbox
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import write_visit
from skywright.instruments.epu.watch.watcher import Watcher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TIME = "2025-01-08T15:49:18.1158288+01:00"


@pytest.fixture
def client(shared_client: TestClient, database: Database) -> TestClient:
    """A client of a service with an empty database."""
    return shared_client


@pytest.fixture
def tree(client: TestClient) -> TestClient:
    """A client of a service with one entity of each kind."""
    posts: list[tuple[str, Any]] = [
        ("/acquisitions", {"uuid": "a", "name": "session"}),
        ("/acquisitions/a/grids", {"uuid": "g", "name": "grid", "acquisition_uuid": "a"}),
        ("/grids/g/atlas", {"uuid": "at", "atlas_id": "1", "grid_uuid": "g", "name": "Atlas"}),
        ("/atlases/at/tiles", {"uuid": "t", "tile_id": "2", "atlas_uuid": "at"}),
        ("/grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "3", "grid_uuid": "g"}),
        ("/gridsquares/s/foilholes", [hole("h")]),
        ("/foilholes/h/micrographs", {"uuid": "m", "foilhole_id": "h", "defocus": -1e-6}),
    ]
    for path, body in posts:
        assert client.post(path, json=body).status_code == 201, path
    return client


def hole(uuid: str, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "foilhole_id": uuid,
        "gridsquare_id": "3",
        "gridsquare_uuid": "s",
        **fields,
    }


def events(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        bodies = connection.execute(select(outbox.c.body).order_by(outbox.c.id)).scalars()
        return [json.loads(body) for body in bodies]


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
    for name in ("time_from", "time_to"):
        answer = tree.get("/micrographs", params={name: "0001-01-01T00:00:00+05:00"})
        assert answer.status_code == 422


def test_feedback_is_stored_with_its_status(tree: TestClient, database: Database) -> None:
    url = "/micrographs/m"
    body: dict[str, Any] = {"ctf_max_res": 3.5}
    answer = tree.post(f"{url}/ctf_estimation/completed", json=body)
    assert (answer.status_code, answer.json()) == (202, {"published": False})
    body = {"total_motion": 12.5, "average_motion": 0.5}
    assert tree.post(f"{url}/motion_correction/completed", json=body).status_code == 202
    row = tree.get(url).json()
    assert (row["ctf_max_resolution_estimate"], row["total_motion"]) == (3.5, 12.5)
    assert row["status"] == "ctf completed"  # the late result of an earlier step takes nothing back
    assert events(database)[-2:] == [
        {"event_type": "ctf.completed", "micrograph_uuid": "m", "ctf_max_resolution_estimate": 3.5},
        {"event_type": "motion_correction.completed", "micrograph_uuid": "m", **body}
        | {"motion_corrected_image_path": None, "motion_corrected_snapshot_path": None},
    ]
    assert (
        tree.post("/micrographs/x/ctf_estimation/completed", json={"ctf_max_res": 1}).status_code
        == 404
    )


def test_prediction_models_and_predictions(tree: TestClient) -> None:
    model = {"name": "net", "description": "a network", "can_update": True}
    assert tree.post("/prediction_models", json=model).status_code == 201
    assert tree.post("/prediction_models", json=model).status_code == 409
    assert tree.put("/prediction_models/net", json={"can_train": True}).json()["can_train"]
    for value in (0.25, 0.75):
        prediction = {"value": value, "prediction_model_name": "net", "gridsquare_uuid": "s"}
        assert tree.post("/quality_predictions", json=prediction).status_code == 201
    history = tree.get("/gridsquares/s/quality_predictions").json()
    assert [row["value"] for row in history["net"]] == [0.25, 0.75]
    (newest,) = tree.get("/prediction_model/net/grid/g/prediction").json()
    assert newest == history["net"][1]
    metrics = tree.get("/quality_metrics").json()
    assert (metrics["total_predictions"], metrics["average_quality"]) == (2, 0.5)
    suggested = tree.get("/grid/g/prediction_model/net/latent_rep/net/suggested_squares").json()
    assert [row["uuid"] for row in suggested] == ["s"]
    for missing in ({"gridsquare_uuid": "x"}, {"foilhole_uuid": "x"}):
        body = {"value": 0.5, "prediction_model_name": "net", **missing}
        assert tree.post("/quality_predictions", json=body).status_code == 404
    body = {"value": 0.5, "prediction_model_name": "none", "gridsquare_uuid": "s"}
    assert tree.post("/quality_predictions", json=body).status_code == 404
    assert tree.delete("/prediction_models/net").status_code == 204
    assert tree.get("/prediction_models/net").status_code == 404


def test_images_come_only_from_mapped_directories(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "shown").mkdir()
    for directory in (tmp_path, tmp_path / "shown"):
        Image.new("L", (8, 4), 7).save(directory / "square.jpg")
    app = create_app(database, path_map={"Z:\\visit": tmp_path / "shown"})
    with TestClient(app) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n"})
        for uuid, path in (
            ("inside", "Z:\\visit\\square.mrc"),
            ("cygwin", "/cygdrive/z/visit/square.jpg"),  # as the agent sends it
            ("outside", "Z:\\visit\\..\\square.mrc"),
            ("elsewhere", str(tmp_path / "square.jpg")),
            ("none", None),
        ):
            body = {"uuid": uuid, "gridsquare_id": "1", "image_path": path}
            client.post("/grids/g/gridsquares", json=body)
        answers = {
            uuid: client.get(f"/gridsquares/{uuid}/gridsquare_image")
            for uuid in ("inside", "cygwin", "outside", "elsewhere", "none", "unknown")
        }
        assert client.get("/grids/g/atlas_image").status_code == 404
    assert answers["inside"].headers["content-type"] == "image/png"
    for uuid in ("inside", "cygwin"):
        assert answers.pop(uuid).content.startswith(b"\x89PNG")
    assert {answer.status_code for answer in answers.values()} == {404}


def test_an_image_that_cannot_be_read_is_not_found(database: Database, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    Image.fromarray(noise).save(tmp_path / "damaged.png")
    data = bytearray((tmp_path / "damaged.png").read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\x01\x02\x03\x04"
    (tmp_path / "damaged.png").write_bytes(data)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    app = create_app(database, path_map={"Z:\\visit": tmp_path, "Y:": Path("/")})
    with TestClient(app) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        long = f"Z:\\visit\\{300 * 'x'}"
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n", "atlas_dir": long})
        for path in ("Z:\\visit\\damaged.png", "Z:\\visit\\loop\\a.mrc", f"{long}.mrc", "Y:\\"):
            body = {"uuid": "s", "gridsquare_id": "1", "image_path": path}
            client.post("/grids/g/gridsquares", json=body)
            assert client.get("/gridsquares/s/gridsquare_image").status_code == 404, path
        assert client.get("/grids/g/atlas_image").status_code == 404


def test_images_of_a_tree_that_the_watcher_recorded(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    plan = plan_visit(seed=4, grids=1, squares=3, imaged=1, holes=2, areas=(1, 1))
    write_visit(plan, tmp_path)
    Watcher(tmp_path, database).run(idle_exit=0)
    (manifest,) = tmp_path.rglob("GridSquare_*_*.xml")
    (atlas,) = tmp_path.rglob("Atlas.dm")
    with database.read() as connection:
        (grid,) = read.page(connection, "grid")
        (square,) = (row for row in read.page(connection, "gridsquare") if row["image_path"])
    image = square["image_path"].rpartition("/")[2]
    Image.new("L", (8, 4), 7).save(manifest.with_name(image).with_suffix(".jpg"))
    Image.new("L", (6, 6), 7).save(atlas.with_name("Atlas_1.jpg"))
    urls = {
        f"/gridsquares/{square['uuid']}/gridsquare_image": (8, 4),
        f"/grids/{grid['uuid']}/atlas_image": (6, 6),
    }
    for prefix in ("Z:\\DoseFractions", "z:\\dosefractions\\", "/cygdrive/z/DoseFractions"):
        with TestClient(create_app(database, path_map={prefix: tmp_path})) as client:
            for url, size in urls.items():
                answer = client.get(url)
                assert answer.status_code == 200, (prefix, url)
                assert Image.open(io.BytesIO(answer.content)).size == size
    for other in ("Y:\\DoseFractions", "Z:\\Dose"):
        with TestClient(create_app(database, path_map={other: tmp_path})) as client:
            assert [client.get(url).status_code for url in urls] == [404, 404]


def mrc(pixels: np.ndarray, mode: int, order: str = "<", extended: int = 0) -> bytes:
    head = bytearray(1024)
    struct.pack_into(f"{order}4i", head, 0, pixels.shape[1], pixels.shape[0], 1, mode)
    struct.pack_into(f"{order}i", head, 92, extended)
    head[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    return bytes(head) + bytes(extended) + pixels.tobytes()


@pytest.fixture
def corrected(database: Database, tmp_path: Path) -> Iterator[tuple[TestClient, Path]]:
    """A client of a service with a micrograph, and the directory that it serves as ``Z:``."""
    (tmp_path / "shown").mkdir()
    with TestClient(create_app(database, path_map={"Z:": tmp_path / "shown"})) as client:
        posts: list[tuple[str, Any]] = [
            ("/acquisitions", {"uuid": "a", "name": "n"}),
            ("/acquisitions/a/grids", {"uuid": "g", "name": "n"}),
            ("/grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "3"}),
            ("/gridsquares/s/foilholes", [hole("h")]),
            ("/foilholes/h/micrographs", {"uuid": "m", "foilhole_id": "h"}),
        ]
        for path, body in posts:
            assert client.post(path, json=body).status_code == 201, path
        yield client, tmp_path / "shown"


def correct(client: TestClient, image: Path | str | None, snapshot: Path | str | None) -> None:
    body = {
        "total_motion": 3.0,
        "average_motion": 0.1,
        "motion_corrected_image_path": image and str(image),
        "motion_corrected_snapshot_path": snapshot and str(snapshot),
    }
    answer = client.post("/micrographs/m/motion_correction/completed", json=body)
    assert answer.status_code == 202


def test_the_paths_of_a_corrected_image_are_stored_and_announced(
    tree: TestClient, database: Database
) -> None:
    correct(tree, "/dls/m.mrc", None)
    correct(tree, None, "/dls/m.jpg")
    told = [
        (event["motion_corrected_image_path"], event["motion_corrected_snapshot_path"])
        for event in events(database)
        if event["event_type"] == "motion_correction.completed"
    ]
    assert told == [("/dls/m.mrc", None), (None, "/dls/m.jpg")]
    with database.read() as connection:
        row = read.get(connection, "micrograph", "m")
    assert row is not None
    paths = row["motion_corrected_image_path"], row["motion_corrected_snapshot_path"]
    assert paths == ("/dls/m.mrc", "/dls/m.jpg")  # what a message does not give stays


def test_the_snapshot_of_a_micrograph_is_served_as_it_is(
    corrected: tuple[TestClient, Path],
) -> None:
    from PIL import Image

    client, shown = corrected
    url = "/micrographs/m/micrograph_image"
    assert client.get(url).status_code == 404
    assert client.get("/micrographs/x/micrograph_image").status_code == 404
    Image.new("L", (8, 4), 7).save(shown / "m.jpg")
    for path in (shown / "m.jpg", "Z:\\m.jpg"):
        correct(client, None, path)
        answer = client.get(url, params={"x": 1, "y": 1, "w": 2, "h": 2})
        assert answer.content == (shown / "m.jpg").read_bytes()
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"] == "private, max-age=3600"
    Image.new("L", (8, 4), 7).save(shown.parent / "m.jpg")
    (shown / "link.jpg").symlink_to(shown.parent / "m.jpg")
    (shown / "text.jpg").write_text("no image")
    os.mkfifo(shown / "pipe.jpg")
    for path in ("../m.jpg", "link.jpg", "text.jpg", "pipe.jpg", ".", "none.jpg"):
        correct(client, f"{shown}/{path}", f"{shown}/{path}")
        assert client.get(url).status_code == 404, path


def test_a_corrected_image_is_served_as_png(corrected: tuple[TestClient, Path]) -> None:
    from PIL import Image

    client, shown = corrected
    url = "/micrographs/m/micrograph_image"
    correct(client, shown / "m.mrc", shown / "none.jpg")
    levels = np.arange(60).reshape(6, 10)
    for kind, mode, order, extended in (
        ("<f4", 2, "<", 0),
        (">f4", 2, ">", 128),
        ("<i2", 1, "<", 0),
        ("<u2", 6, "<", 0),
        ("<f2", 12, "<", 0),
        ("i1", 0, "<", 0),
    ):
        (shown / "m.mrc").write_bytes(mrc(levels.astype(kind), mode, order, extended))
        answer = client.get(url)
        assert answer.headers["content-type"] == "image/png"
        found = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert np.abs(found - levels * 255 / 59).max() < 1, kind
        answer = client.get(url, params={"x": 5, "y": 2, "w": 4, "h": 2})
        part = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (part == found[1:3, 3:7]).all()
    assert client.get(url, params={"x": 50, "y": 2, "w": 4, "h": 2}).status_code == 422


def test_a_corrected_image_that_cannot_be_read_is_not_found(
    corrected: tuple[TestClient, Path],
) -> None:
    client, shown = corrected
    pixels = np.full((6, 10), np.nan, "<f4")
    whole = mrc(pixels, 2)
    for content, status in (
        (whole, 200),
        (whole[:-1], 404),
        (whole[:100], 404),
        (b"", 404),
        (mrc(pixels, 4), 404),
        (mrc(pixels[:0], 2), 404),
        (mrc(pixels, 2, extended=4)[:-4], 404),
        (b"\xff" * 4096, 404),
        (b"\x7f" * 4096, 404),
    ):
        (shown / "m.mrc").write_bytes(content)
        correct(client, shown / "m.mrc", None)
        assert client.get("/micrographs/m/micrograph_image").status_code == status


def test_a_part_of_an_atlas(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("L", (60, 40), 0)
    image.paste(255, (30, 0, 60, 40))
    image.save(tmp_path / "Atlas_1.jpg")
    with TestClient(create_app(database, path_map={"Z:": tmp_path})) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n", "atlas_dir": "Z:/"})

        def part(**place: int) -> tuple[tuple[int, int], float]:
            answer = client.get("/grids/g/atlas_image", params=place)
            found = Image.open(io.BytesIO(answer.content))
            return found.size, float(np.asarray(found).mean())

        size, level = part(x=45, y=20, w=20, h=10)
        assert (size, round(level)) == ((20, 10), 255)
        assert part(x=0, y=0, w=20, h=10)[0] == (10, 5)  # the rest is outside
        assert part(x=45, y=20)[0] == (60, 40)
        (tmp_path / "Atlas_1.mrc").write_bytes(struct.pack("<2i", 600, 400))
        size, level = part(x=450, y=200, w=200, h=100)
        assert (size, round(level)) == ((20, 10), 255)
        for w in (0, -5):
            place = {"x": 45, "y": 20, "w": w, "h": 10}
            assert client.get("/grids/g/atlas_image", params=place).status_code == 422


def test_health_without_a_broker(client: TestClient) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["services"]["event_broker"]["status"] == "not_configured"


def test_cross_origin_and_bearer_headers_are_accepted(client: TestClient) -> None:
    headers = {"Origin": "http://page.example", "Authorization": "Bearer x"}
    answer = client.get("/acquisitions", headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*"
    headers |= {"Access-Control-Request-Method": "PUT"}
    assert client.options("/acquisitions", headers=headers).status_code == 200


def test_front_ends_hear_the_version_of_their_api(client: TestClient) -> None:
    found = client.get("/version").json()
    assert (found["service"], found["version"]) == ("smartem-decisions", "0.1.3")
    assert (found["implementation"], found["implementation_version"]) == ("skywright", __version__)


def test_openapi_promises_the_fields_of_answers(client: TestClient) -> None:
    models = client.get("/openapi.json").json()["components"]["schemas"]
    for name, never_null in (
        ("AcquisitionAnswer", {"uuid", "name"}),
        ("GridAnswer", {"uuid", "name"}),
        ("MicrographAnswer", {"uuid", "foilhole_uuid", "status"}),
        ("PredictionModelAnswer", {"name", "level", "can_infer"}),
    ):
        fields = models[name]["properties"]
        assert set(models[name]["required"]) == set(fields)
        assert never_null <= {field for field, shape in fields.items() if "anyOf" not in shape}


def test_openapi_names_every_path(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/acquisitions/{uuid}/grids", "/grids/{uuid}/gridsquares/batch", "/health"} <= set(
        paths
    )


def test_instructions_acknowledgements_and_logs(client: TestClient) -> None:
    assert client.post("/agent/one/session/x/heartbeat").status_code == 404
    client.post("/debug/sessions/create", json={"session_id": "x", "agent_id": "one"})
    made = client.post("/debug/session/x/create-instruction", json={}).json()["instruction_id"]
    url = f"/agent/one/session/x/instructions/{made}/ack"
    done = {"status": "processed", "processing_time_ms": 3}
    assert client.post(url.replace("one", "other"), json=done).status_code == 403
    assert client.post(url.replace(made, "none"), json=done).status_code == 404
    assert client.post(url, json={"status": "perhaps"}).status_code == 422
    assert client.post(url, json=done).status_code == 200
    assert client.post(url, json=done).status_code == 409
    assert client.post("/debug/session/y/create-instruction", json={}).status_code == 404
    for body in (f'{{"payload": {{"x": {2**64}}}}}', r'{"payload": {"x": "\ud800"}}',
                 '{"metadata": {"x": [NaN]}}'):  # fmt: skip
        kind = {"content-type": "application/json"}
        url = "/debug/session/x/create-instruction"
        assert client.post(url, content=body, headers=kind).status_code == 422
    found = client.get("/debug/session/x/instructions").json()
    assert found["acknowledgement_statistics"] == {"processed": 1}
    client.post("/debug/session/x/create-instruction", json={})
    found = client.get("/debug/connection-stats").json()
    assert (found["pending_instructions"], found["sent_instructions"]) == (1, 0)
    assert found["total_instructions_pending"] == 1
    assert datetime.fromisoformat(found["timestamp"])
    line = {"timestamp": TIME, "level": "INFO", "logger_name": "agent", "message": "hello"}
    logs = "/agent/one/session/x/logs"
    assert client.post(logs, json={"logs": [line] * 600}).json() == {"stored": 500}
    assert client.post(logs.replace("one", "two"), json={"logs": []}).status_code == 403


@pytest.fixture
def predicted(tree: TestClient, database: Database) -> TestClient:
    """A client of a service with a model's predictions of three squares and three holes."""
    for number in ("2", "3"):
        square = {"uuid": f"s{number}", "gridsquare_id": f"9{number}"}
        assert tree.post("/grids/g/gridsquares", json=square).status_code == 201
    tree.post("/gridsquares/s/foilholes", json=[hole("h2"), hole("h3")])
    tree.post("/prediction_models", json={"name": "net"})
    model = {"prediction_model_name": "net"}
    messages: list[dict[str, Any]] = []
    for place, group in (("s", "squares"), ("h", "holes")):
        for uuid, value, cluster in ((place, 0.9, 0), (f"{place}2", 0.8, 0), (f"{place}3", 0.2, 1)):
            subject = "gridsquare_uuid" if group == "squares" else "foilhole_uuid"
            kind = subject.removesuffix("_uuid")
            messages.append(
                {"event_type": f"{kind}.model_prediction", subject: uuid, "metric": "numparticles"}
                | model
                | {"prediction_value": value}
            )
            for name, key, number in (
                (f"coordinates:{uuid}", "x", value),
                (f"coordinates:{uuid}", "y", 1 - value),
                ("cluster_indices", uuid, cluster),
            ):
                messages.append(
                    {"event_type": "grid.model_parameter_update", "grid_uuid": "g", **model}
                    | {"group": name, "key": key, "value": number}
                )
    judgement = {"micrograph_uuid": "m", "quality": True, "metric_name": "numparticles"}
    messages.append({"event_type": "particle_picking.registered", **judgement})
    with database.write() as connection:
        for message in messages:
            apply_event(connection, message)
    return tree


PREDICTED_LISTS = {
    "/prediction_model/net/grid/g/prediction": ("gridsquare_uuid", ["s", "s2", "s3"]),
    "/prediction_model/net/grid/g/current_prediction": ("gridsquare_uuid", ["s", "s2", "s3"]),
    "/prediction_model/net/gridsquare/s/prediction": ("foilhole_uuid", ["h", "h2", "h3"]),
    "/prediction_model/net/grid/g/latent_representation": (
        "gridsquare_uuid",
        ["s", "s2", "s3"],
    ),
    "/prediction_model/net/gridsquare/s/latent_representation": (
        "foilhole_uuid",
        ["h", "h2", "h3"],
    ),
    "/gridsquare/s/overall_prediction": ("foilhole_uuid", ["h", "h2", "h3"]),
    # The best of each cluster comes before the second best of one.
    "/grid/g/prediction_model/net/latent_rep/net/suggested_squares": ("uuid", ["s", "s3", "s2"]),
    "/gridsquares/s/prediction_model/net/latent_rep/net/suggested_holes": (
        "uuid",
        ["h", "h3", "h2"],
    ),
}


@pytest.mark.parametrize("url", PREDICTED_LISTS)
def test_lists_of_predictions_have_pages(predicted: TestClient, url: str) -> None:
    key, expected = PREDICTED_LISTS[url]
    assert [row[key] for row in predicted.get(url).json()] == expected
    page = predicted.get(url, params={"limit": 1, "offset": 1}).json()
    assert [row[key] for row in page] == expected[1:2]
    assert predicted.get(url, params={"limit": 0}).json() == []
    for bad in ({"limit": -1}, {"offset": -1}):
        assert predicted.get(url, params=bad).status_code == 422
    parts = url.split("/")
    for index, part in enumerate(parts):
        if part in ("g", "s", "net"):
            unknown = "/".join([*parts[:index], "unknown", *parts[index + 1 :]])
            assert predicted.get(unknown).status_code == 404, unknown


def test_latent_representations_have_coordinates_and_cluster(predicted: TestClient) -> None:
    answer = predicted.get("/prediction_model/net/grid/g/latent_representation").json()
    assert answer[2] == {
        "x": 0.2,
        "y": 0.8,
        "index": 1,
        "gridsquare_uuid": "s3",
        "foilhole_uuid": "",
    }
    answer = predicted.get("/prediction_model/net/gridsquare/s/latent_representation").json()
    assert (answer[1]["x"], answer[1]["index"], answer[1]["gridsquare_uuid"]) == (0.8, 0, "")


def test_the_history_of_the_holes_of_a_square(predicted: TestClient, database: Database) -> None:
    again = {"event_type": "foilhole.model_multi_prediction", "foilhole_uuids": ["h", "h2"]}
    again |= {"prediction_model_name": "net", "prediction_value": 0.5}
    with database.write() as connection:
        apply_event(connection, again)
    stored = predicted.get("/gridsquares/s/foilholes").json()
    ids = {row["uuid"]: row["foilhole_id"] for row in stored}
    holes = predicted.get("/gridsquares/s/foilhole_quality_predictions").json()["net"]
    values = {name: [row["value"] for row in rows] for name, rows in holes.items()}
    assert values == {ids["h"]: [0.5], ids["h2"]: [0.5]}
    url = "/quality_metric/numparticles/gridsquares/s/foilhole_quality_predictions"
    holes = predicted.get(url).json()["net"]
    values = {name: [row["value"] for row in rows] for name, rows in holes.items()}
    assert values == {ids["h"]: [0.9], ids["h2"]: [0.8], ids["h3"]: [0.2]}
    assert predicted.get(url.replace("numparticles", "ctfmaxresolution")).json() == {}
    for path in ("/gridsquares/x/foilhole_quality_predictions", url.replace("/s/", "/x/")):
        assert predicted.get(path).status_code == 404


def test_the_overall_predictions_are_those_of_the_holes_of_a_square(predicted: TestClient) -> None:
    rows = predicted.get("/gridsquare/s/overall_prediction").json()
    assert [(row["foilhole_uuid"], row["value"]) for row in rows] == [
        ("h", 0.9),
        ("h2", 0.8),
        ("h3", 0.2),
    ]
    assert {(row["grid_uuid"], row["gridsquare_uuid"]) for row in rows} == {("g", "s")}
    assert "suggested_acquisition_index" in rows[0]
    assert predicted.get("/gridsquare/s2/overall_prediction").json() == []
    assert predicted.get("/gridsquare/x/overall_prediction").status_code == 404


def test_a_model_of_holes_answers_for_a_grid_with_them(
    predicted: TestClient, database: Database
) -> None:
    predicted.post("/prediction_models", json={"name": "holes"})
    event = {"event_type": "foilhole.model_prediction", "foilhole_uuid": "h2", "metric": None}
    with database.write() as connection:
        apply_event(connection, event | {"prediction_model_name": "holes", "prediction_value": 0.3})
    for path in ("prediction", "current_prediction"):
        (row,) = predicted.get(f"/prediction_model/holes/grid/g/{path}").json()
        found = row["foilhole_uuid"], row["gridsquare_uuid"], row["value"]
        assert found == ("h2", "s", 0.3), path


def test_a_judgement_weighs_the_models_of_a_grid(predicted: TestClient) -> None:
    (row,) = predicted.get("/grid/g/model_weights").json()["net"]
    assert (row["micrograph_uuid"], row["micrograph_quality"], row["weight"]) == ("m", True, 1.0)
    assert row["origin"] == "particle_picking.registered"
    assert (row["prediction_value"], row["quality_score"]) == (0.9, 1.0)
    assert predicted.get("/grid/x/model_weights").status_code == 404


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


def test_agent_sessions_keep_what_is_said_of_them(client: TestClient) -> None:
    about = {"description": "a test", "experimental_parameters": {"dose": 40.5, "film": ["Au"]}}
    client.post("/debug/sessions/create", json={"session_id": "x", "name": "n", **about})
    client.post("/debug/sessions/create-managed", json={"session_id": "y"})
    y, x = client.get("/debug/sessions").json()["active_sessions"]
    assert x == x | about | {"name": "n", "started_at": None}
    assert y == y | {"description": None, "experimental_parameters": {}, "started_at": None}


def test_agent_sessions_have_pages_and_are_closed(client: TestClient) -> None:
    for name in ("x", "y", "z"):
        body = {"session_id": name, "agent_id": "one"}
        made = client.post("/debug/sessions/create-managed", json=body).json()
        assert (made["session_id"], made["created_via"]) == (name, "connection_manager")
        for _ in range(2):
            client.post(f"/debug/session/{name}/create-instruction", json={})
    found = client.get("/debug/sessions", params={"limit": 1, "offset": 1}).json()
    assert [row["session_id"] for row in found["active_sessions"]] == ["y"]
    assert found["total_count"] == 3
    every = client.get("/debug/session/x/instructions").json()
    found = client.get("/debug/session/x/instructions", params={"offset": 1}).json()
    assert found == every | {"instructions": every["instructions"][1:]}
    assert found["total_instructions"] == 2
    assert client.get("/debug/session/none/instructions").status_code == 404
    for path in ("sessions", "agent-connections", "session/x/instructions"):
        assert client.get(f"/debug/{path}", params={"limit": -1}).status_code == 422
    assert client.delete("/debug/sessions/y/close").json()["status"] == "closed"
    assert client.delete("/debug/sessions/none/close").status_code == 404
    left = [row["session_id"] for row in client.get("/debug/sessions").json()["active_sessions"]]
    assert left == ["z", "x"]


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
