"""Back-ends: one interface, and a result for each picture whatever becomes of a service."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import simplejpeg
from support.scripted_http import Server, Visit, scripted

from skywright.analyses import make_analysis
from skywright.analysis import Batch
from skywright.errors import ConfigError, DataError
from skywright.loop import analysis, backends
from skywright.loop.backends import automl, make_detector
from skywright.loop.backends.automl import AutoMLDetector
from skywright.loop.backends.boxes import from_boxes, to_boxes
from skywright.loop.detect import CLASS_NAMES, Detection, find_loop
from skywright.loop.picture import decode
from skywright.loop.twin.render import Pose, render
from skywright.loop.twin.scene import random_scene
from skywright.services.automl_server import automl_app
from skywright.services.http_server import HttpServer
from skywright.wire.automl import (
    HEALTH_PATH,
    PREDICT_PATH,
    Box,
    Instance,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

MODEL = Path(__file__).with_name("loop_net.onnx")
CLASSES = ("nylon", "mitegen", "pin")
SHAPE = (480, 704)


PLAIN: dict[str, Any] = {
    **{"width_px": 704, "height_px": 480, "um_per_px_x": 4.0, "um_per_px_y": 4.44, "color": True},
    **{"light": "backlight", "level": 190.0, "contrast": 1.0, "stray": 4.0, "nozzle": None},
    **{"loop_length_um": 400.0, "loop_width_um": 280.0, "stem_um": 400.0, "stem_bend_deg": 0.0},
    **{"tip_um": (300.0, 60.0, 30.0), "face_on_deg": 20.0, "base_um": 650.0, "pin_um": 650.0},
}
"""A mount in good light, with its pin in view."""


def scene_with(kind: str, side: str, seed: int) -> Any:
    """Render a mount in good light."""
    scene = random_scene(np.random.default_rng(seed), kind=kind, side=side, **PLAIN)
    return render(scene, Pose(phi_deg=20.0), frame_seed=seed)


@pytest.fixture(scope="module")
def picture() -> np.ndarray[Any, Any]:
    return scene_with("nylon", "left", 5).image


@pytest.fixture(scope="module")
def gray(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return analysis.to_gray(picture)


@pytest.fixture(scope="module")
def seen(gray: np.ndarray[Any, Any]) -> Detection:
    return find_loop(gray)


def overlap(a: Any, b: Any) -> float:
    """IoU of two boxes, xmin, ymin, xmax, ymax."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(np.subtract(box[2:], box[:2]))) for box in (a, b)]
    return common / (sum(areas) - common)


# ---- the interface


def test_codes_of_back_ends_are_their_names() -> None:
    assert tuple(backends.BACKENDS) == analysis.BACKENDS


