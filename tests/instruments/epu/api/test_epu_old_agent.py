"""The calls of smartem-decisions' agent, as its HTTP client makes them, and what it reads of each.

The client drops None from its bodies, sends a status with every entity and pydantic's texts of
times, and validates each answer: all fields of the tables below must be there, and those without
``?`` must not be null.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

ANSWERS = {
    "acquisition": "uuid name status? start_time? end_time? paused_time? storage_path? atlas_path? "
    "clustering_mode? clustering_radius? instrument_model? instrument_id? computer_name?",
    "grid": "uuid acquisition_uuid? status? name data_dir? atlas_dir? scan_start_time? "
    "scan_end_time?",
    "atlas": "uuid grid_uuid atlas_id acquisition_date? storage_folder? description? name",
    "tile": "uuid atlas_uuid tile_id position_x? position_y? size_x? size_y? file_format? "
    "base_filename?",
    "position": "atlastile_uuid gridsquare_uuid center_x center_y size_width size_height",
    "square": "uuid gridsquare_id grid_uuid? status? data_dir? atlas_node_id? state? rotation? "
    "image_path? selected? unusable? stage_position_x? stage_position_y? stage_position_z? "
    "center_x? center_y? physical_x? physical_y? size_width? size_height? acquisition_datetime? "
    "defocus? magnification? pixel_size? detector_name? applied_defocus?",
    "hole": "uuid gridsquare_id? foilhole_id status center_x? center_y? quality? rotation? "
    "size_width? size_height? x_location? y_location? x_stage_position? y_stage_position? "
    "diameter? is_near_grid_bar",
    "micrograph": "uuid foilhole_uuid status",
    "acknowledgement": "status instruction_id acknowledged_at agent_id session_id",
}
WHOLE = {
    "tile": "position_x position_y size_x size_y",
    "position": "center_x center_y size_width size_height",
    "square": "center_x center_y size_width size_height",
    "hole": "x_location y_location diameter",
}
"""Fields that the client takes as integers only."""


def read(kind: str, answer: Any) -> Any:
    """Validate an answer as the client does."""
    for each in answer if isinstance(answer, list) else [answer]:
        for name in ANSWERS[kind].split():
            assert name.rstrip("?") in each, (kind, name)
            assert name.endswith("?") or each[name] is not None, (kind, name)
        for name in WHOLE.get(kind, "").split():
            assert each[name] is None or isinstance(each[name], int), (kind, name)
        radius = each.get("clustering_radius")
        assert radius is None or isinstance(radius, str)
    return answer


@pytest.fixture
def call(api: Any) -> Iterator[Callable[..., Any]]:
    # The newest client logs in elsewhere first and sends what it got with every request.
    with httpx.Client(base_url=api.url, headers={"Authorization": "Bearer t"}, timeout=60) as http:

        def request(method: str, path: str, kind: str = "", body: Any = None) -> Any:
            answer = http.request(method, path, json=body)
            answer.raise_for_status()
            if method == "DELETE":
                return None
            return read(kind, answer.json()) if kind else answer.json()

        request.http = http  # type: ignore[attr-defined]
        yield request


ACQUISITION = {
    "uuid": "a1",
    "name": "Supervisor_20250108_101446_62_cm40593-1_EPU",
    "status": "started",
    "start_time": "2025-01-08T15:10:39.480727Z",
    "storage_path": "/cygdrive/z/DoseFractions/cm40593-1",
    "atlas_path": "atlas/Supervisor_x/Sample7/Atlas/Atlas.dm",
    "clustering_mode": "ClusteringWithImageBeamShift",
    "clustering_radius": "1.2E-05",
}
GRID = {
    "uuid": "g1",
    "name": ACQUISITION["name"],
    "acquisition_uuid": "a1",
    "status": "none",
    "data_dir": "Z:\\DoseFractions\\cm40593-1\\Images-Disc1",
    "lowmag": False,
}
TILE = {
    "uuid": "t1",
    "atlas_uuid": "at1",
    "tile_id": "3436200",
    "position_x": 12,
    "position_y": -7,
    "size_x": 4005,
    "size_y": 4005,
    "file_format": "Mrc",
    "base_filename": "Tile_1",
}
ATLAS = {
    "uuid": "at1",
    "atlas_id": "3436163",
    "grid_uuid": "g1",
    "name": "Atlas",
    "storage_folder": "Z:\\nt32457-6\\atlas",
    "acquisition_date": "2024-04-05T10:17:53.987880+01:00",
    "tiles": [TILE],
}
SQUARE = {
    "uuid": "s1",
    "gridsquare_id": "8999138",
    "grid_uuid": "g1",
    "status": "none",
    "center_x": 2236,
    "center_y": 1044,
    "size_width": 210,
    "size_height": 200,
    "lowmag": True,
}
HOLE = {
    "uuid": "h1",
    "foilhole_id": "9015889",
    "gridsquare_id": "8999138",
    "gridsquare_uuid": "s1",
    "center_x": 1414.76,
    "center_y": 1040.07,
    "quality": 0.79,
    "rotation": -3.08,
    "size_width": 770.1,
    "size_height": 770.1,
    "is_near_grid_bar": False,
}
MICROGRAPH = {
    "uuid": "m1",
    "foilhole_uuid": "h1",
    "foilhole_id": "9015889",
    "location_id": "9017354",
    "high_res_path": ".",
    "manifest_file": "Z:\\DoseFractions\\FoilHole_9015889_Data_9017354_6_20250108_154918.xml",
    "acquisition_datetime": "2025-01-08T15:49:21.104970Z",
    "defocus": 4.84e-07,
    "detector_name": "BioQuantum K3",
    "energy_filter": True,
    "phase_plate": False,
    "image_size_x": 2880,
    "image_size_y": 2046,
    "binning_x": 2,
    "binning_y": 2,
}


def test_a_session_of_the_old_agent_arrives(call: Callable[..., Any]) -> None:
    assert call("GET", "/status")["service"]
    assert call("GET", "/health")["status"] == "ok"
    call("POST", "/acquisitions", "acquisition", ACQUISITION)
    call("POST", "/acquisitions/a1/grids", "grid", GRID)
    call("POST", "/grids/g1/atlas", "atlas", ATLAS)
    call("POST", "/grids/g1/gridsquares", "square", SQUARE)
    assert call("POST", "/grids/g1/registered") is True
    place = {"center_x": 1, "center_y": 2, "size_width": 3, "size_height": 4}
    place["gridsquare_uuid"] = "s1"  # type: ignore[assignment]
    call("POST", "/atlas-tiles/t1/gridsquares/s1", "position", place)
    call("POST", "/atlas-tiles/t1/gridsquares", "position", [place])
    call("PUT", "/gridsquares/s1", "square", {**SQUARE, "lowmag": False, "state": "Completed"})
    others = [{**HOLE, "uuid": f"h{n}", "foilhole_id": str(n)} for n in (2, 3)]
    assert len(call("POST", "/gridsquares/s1/foilholes", "hole", [HOLE, *others])) == 3
    assert call("POST", "/gridsquares/s1/registered?count=3") is True
    call("POST", "/foilholes/h1/micrographs", "micrograph", MICROGRAPH)
    call("PUT", "/foilholes/h1", "hole", {**HOLE, "quality": 0.8})
    call("PUT", "/micrographs/m1", "micrograph", {**MICROGRAPH, "defocus": 5e-07})
    call("PUT", "/acquisitions/a1", "acquisition", ACQUISITION)
    lists = {
        "/acquisitions": ("acquisition", 1),
        "/acquisitions/a1/grids": ("grid", 1),
        "/grids": ("grid", 1),
        "/atlases": ("atlas", 1),
        "/atlases/at1/tiles": ("tile", 1),
        "/atlas-tiles": ("tile", 1),
        "/grids/g1/gridsquares": ("square", 1),
        "/gridsquares/s1/foilholes": ("hole", 3),
        "/foilholes/h1/micrographs": ("micrograph", 1),
        "/micrographs": ("micrograph", 1),
    }
    for path, (kind, count) in lists.items():
        assert len(call("GET", path, kind)) == count, path
    call("GET", "/grids/g1/atlas", "atlas")
    square = call("GET", "/gridsquares/s1", "square")
    assert (square["status"], square["state"]) == ("all foil holes registered", "Completed")
    # It tells a parent that has not arrived by 404, and sends the parent then.
    orphan = {**MICROGRAPH, "uuid": "m2", "foilhole_uuid": "h9"}
    answer = call.http.post("/foilholes/h9/micrographs", json=orphan)  # type: ignore[attr-defined]
    assert answer.status_code == 404
    assert answer.json()["detail"]
    call("DELETE", "/acquisitions/a1")
    assert call("GET", "/micrographs") == []


def test_the_old_agent_takes_and_acknowledges_instructions(call: Callable[..., Any]) -> None:
    http = call.http  # type: ignore[attr-defined]
    call("POST", "/debug/sessions/create", "", {"session_id": "x", "agent_id": "ag"})
    made = call("POST", "/debug/session/x/create-instruction", "", {"payload": {"a": 1}})
    base = "/agent/ag/session/x"
    headers = {"Accept": "text/event-stream"}
    with http.stream("GET", f"{base}/instructions/stream", headers=headers) as stream:
        data = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        first = next(data)
        assert (first["type"], bool(first["connection_id"])) == ("connection", True)
        found = next(each for each in data if each["type"] == "instruction")
        assert found["instruction_id"] == made["instruction_id"]
        assert found["instruction_type"]
        beat = httpx.post(f"{http.base_url}{base}/heartbeat", timeout=60)
        assert beat.json()["heartbeat_timestamp"]
    body = {
        "status": "processed",
        "result": None,
        "error_message": None,
        "processing_time_ms": 12,
        "processed_at": "2025-01-08T15:49:21.104970",
    }
    path = f"{base}/instructions/{made['instruction_id']}/ack"
    answer = call("POST", path, "acknowledgement", body)
    assert isinstance(answer["acknowledged_at"], str)
