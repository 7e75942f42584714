"""The HTTP API beside its entities: predictions, sessions of agents, the service itself."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from support.epu_api import TIME, events, hole

from skywright import __version__
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.database import Database

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


def test_names_with_a_slash_are_one_part_of_the_path(tree: TestClient) -> None:
    name = "nets/2 %2F\u00e9"
    path = f"/prediction_models/{quote(name, safe='')}"
    assert "%2F" in path
    assert tree.post("/prediction_models", json={"name": name}).status_code == 201
    assert tree.get(path).json()["name"] == name
    assert tree.put(path.replace("%2F", "%2f"), json={"can_train": True}).json()["can_train"]
    prediction = {"value": 0.25, "prediction_model_name": name, "gridsquare_uuid": "s"}
    assert tree.post("/quality_predictions", json=prediction).status_code == 201
    (newest,) = tree.get(f"/prediction_model/{quote(name, safe='')}/grid/g/prediction").json()
    assert newest["value"] == 0.25
    assert tree.get("/prediction_models/nets%2F").status_code == 404
    assert tree.get("/prediction_models/nets/2").status_code == 404
    assert tree.delete(path).status_code == 204
    assert tree.get(path).status_code == 404


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


def test_a_body_of_no_named_type_is_json_and_no_bytes_are_a_failure(client: TestClient) -> None:
    url = "/acquisitions"
    assert client.post(url, content=b'{"uuid": "a", "name": "n"}').status_code == 201
    for body in (b"\xff\xfe", b"\x80{}"):
        assert client.post(url, content=body).status_code in (400, 422)
        kind = {"Content-Type": "text/plain"}
        assert client.post(url, content=body, headers=kind).status_code == 422


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


def test_a_cluster_of_any_number_is_answered(predicted: TestClient, database: Database) -> None:
    event = {"event_type": "grid.model_parameter_update", "grid_uuid": "g", "key": "s"}
    event |= {"prediction_model_name": "net", "group": "cluster_indices"}
    with database.write() as connection:
        apply_event(connection, event | {"value": 1e300})
    found = predicted.get("/prediction_model/net/grid/g/latent_representation").json()
    assert found[0]["index"] == 1e300


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


def test_a_square_that_is_predicted_for_several_metrics_is_suggested_once(
    predicted: TestClient,
) -> None:
    body = {"prediction_model_name": "net", "gridsquare_uuid": "s2", "value": 0.95}
    body |= {"metric_name": "ctfmaxresolution"}
    assert predicted.post("/quality_predictions", json=body).status_code == 201
    url = "/grid/g/prediction_model/net/latent_rep/net/suggested_squares"
    assert [row["uuid"] for row in predicted.get(url).json()] == ["s2", "s3", "s"]


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