def test_classical_is_the_default_and_takes_color(
    picture: np.ndarray[Any, Any], seen: Detection
) -> None:
    found = make_detector().find(picture)
    assert (found.detection, found.backend, found.why) == (seen, "classical", "")
    assert make_detector("classical")(picture) == seen


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backend": "oracle"}, "expected one of classical, automl, onnx"),
        ({"backend": "classical", "url": "x"}, "url"),
        ({"backend": "automl"}, "url"),
        ({"backend": "automl", "url": "host:8501"}, "expected http://host:port"),
        ({"backend": "onnx", "model": "/none.onnx"}, "/none.onnx"),
        ({"backend": "onnx", "model": __file__}, "test_backends.py"),
        ({"backend": "onnx", "model": str(MODEL), "sha256": "00"}, "sha256"),
        ({"backend": "onnx", "model": str(MODEL), "classes": ["cat"]}, "classes"),
    ],
)
def test_wrong_settings_stop_at_the_start(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_detector(**settings)
    with pytest.raises(ConfigError, match=says):
        make_analysis("loop_detection", settings)


# ---- boxes


def boxes_of(*items: tuple[str, float, tuple[float, float, float, float]]) -> list[Box]:
    return [Box(kind, score, *corners) for kind, score, corners in items]


LOOP, PIN = (0.4, 0.5, 0.6, 0.8), (0.3, 0.0, 0.7, 0.2)


def mirrored(corners: tuple[float, ...], turn: bool, far: bool) -> tuple[float, ...]:
    """Put a box of a mount from the left where it is for a mount from another side."""
    y0, x0, y1, x1 = corners
    if far:
        x0, x1 = 1 - x1, 1 - x0
    return (x0, y0, x1, y1) if turn else (y0, x0, y1, x1)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_tip_is_the_far_end_of_the_box_whatever_the_side(side: str) -> None:
    turn, far = side in ("top", "bottom"), side in ("right", "bottom")
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    loop, pin = (
        Box(k, s, *mirrored(c, turn, far)) for k, s, c in (("nylon", 0.7, LOOP), ("pin", 0.9, PIN))
    )
    found = from_boxes([pin, loop], empty, SHAPE, 0.04)
    length, across = (480, 704) if turn else (704, 480)
    end, base = (0.8 * length - 0.5, 0.2 * length - 0.5)
    if far:
        end, base = length - 1 - end, length - 1 - base
    middle = 0.5 * across - 0.5
    assert (found.side, found.kind, found.score) == (side, "nylon", 0.7)
    expected = (middle, end) if turn else (end, middle)
    assert (found.tip_x, found.tip_y) == pytest.approx(expected)
    expected = (middle, base) if turn else (base, middle)
    assert (found.pin_base_x, found.pin_base_y) == pytest.approx(expected)
    assert found.width == pytest.approx(0.2 * across)
    assert found.tip_in_view
    assert not found.clipped
    assert not found.flat


def test_loop_counts_by_its_own_score() -> None:
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    found = from_boxes(boxes_of(("pin", 0.9, PIN), ("nylon", 0.03, LOOP)), empty, SHAPE, 0.04)
    assert (found.kind, found.score) == ("pin", 0.9)
    assert found.bbox == pytest.approx((-0.5, 143.5, 140.3, 335.5))
    found = from_boxes(boxes_of(("nylon", 0.03, LOOP)), empty, SHAPE, 0.04)
    assert (found.kind, found.bbox, found.tip_in_view, found.score) == ("none", None, False, 0.03)
    sixth = [*boxes_of(*[("pin", 0.9, PIN)] * 5), *boxes_of(("nylon", 0.8, LOOP))]
    assert from_boxes(sixth, empty, SHAPE, 0.04).kind == "pin"
    assert from_boxes([], empty, SHAPE, 0.04).kind == "none"


def test_box_at_the_far_border_shows_no_tip() -> None:
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    found = from_boxes(boxes_of(("mitegen", 0.9, (0.4, 0.5, 0.6, 1.0))), empty, SHAPE, 0.04)
    assert (found.side, found.tip_in_view, found.tip_sign) == ("right", True, "")
    both = boxes_of(("mitegen", 0.9, (0.4, 0.5, 0.6, 1.0)), ("pin", 0.8, PIN))
    found = from_boxes(both, empty, SHAPE, 0.04)
    assert (found.side, found.tip_in_view, found.tip_sign) == ("left", False, "+")
    assert math.isnan(found.tip_x)
    assert found.clipped


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("kind", ["nylon", "mitegen", "pin"])
def test_boxes_there_and_back(kind: str, side: str) -> None:
    gray = analysis.to_gray(scene_with(kind, side, 31).image)
    seen = find_loop(gray)
    assert (seen.kind == "pin", seen.side) == (kind == "pin", side)
    boxes = to_boxes(seen, gray)
    again = from_boxes(boxes, find_loop(np.full(gray.shape, 200, np.uint8)), gray.shape, 0.04)
    assert (again.kind, again.side) == (seen.kind, side)
    if kind != "pin":
        assert overlap(again.bbox, seen.bbox) > 0.99
    # Where the silhouette ends at the end of the box, its tip is taken.
    full = from_boxes(boxes, seen, gray.shape, 0.04)
    assert (full.tip_x, full.tip_y) == pytest.approx((seen.tip_x, seen.tip_y), abs=2.0)


def test_pin_has_its_width() -> None:
    frame = scene_with("nylon", "left", 31)
    gray = analysis.to_gray(frame.image)
    (pin,) = (box for box in to_boxes(find_loop(gray), gray) if box.kind == "pin")
    assert pin.xmin == 0.0
    x, y = frame.truth.pin_end_px
    assert pin.xmax * 704 == pytest.approx(x, abs=12)
    assert 0.5 * (pin.ymin + pin.ymax) * 480 == pytest.approx(y, abs=12)


# ---- a service


def answering(
    boxes: list[Box], before: Callable[[Visit], bool] = lambda visit: False
) -> Callable[[Visit], None]:
    """Reply as the container does, unless `before` has said something."""

    def script(visit: Visit) -> None:
        if before(visit):
            return
        if visit.head.startswith("GET"):
            visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        (instance,), _ = decode_request(visit.body)
        body = encode_reply([(instance.key, boxes)], CLASSES)
        reply(visit, body)

    return script


def reply(visit: Visit, body: bytes, status: str = "200 OK") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    visit.say(head.encode() + body)


def test_service_is_asked_with_the_file_unchanged(
    picture: np.ndarray[Any, Any], seen: Detection
) -> None:
    file = simplejpeg.encode_jpeg(picture, colorspace="RGB") + b"trailer"
    sent: list[Instance] = []

    def keep(visit: Visit) -> bool:
        sent.extend(decode_request(visit.body)[0])
        return False

    boxes = boxes_of(("mitegen", 0.6, LOOP), ("pin", 0.5, PIN))
    with scripted(answering(boxes, keep)) as server:
        detector = make_detector("automl", url=server.url + "/")
        found = detector.find(picture, file)
        assert (found.backend, found.why) == ("automl", "")
        assert (found.detection.kind, found.detection.score) == ("mitegen", 0.6)
        assert found.detection.level == seen.level  # what boxes do not tell
        assert detector(picture).kind == "mitegen"
        assert detector.find(picture, key="collectLoopImages:1.14:7").backend == "automl"
        detector.close()
    assert sent[0].picture == file
    assert sent[2].key == "collectLoopImages:1.14:7"
    assert decode(sent[1].picture).shape == picture.shape[:2]
    assert sent[0].key != sent[1].key
    assert server.requests[0].startswith(f"POST {PREDICT_PATH} ")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (lambda v: reply(v, b"{}", "503 Busy"), "503"),
        (lambda v: reply(v, b"no json"), "body"),
        (lambda v: reply(v, b'{"predictions": []}'), "keys none"),
        (lambda v: reply(v, encode_reply([("other", [])], CLASSES)), "keys 'other'"),
        (lambda v: reply(v, b'{"error": "bad"}', "400 Bad Request"), "400"),
        (lambda v: v.say(b"garbage\r\n\r\n"), "illegal"),
        (lambda v: None, "disconnected"),
        (Visit.wait_for_end, "no reply in time"),
        (lambda v: (v.say(b"HTTP/1.1 200 OK\r\n\r\n{"), v.wait_for_end()), "no reply in time"),
    ],
    ids=["503", "no json", "empty", "foreign key", "400", "no http", "closed", "silent", "half"],
)
def test_classical_stands_in_and_says_why(
    script: Callable[[Visit], None], says: str, picture: np.ndarray[Any, Any], seen: Detection
) -> None:
    with scripted(script) as server:
        detector = AutoMLDetector(server.url, timeout_s=0.5)
        found = detector.find(picture)
        detector.close()
    assert (found.detection, found.backend) == (seen, "classical")
    assert says in found.why
    assert server.url in found.why


