"""Our detector behind AutoML's path."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import simplejpeg
from support import forked
from support.backends import (
    SHAPE,
    overlap,
)
from support.scripted_http import Server
from support.waiting import until

from skywright.instruments.loop import backends
from skywright.instruments.loop.backends import make_detector
from skywright.instruments.loop.backends.automl import AutoMLDetector
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.endpoints.automl_server import automl_app
from skywright.processes.http_server import HttpServer
from skywright.wire.automl import (
    HEALTH_PATH,
    PREDICT_PATH,
    Instance,
    encode_request,
)


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    server = HttpServer(automl_app(make_detector()))
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        waiting = threading.Event()
        for _ in range(600):
            if client.get(HEALTH_PATH).status_code == 200:
                break
            waiting.wait(0.1)
    yield Server(server.port)
    server.close()


def test_our_server_serves_our_client(
    served: Server, seen: Detection, picture: np.ndarray[Any, Any]
) -> None:
    file = simplejpeg.encode_jpeg(picture, colorspace="RGB", quality=98)
    with ThreadPoolExecutor(4) as pool:
        detector = AutoMLDetector(served.url, timeout_s=60)
        for found in pool.map(lambda _: detector.find(picture, file), range(8)):
            assert (found.backend, found.why) == ("automl", "")
            assert found.detection.kind == seen.kind
            assert overlap(found.detection.bbox, seen.bbox) > 0.9
            assert found.detection.tip_x == pytest.approx(seen.tip_x, abs=3.0)
        detector.close()


def test_our_server_sees_nothing_in_an_empty_view(served: Server) -> None:
    empty = np.full((*SHAPE, 1), 190, np.uint8)
    file = simplejpeg.encode_jpeg(empty, colorspace="GRAY")
    body = encode_request([Instance("a", file), Instance(7, file)], most=5)
    said = httpx.post(served.url + PREDICT_PATH, content=body, timeout=60).json()
    assert [each["key"] for each in said["predictions"]] == ["a", 7]
    for each in said["predictions"]:
        assert len(each["detection_scores"]) == 5
        assert max(each["detection_scores"]) < 0.01


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "body"),
        (encode_request([Instance("x", b"no picture")]), "instance 'x'"),
        (b'{"instances": [{"image_bytes": {"b64": "???"}}]}', "base64"),
    ],
)
def test_our_server_names_wrong_requests(served: Server, body: bytes, says: str) -> None:
    answer = httpx.post(served.url + PREDICT_PATH, content=body, timeout=60)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_a_client_that_goes_away_within_its_request_is_no_error(
    served: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        head = f"POST {PREDICT_PATH} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
        client.sendall(head.encode() + b"{")
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10.0)
        assert client.recv(1000) == b""  # the server has closed
    assert httpx.get(served.url + HEALTH_PATH).status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_our_server_is_not_ready_before_it_is_warm(picture: np.ndarray[Any, Any]) -> None:
    class Cold(backends.Detector):
        """Warms up when told to, and fails."""

        warm = threading.Event()

        def find(self, picture: Any, file: bytes | None = None, key: str = "") -> backends.Found:
            raise AssertionError("cold")

        def warm_up(self) -> None:
            self.warm.wait(60)
            raise ImportError("no onnxruntime")

    server = HttpServer(automl_app(Cold()))
    try:
        url = f"http://127.0.0.1:{server.port}"
        assert httpx.get(url + HEALTH_PATH).status_code == 503
        answer = httpx.post(url + PREDICT_PATH, content=b"{}")
        assert answer.status_code == 503
        assert "loading" in answer.json()["error"]
        Cold.warm.set()
        until(
            lambda: (
                "no onnxruntime" in httpx.post(url + PREDICT_PATH, content=b"{}").json()["error"]
            )
        )
    finally:
        Cold.warm.set()
        server.close()


@pytest.mark.parametrize("port", ["taken", "99999"])
def test_a_port_that_cannot_be_had_is_bad_use_and_loads_no_detector(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        done = forked.run(
            [sys.executable, "-m", "skywright.cli", "loop", "automl-server", "--port", number],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert (f":{number}" if port == "taken" else "65535") in done.stderr


def test_the_detector_is_not_loaded_before_the_server_listens() -> None:
    class Unused(backends.Detector):
        loading = threading.Event()

        def find(self, picture: Any, file: bytes | None = None, key: str = "") -> backends.Found:
            raise AssertionError("unused")

        def warm_up(self) -> None:
            self.loading.set()

    app = automl_app(Unused())
    assert not [each for each in threading.enumerate() if each.name == "warm-up"]
    assert not Unused.loading.is_set()
    server = HttpServer(app)
    assert Unused.loading.wait(60)
    server.close()


def test_server_as_a_process() -> None:
    process = forked.start(
        [sys.executable, "-m", "skywright.cli", "loop", "automl-server", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SKYWRIGHT_SUPERVISED": ""},
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())["ready"]
        assert httpx.get(ready["url"] + HEALTH_PATH, timeout=60).status_code in (200, 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    finally:
        process.kill()
        process.communicate()
