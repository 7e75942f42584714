"""The REST API, to the letter of what old clients expect, and what is new beside it."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from support.psss_old_client import PsssProcessingClient
from support.psss_scripted import (
    COLUMNS,
    PICTURE,
    ROWS,
    ScriptedSource,
    running_service,
    until,
)

from skywright.psss import Client
from skywright.psss.client import RefusedError
from skywright.psss.processing import FitStatus
from skywright.services import psss_rest
from skywright.services.psss_service import Service


@pytest.fixture(scope="module")
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture(scope="module")
def service(source: ScriptedSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("backgrounds")
    with running_service(source, "--output-kind", "pub", directory=directory) as service:
        yield service


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    yield f"http://127.0.0.1:{service.facts['rest_port']}"
    service.processor.stop()
    service.processor.change(background=None, background_name="", roi=(0, 0), axis=None)
    service.parameters._kept.clear()
    service.parameters._shown.clear()


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(params=["old", "ours"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    if request.param == "old":
        yield PsssProcessingClient(address + "/")
        return
    with Client(address) as ours:
        yield ours


def test_a_clients_day(client: Any, source: ScriptedSource, service: Service) -> None:
    assert client.get_status() == "stopped"
    assert client.get_parameters() == {"background": ""}
    client.stop()  # no effect
    client.start()
    client.start()  # no effect
    assert client.get_status() == "processing"
    until(source.running.is_set)
    assert client.set_background("dark", PICTURE - 1) == "ok"
    assert client.get_parameters() == {"background": "dark"}
    before = client.get_statistics()
    assert before["n_processed_images"] == 0
    assert before["last_sent_pulse_id"] is before["last_sent_time"] is None
    assert "last_processing_duration_ms" not in before
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", before["processing_start_time"])
    source.put(7)
    until(lambda: client.get_statistics()["n_processed_images"] == 1)
    newest = service.processor.newest
    assert newest is not None
    assert newest.spectrum.background_name == "dark"
    assert (newest.spectrum.spectrum == ROWS).all()
    statistics = client.get_statistics()
    assert statistics["last_processing_duration_ms"] > 0
    assert "spectrum" not in statistics
    assert client.set_background() == "ok"
    assert client.get_parameters() == {"background": ""}
    client.stop()
    assert client.get_status() == "stopped"
    until(lambda: not source.running.is_set())


def test_what_was_not_sent_does_not_count_as_sent(
    client: Any, source: ScriptedSource, service: Service
) -> None:
    client.start()  # nobody reads the output
    source.put(11)
    statistics = until(lambda: client.get_statistics() or None)
    statistics = until(lambda: (s := client.get_statistics())["n_processed_images"] == 1 and s)
    assert statistics["last_sent_pulse_id"] is None
    assert statistics["n_sent"] == 0
    assert statistics["unsent"]["no_reader"] >= 1


def test_statistics_before_the_first_start(tmp_path: Path) -> None:
    with running_service(ScriptedSource(), directory=tmp_path) as service:
        client = PsssProcessingClient(f"http://127.0.0.1:{service.facts['rest_port']}")
        assert client.get_statistics() == {}


@pytest.mark.parametrize("path", ["/status", "/start", "/background", "/parameters"])
def test_every_answer_has_cors_headers(http: httpx.Client, path: str) -> None:
    reply = http.options(path)
    assert reply.status_code == 200
    for name in ("Origin", "Methods", "Headers"):
        assert reply.headers[f"Access-Control-Allow-{name}"]
    assert http.get("/status").headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/status/", 404),
        ("POST", "/status", 405),
        ("GET", "/start", 405),
        ("DELETE", "/parameters", 405),
        ("GET", "/background", 405),
    ],
)
def test_wrong_paths_and_methods_are_html(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    reply = http.request(method, path)
    assert reply.status_code == status
    assert reply.headers["content-type"].startswith("text/html")
    assert "<h1>" in reply.text


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/parameters", "no json", "JSON"),
        ("/parameters", "", "JSON"),
        ("/parameters", "[1]", "object"),
        ("/parameters", '{"roi": [30, 10], "x": 1}', "roi"),
        ("/parameters", '{"roi": [1.5, 10]}', "roi"),
        ("/parameters", '{"roi": "wide"}', "roi"),
        ("/parameters", '{"roi": [5, 10], "fit": "eye"}', "fit"),
        ("/parameters", '{"axis": [1, 2, 2]}', "axis"),
        ("/parameters", '{"axis": "long"}', "axis"),
        ("/parameters", '{"signal_per_row": "much"}', "signal_per_row"),
        ("/parameters", '{"background": "never seen"}', "never seen"),
        ("/parameters", '{"background": 3}', "background"),
        ("/parameters", '{"saturation": "much"}', "saturation"),
        ("/background", "no json", "JSON"),
        ("/background", '{"filename": "x"}', "data"),
        ("/background", '{"data": null}', "filename"),
        ("/background", '{"filename": 3, "data": null}', "filename"),
        ("/background", r'{"filename": "a\u0000b", "data": [[1]]}', "x00"),
        ("/background", '{"filename": "%s", "data": [[1]]}' % ("ж" * 257), "514 bytes"),
        ("/background", '{"filename": "x", "data": [[1, -1]]}', "-1"),
        ("/background", '{"filename": "x", "data": [[1, 70000]]}', "70000"),
        ("/background", '{"filename": "x", "data": [[1, 2], [3]]}', "length"),
        ("/background", '{"filename": "x", "data": [1, 2]}', "rows"),
        ("/background", '{"filename": "x", "data": [["a"]]}', "numbers"),
        ("/background", '{"filename": "x", "data": [[null]]}', "numbers"),
        ("/background", '{"filename": "x", "data": []}', "rows"),
        ("/background/record", '{"pulses": 0}', "pulses"),
        ("/background/record", '{"pulse": 1}', "pulse"),
        ("/background/load", "{}", "path"),
        ("/background/load", '{"path": "/etc/passwd"}', "below"),
        ("/background/load", '{"path": "../../x.h5"}', "below"),
        ("/background/load", '{"path": "absent.h5"}', "absent.h5"),
    ],
)
def test_refused_is_http_200_and_changes_nothing(
    http: httpx.Client, service: Service, path: str, body: str, said: str
) -> None:
    http.post("/parameters", json={"roi": [3, 9]})
    before = http.get("/parameters").json()
    number = service.processor.applied[0]
    reply = http.post(path, content=body)
    assert reply.status_code == 200
    assert reply.json()["state"] == "error"
    assert said in reply.json()["status"]
    assert http.get("/parameters").json() == before
    assert service.processor.applied[0] == number


def test_parameters_are_merged_and_given_back(http: httpx.Client) -> None:
    answer = http.post("/parameters", json={"roi": [0, 12], "mine": {"a": [1]}}).json()
    expected = {"background": "", "roi": [0, 12], "mine": {"a": [1]}}
    assert answer == {
        "state": "ok",
        "status": "stopped",
        "parameters": expected,
        "roi": [0, 12],
    }
    assert http.get("/status").json() == {"state": "ok", "status": "stopped", "roi": [0, 12]}
    answer = http.post("/parameters", json={"other": 2}).json()
    assert answer["parameters"] == {**expected, "other": 2}
    # What was got can be set again.
    assert http.post("/parameters", json=answer["parameters"]).json()["state"] == "ok"


def test_saturation_is_a_setting(
    http: httpx.Client, service: Service, source: ScriptedSource
) -> None:
    http.post("/start")
    assert http.post("/parameters", json={"saturation": 400}).json()["state"] == "ok"
    source.put(41)
    newest = until(lambda: (r := service.processor.newest) and r.pulse.pulse_id == 41 and r)
    assert newest.spectrum.status is FitStatus.SATURATED
    answer = http.post("/parameters", json={"saturation": None}).json()
    assert answer["parameters"]["saturation"] is None
    source.put(42)
    newest = until(lambda: (r := service.processor.newest) and r.pulse.pulse_id == 42 and r)
    assert newest.spectrum.status is not FitStatus.SATURATED


def test_parameters_can_be_set_while_there_is_a_background(client: Any) -> None:
    client.set_background("dark", PICTURE)
    assert client.set_parameters({"x": 1}) == {"background": "dark", "x": 1}
    assert client.set_parameters({"background": ""}) == {"background": "", "x": 1}


def test_fractions_are_cut(http: httpx.Client, service: Service) -> None:
    body = {"filename": "f", "data": [[0.9, 1], [65535.5, -0.5]]}
    assert http.post("/background", json=body).json()["state"] == "ok"
    background = service.processor.settings.background
    assert background is not None
    assert background.tolist() == [[0, 1], [65535, 0]]


def test_backgrounds_are_kept_and_chosen_by_name(http: httpx.Client, service: Service) -> None:
    for name, level in (("first / one", 1), ("second", 2), ("second", 2)):
        pixels = np.full((ROWS, COLUMNS), level).tolist()
        http.post("/background", json={"filename": name, "data": pixels})
    listed = http.get("/backgrounds").json()["backgrounds"]
    names = [info["name"] for info in listed]
    assert names.count("second") == 1  # the same pixels are not kept twice
    info = next(info for info in listed if info["name"] == "first / one")
    assert info["origin"] == "uploaded"
    assert info["shape"] == [ROWS, COLUMNS]
    answer = http.post("/parameters", json={"background": "first / one"}).json()
    assert answer["parameters"]["background"] == "first / one"
    background = service.processor.settings.background
    assert background is not None
    assert (background == 1).all()


def test_a_background_used_again_is_the_newest_of_its_name(
    http: httpx.Client, service: Service
) -> None:
    for level in (3, 4, 3):
        pixels = np.full((ROWS, COLUMNS), level).tolist()
        http.post("/background", json={"filename": "again", "data": pixels})
    http.post("/parameters", json={"background": ""})
    http.post("/parameters", json={"background": "again"})
    background = service.processor.settings.background
    assert background is not None
    assert (background == 3).all()


def test_a_background_without_a_name_gets_one_and_can_be_cleared(
    http: httpx.Client, service: Service
) -> None:
    http.post("/background", json={"filename": "", "data": PICTURE.tolist()})
    name = http.get("/parameters").json()["parameters"]["background"]
    assert name.startswith("uploaded 20")
    assert service.history.load(name).info.name == name
    http.post("/parameters", json={"background": ""})
    assert service.processor.settings.background is None
    service.processor.change(background=PICTURE)  # by somebody in this process
    http.post("/parameters", json={"background": ""})
    assert service.processor.settings.background is None


def test_a_background_is_recorded_from_the_pulses(
    http: httpx.Client, service: Service, source: ScriptedSource
) -> None:
    assert "only 0 of 3" in http.post("/background/record", json={"pulses": 3}).json()["status"]
    http.post("/start")
    answers: list[Any] = []

    def ask() -> None:
        answers.append(http.post("/background/record", json={"pulses": 3, "name": "live"}).json())

    thread = threading.Thread(target=ask)
    feeds = service.processor._feeds
    thread.start()
    until(lambda: len(service.processor._feeds) > len(feeds))
    for pulse_id, level in ((21, 1), (22, 2), (23, 4)):
        source.put(pulse_id, image=np.full((ROWS, COLUMNS), level, np.uint16))
        until(lambda: (r := service.processor.newest) and r.pulse.pulse_id == pulse_id)  # noqa: B023
    thread.join(20)
    info = answers[0]["background"]
    assert (info["name"], info["pulses"]) == ("live", 3)
    assert (info["first_pulse_id"], info["last_pulse_id"]) == (21, 23)
    background = service.processor.settings.background_used
    assert background is not None
    assert background.dtype == np.uint16  # clipped, as the old service: whole numbers
    assert (background == 2).all()
    http.post("/parameters", json={"background_mode": "signed"})  # has all that was measured
    background = service.processor.settings.background_used
    assert background is not None
    np.testing.assert_allclose(background, 7 / 3, rtol=1e-6)
    http.post("/parameters", json={"background_mode": "clipped", "background": ""})


def test_a_background_is_read_from_a_file(http: httpx.Client, service: Service) -> None:
    assert service.history.directory is not None
    path = service.history.directory / "mine" / "frames.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["pictures"] = np.stack([np.full((3, 4), 1), np.full((3, 4), 4)]).astype("u2")
    wanted = {"path": "mine/frames.h5", "dataset": "/pictures", "name": "file"}
    answer = http.post("/background/load", json=wanted).json()
    assert answer["background"]["name"] == "file"
    assert answer["background"]["shape"] == [3, 4]
    assert http.get("/parameters").json()["parameters"]["background"] == "file"
    reply = http.post("/background/load", json={**wanted, "dataset": "/nothing"}).json()
    assert "/nothing" in reply["status"]


def test_a_large_upload_holds_up_nothing(
    http: httpx.Client, service: Service, address: str
) -> None:
    pixels = np.random.default_rng(0).integers(100, 999, (2160, 2560), dtype=np.uint16)
    done = threading.Event()

    def upload() -> None:
        assert PsssProcessingClient(address).set_background("large", pixels) == "ok"
        done.set()

    thread = threading.Thread(target=upload)
    thread.start()
    answers = 0
    while not done.is_set():
        assert http.get("/status").json()["state"] == "ok"
        answers += 1
    thread.join()
    assert answers > 3
    background = service.processor.settings.background
    assert background is not None
    np.testing.assert_array_equal(background, pixels)


def test_too_large_a_body(
    address: str, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert psss_rest.BODY_BYTES_MAX == 80_000_000
    monkeypatch.setattr(psss_rest, "BODY_BYTES_MAX", 1000)
    request = urllib.request.Request(f"{address}/background", b" " * 2000, method="POST")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 413
    assert raised.value.headers["content-type"].startswith("text/html")
    reply = http.post("/background", content=iter([b" " * 700] * 3))  # of a length not told
    assert reply.status_code == 413


def test_an_upload_that_breaks_off_changes_nothing(http: httpx.Client, address: str) -> None:
    import socket

    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /background HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n[[1,2"
        )
    assert http.get("/parameters").json()["parameters"] == {"background": ""}


def test_uploads_that_hang_give_their_places_to_others(
    http: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(psss_rest, "SILENCE_LIMIT_S", 0.2)
    host, _, port = address.removeprefix("http://").partition(":")
    hung = [socket.create_connection((host, int(port))) for _ in range(psss_rest.UPLOADS_MAX)]
    try:
        for connection in hung:
            connection.sendall(
                b"POST /background HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n[[1,2"
            )
        answer = http.post("/background", json={"filename": "next", "data": [[1]]}).json()
        assert answer["state"] == "ok"
        for connection in hung:
            connection.settimeout(20)
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    finally:
        for connection in hung:
            connection.close()


def test_health_metrics_and_description(
    http: httpx.Client, source: ScriptedSource, service: Service
) -> None:
    http.post("/start")
    source.put(31)
    until(lambda: http.get("/health").json()["pulse_id"] == 31)
    health = http.get("/health").json()
    assert health["state"] == "ok"
    assert health["status"] == "processing"
    assert health["message"] == "processing"
    text = http.get("/metrics").text
    assert "skywright_psss_pulse_id 31.0" in text
    assert re.search(r"^skywright_psss_pulses_total \d", text, re.MULTILINE)
    assert 'skywright_psss_unsent_total{cause="no_reader"}' in text
    described = http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    served = {
        (route.path, method.lower())
        for route in psss_rest.rest_app(_api(service)).routes
        for method in route.methods - {"OPTIONS", "HEAD"}
    }
    told = {(path, method) for path, item in described["paths"].items() for method in item}
    assert served - told == {("/metrics", "get"), ("/openapi.json", "get")}
    assert told <= served


def _api(service: Service) -> psss_rest.Api:
    return psss_rest.Api(service.processor, service.history, service.parameters)


def test_a_source_that_does_not_start_is_an_error(client: Any, source: ScriptedSource) -> None:
    source.start_error = OSError("no such host")
    try:
        with pytest.raises(ValueError, match="no such host"):
            client.start()
        assert client.get_status() == "stopped"
    finally:
        source.start_error = None
    client.start()
    assert client.get_status() == "processing"


def test_our_client_says_what_is_wrong(address: str) -> None:
    from skywright.errors import ConfigError, DataError, HardwareError

    with pytest.raises(ConfigError):
        Client("somewhere")
    with (
        pytest.raises(HardwareError, match="does the service run"),
        Client("http://127.0.0.1:1") as client,
    ):
        client.get_status()
    with Client(address) as client:
        with pytest.raises(RefusedError, match="roi"):
            client.set_parameters({"roi": [2, 1]})
        with pytest.raises(DataError, match="picture"):
            client.set_background("x", np.arange(3))
        client.set_parameters({"roi": [1, 2]})
        assert client.get_roi() == (1, 2)
        assert client.set_background("x", PICTURE.astype(">u2")) == "ok"
    with Client(address + "/nothing") as client, pytest.raises(DataError, match="PSSS"):
        client.get_status()


def test_settings_of_a_body_are_json(http: httpx.Client) -> None:
    http.post("/parameters", json={"axis": list(range(COLUMNS))})
    answer = json.loads(http.get("/parameters").text)
    assert answer["parameters"]["axis"] == list(range(COLUMNS))
    http.post("/parameters", json={"axis": None})
    assert http.get("/parameters").json()["parameters"]["axis"] is None