def test_busy_service_is_asked_again(picture: np.ndarray[Any, Any]) -> None:
    def busy(visit: Visit) -> bool:
        if visit.number == 0:
            reply(visit, b"{}", "503 Busy")
        return visit.number == 0

    with scripted(answering(boxes_of(("nylon", 0.6, LOOP)), busy)) as server:
        found = AutoMLDetector(server.url, timeout_s=30).find(picture)
    assert found.backend == "automl"
    assert len(server.requests) == 2


def test_service_that_is_down_is_left_alone_and_found_again(
    picture: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automl, "FIRST_PAUSE_S", 400.0)
    monkeypatch.setattr(automl, "MOST_PAUSE_S", 1000.0)
    up = threading.Event()

    def down(visit: Visit) -> bool:
        if not up.is_set():
            reply(visit, b"{}", "503 Busy")
        return not up.is_set()

    with scripted(answering(boxes_of(("nylon", 0.6, LOOP)), down)) as server:
        detector = AutoMLDetector(server.url, retries=0, timeout_s=30)
        assert [detector.find(picture).backend for _ in range(3)] == ["classical"] * 3
        assert len(server.requests) == 1  # the others did not wait for it
        pauses = [detector._pause_s]
        detector._down_until = 0.0  # the pause is over
        assert detector.find(picture).backend == "classical"
        assert server.requests[-1].startswith(f"GET {HEALTH_PATH} ")
        pauses.append(detector._pause_s)
        detector._down_until = 0.0
        up.set()
        assert [detector.find(picture).backend for _ in range(2)] == ["automl"] * 2
        assert [*pauses, detector._pause_s] == [400.0, 800.0, 0.0]
        assert [head.split()[0] for head in server.requests[1:]] == ["GET", "GET", "POST", "POST"]


