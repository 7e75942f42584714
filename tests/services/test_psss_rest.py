"""The REST API, to the letter of what old clients expect, and what is new beside it."""

import asyncio
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from support.psss_old_client import PsssProcessingClient
from support.psss_scripted import COLUMNS, PICTURE, ROWS, ScriptedSource, running_service
from support.waiting import until

from skywright.instruments.psss import Client
from skywright.instruments.psss.client import RefusedError
from skywright.instruments.psss.endpoints import parameters as psss_parameters
from skywright.instruments.psss.endpoints import rest as psss_rest
from skywright.instruments.psss.endpoints.metrics import make_registry
from skywright.instruments.psss.endpoints.service import Service
from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.processor import WARM_LIMIT_S


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
    last = service.processor.newest
    source.put(7)
    until(lambda: client.get_statistics()["n_processed_images"] == 1)
    # A result is counted before it is the newest, which is that of another test till then.
    until(lambda: service.processor.newest is not last)
    newest = service.processor.newest
    assert newest is not None
    assert newest.pulse.pulse_id == 7
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
    until(source.running.is_set)
    # What was not sent is counted since the service began, other tests' pulses too.
    before = client.get_statistics()["unsent"].get("no_reader", 0)
    source.put(11)
    # A pulse is counted as processed before the socket refuses it.
    until(lambda: client.get_statistics()["unsent"].get("no_reader", 0) > before)
    statistics = client.get_statistics()
    assert statistics["n_processed_images"] == 1
    assert statistics["last_sent_pulse_id"] is None
    assert statistics["n_sent"] == 0


def test_statistics_before_the_first_start(tmp_path: Path) -> None:
    with running_service(ScriptedSource(), directory=tmp_path) as service:
        client = PsssProcessingClient(f"http://127.0.0.1:{service.facts['rest_port']}")
        assert client.get_statistics() == {}


@pytest.mark.parametrize("path", ["/parameters", "/background", "/background/record"])
def test_a_client_that_leaves_within_its_body_is_no_error(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        return next(pieces, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        assert message["type"] in ("http.response.start", "http.response.body")

    parts: Any = SimpleNamespace(processor=None)
    app = psss_rest.rest_app(parts)
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


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
        ("/parameters", '{"roi": {"1": 2, "3": 4}}', "roi"),
        ("/parameters", '{"roi": [5, 10], "fit": "eye"}', "fit"),
        ("/parameters", '{"axis": [1, 2, 2]}', "axis"),
        ("/parameters", '{"axis": "long"}', "axis"),
        ("/parameters", '{"signal_per_row": "much"}', "signal_per_row"),
        ("/parameters", '{"background": "never seen"}', "never seen"),
        ("/parameters", '{"background": 3}', "background"),
        ("/parameters", '{"saturation": "much"}', "saturation"),
        ("/parameters", '{"roi": [1, 2], "mine": %s}' % ("[" * 300 + "]" * 300), "mine: its"),
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
        ("/background", '{"filename": "x", "data": ["a", 1]}', "rows of numbers"),
        (
            "/background",
            f'{{"filename": "x", "data": [["{"a" * 9000}"{", 1" * 60000}]]}}',
            "int, str",
        ),
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


def test_parameters_of_clients_have_a_limit(
    http: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psss_parameters, "KEPT_BYTES_MAX", 100)
    assert http.post("/parameters", json={"a": "x" * 60}).json()["state"] == "ok"
    number = service.processor.applied[0]
    answer = http.post("/parameters", json={"b": "y" * 60, "roi": [1, 5]}).json()
    assert answer["state"] == "error"
    assert "b" in answer["status"]
    assert service.processor.applied[0] == number
    assert http.get("/parameters").json()["parameters"] == {"background": "", "a": "x" * 60}
    smaller = {"a": None, "b": "y" * 60}
    assert http.post("/parameters", json=smaller).json()["parameters"] == {
        "background": "",
        **smaller,
    }


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
        for route in psss_rest.rest_app(service).routes
        for method in route.methods - {"OPTIONS", "HEAD"}
    }
    told = {(path, method) for path, item in described["paths"].items() for method in item}
    assert served - told == {("/metrics", "get"), ("/openapi.json", "get")}
    assert told <= served


def test_a_counter_of_prometheus_does_not_fall(tmp_path: Path) -> None:
    """A fall is a restart to it: it would add the whole new number."""
    source = ScriptedSource()
    with running_service(source, directory=tmp_path) as service:
        registry = make_registry(service.processor)

        def shown(cause: str) -> float | None:
            return registry.get_sample_value("skywright_psss_lost_total", {"cause": cause})

        source.counts.update(gap=5, garbage=1)
        assert (shown("gap"), shown("garbage")) == (5, 1)
        # The machine's rate is lower, which shows after many pulses: fewer are missing
        source.counts.clear()
        source.counts["gap"] = 2
        assert (shown("gap"), shown("garbage")) == (5, 1)
        assert service.processor.lost == {"gap": 2}
        source.counts["gap"] = 7
        assert (shown("gap"), shown("garbage")) == (7, 1)


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
        with pytest.raises(DataError, match="background"):
            client.set_background("x", [[1, 2], [3]])
        with pytest.raises(DataError, match="background: has masked pixels"):
            client.set_background("x", np.ma.masked_greater(PICTURE, 3))
        assert client.set_parameters({"axis": np.arange(3.0)})["axis"] == [0.0, 1.0, 2.0]
        falling = client.set_parameters({"axis": np.arange(3.0)[::-1]})  # no array in C's order
        assert falling["axis"] == [2.0, 1.0, 0.0]
        swapped = client.set_parameters({"axis": np.arange(3.0).astype(">f8")})
        assert swapped["axis"] == [0.0, 1.0, 2.0]
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


class OnlyTolist:
    """What the old client takes: anything with ``tolist()``."""

    def tolist(self) -> list[list[int]]:
        return [[1, 2], [3, 4]]


def test_a_background_may_be_any_object_with_tolist(client: Any, service: Service) -> None:
    assert client.set_background("listed", OnlyTolist()) == "ok"
    background = service.processor.settings.background
    assert background is not None
    assert background.tolist() == [[1, 2], [3, 4]]


def test_a_start_is_awaited_longer_than_the_service_waits_for_its_kernels() -> None:
    waits: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        waits[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={"state": "ok", "status": "processing"})

    with Client() as client:
        client._http = httpx.Client(transport=httpx.MockTransport(answer), timeout=10.0)
        client.start()
        client.get_status()
    assert waits["/start"] > WARM_LIMIT_S > waits["/status"]