def test_pictures_beyond_the_queue_do_not_wait(picture: np.ndarray[Any, Any]) -> None:
    go, arrived = threading.Event(), threading.Semaphore(0)

    def slow(visit: Visit) -> bool:
        arrived.release()
        assert go.wait(60)
        return False

    with (
        scripted(answering(boxes_of(("nylon", 0.6, LOOP)), slow)) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        detector = AutoMLDetector(server.url, waiting=2, timeout_s=60)
        under_way = [pool.submit(detector.find, picture) for _ in range(2)]
        for _ in range(2):
            assert arrived.acquire(timeout=60)
        found = detector.find(picture)
        assert (found.backend, found.why) == ("classical", "automl: 2 pictures wait already")
        go.set()
        assert [each.result(60).backend for each in under_way] == ["automl"] * 2


# ---- in an analysis


def test_analysis_records_which_back_end_found_what(picture: np.ndarray[Any, Any]) -> None:
    def second_fails(visit: Visit) -> bool:
        if visit.number == 1:
            reply(visit, b"no json")
        return visit.number == 1

    with scripted(answering(boxes_of(("mitegen", 0.6, LOOP)), second_fails)) as server:
        parameters = {"backend": "automl", "url": server.url, "timeout_s": 30}
        live = make_analysis("loop_detection", parameters)
        assert live.parameters == parameters
        n = np.arange(3)
        rows = live.update(Batch(n, n * 0.1, {"image": np.array([picture] * 3)}))
        assert [analysis.BACKENDS[code] for code in rows["backend"]] == [
            *("automl", "classical", "automl")
        ]
        assert [CLASS_NAMES[code] for code in rows["kind"]][::2] == ["mitegen"] * 2
        assert live.result()["n_stood_in"] == 1
        assert (
            len(live.fresh().draw(Batch(n[:1], n[:1] * 1.0, {"image": np.array([picture])}))) == 2
        )


# ---- our server


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


def test_our_server_is_not_ready_before_it_is_warm(picture: np.ndarray[Any, Any]) -> None:
    class Cold(backends.Detector):
        """Warms up when told to."""

        warm = threading.Event()

        def find(self, picture: Any, file: bytes | None = None, key: str = "") -> backends.Found:
            raise AssertionError("cold")

        def warm_up(self) -> None:
            self.warm.wait(60)

    server = HttpServer(automl_app(Cold()))
    try:
        url = f"http://127.0.0.1:{server.port}"
        assert httpx.get(url + HEALTH_PATH).status_code == 503
        answer = httpx.post(url + PREDICT_PATH, content=b"{}")
        assert answer.status_code == 503
        assert "loading" in answer.json()["error"]
    finally:
        Cold.warm.set()
        server.close()


def test_server_as_a_process() -> None:
    process = subprocess.Popen(
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
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


# ---- a network here


@pytest.fixture(scope="module")
def network() -> backends.Detector:
    return make_detector("onnx", model=str(MODEL))


def test_network_of_the_tests_is_small() -> None:
    assert MODEL.stat().st_size <= 500_000


def test_network_finds_loops_of_unseen_scenes(network: backends.Detector) -> None:
    found, kinds, pins = [], [], []
    for seed in range(9000, 9040):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, kind=str(rng.choice(["nylon", "mitegen"])))
        frame = render(scene, Pose(phi_deg=float(rng.uniform(0, 360))), frame_seed=seed)
        truth = frame.truth
        if not truth.tip_in_view or truth.tip_covered:
            continue
        result = network.find(frame.image)
        assert result.backend == "onnx"
        height, width = frame.image.shape[:2]
        box = np.clip(truth.box_px, -0.5, np.array([width, height] * 2) - 0.5)
        there = result.detection.bbox is not None and result.detection.kind != "pin"
        found.append(overlap(result.detection.bbox, box) if there else 0.0)
        kinds.append(result.detection.kind == truth.kind)
        pins.append(result.detection.side == truth.side)
    assert len(found) > 25
    assert np.median(found) >= 0.7
    assert np.mean(pins) >= 0.8
    assert np.mean(kinds) >= 0.6


def test_network_sees_nothing_in_empty_views(network: backends.Detector) -> None:
    kinds = []
    for seed in range(9100, 9115):
        rng = np.random.default_rng(seed)
        frame = render(random_scene(rng, kind="none"), Pose(), frame_seed=seed)
        kinds.append(network(frame.image).kind)
    assert kinds.count("none") >= 11


def test_analysis_records_which_network_it_was(picture: np.ndarray[Any, Any]) -> None:
    live = make_analysis("loop_detection", {"backend": "onnx", "model": str(MODEL)})
    assert len(live.parameters["sha256"]) == 64
    n = np.arange(1)
    rows = live.fresh().update(Batch(n, n * 0.1, {"image": picture[np.newaxis]}))
    assert rows["backend"][0] == analysis.BACKENDS.index("onnx")


def test_picture_of_a_wrong_kind_is_refused(network: backends.Detector) -> None:
    for detector in (network, make_detector()):
        with pytest.raises(DataError, match="expected"):
            detector.find(np.zeros((64, 64), np.float32))  # type: ignore[arg-type]


def test_reply_of_ours_is_read_by_ours() -> None:
    boxes = boxes_of(("nylon", 0.5, LOOP))
    assert decode_reply(encode_reply([("k", boxes)], CLASSES), "k")[0] == boxes[0]
