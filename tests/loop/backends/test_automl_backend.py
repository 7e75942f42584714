"""The AutoML service as back-end: a result for each picture whatever becomes of it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
from support.backends import CLASSES, LOOP, PIN, answering, boxes_of, reply
from support.scripted_http import Visit, scripted

from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.instruments.loop import analysis
from skywright.instruments.loop.backends import automl, make_detector
from skywright.instruments.loop.backends.automl import AutoMLDetector
from skywright.instruments.loop.detection import CLASS_NAMES, Detection
from skywright.instruments.loop.picture import decode
from skywright.wire.automl import (
    HEALTH_PATH,
    PREDICT_PATH,
    Instance,
    decode_request,
    encode_reply,
)


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


@pytest.mark.parametrize(("most", "kind"), [(1, "pin"), (2, "mitegen"), (7, "mitegen")])
def test_no_more_boxes_are_looked_at_than_asked_for(
    most: int, kind: str, picture: np.ndarray[Any, Any]
) -> None:
    asked: list[int] = []

    def keep(visit: Visit) -> bool:
        asked.append(decode_request(visit.body)[1])
        return False

    boxes = boxes_of(("pin", 0.9, PIN), ("mitegen", 0.6, LOOP))  # all, whatever is asked for
    with scripted(answering(boxes, keep)) as server:
        detector = make_detector("automl", url=server.url, most_boxes=most)
        found = detector.find(picture)
        assert (found.backend, found.detection.kind) == ("automl", kind)
        detector.close()
    assert asked == [most]


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
def test_our_network_stands_in_and_says_why(
    script: Callable[[Visit], None], says: str, picture: np.ndarray[Any, Any], seen: Detection
) -> None:
    with scripted(script) as server:
        detector = AutoMLDetector(server.url, timeout_s=0.5)
        found = detector.find(picture)
        detector.close()
    assert (found.detection, found.backend) == (seen, "network")
    assert says in found.why
    assert server.url in found.why


def test_the_address_may_have_the_path_of_the_predictions(picture: np.ndarray[Any, Any]) -> None:
    with scripted(answering(boxes_of(("nylon", 0.6, LOOP)))) as server:
        detector = AutoMLDetector(server.url + PREDICT_PATH)
        assert detector.find(picture).backend == "automl"
        assert detector.trouble() == ""
        detector.close()


def test_no_message_shows_the_login_of_the_service(picture: np.ndarray[Any, Any]) -> None:
    with scripted(lambda visit: visit.say(b"HTTP/1.1 500 No\r\n\r\n")) as server:
        address = server.url.replace("://", "://bl7:secret@")
        detector = AutoMLDetector(address, timeout_s=30)
        said = [detector.find(picture).why, detector.trouble()]
        detector.close()
    detector = AutoMLDetector(address, retries=0)
    said += [detector.find(picture).why, detector.trouble()]
    detector.close()
    assert all(server.url in each for each in said)
    assert not any("secret" in each for each in said)


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
    monkeypatch.setattr(automl, "PAUSE_MAX_S", 1000.0)
    up = threading.Event()

    def down(visit: Visit) -> bool:
        if not up.is_set():
            reply(visit, b"{}", "503 Busy")
        return not up.is_set()

    with scripted(answering(boxes_of(("nylon", 0.6, LOOP)), down)) as server:
        detector = AutoMLDetector(server.url, retries=0, timeout_s=30)
        assert [detector.find(picture).backend for _ in range(3)] == ["network"] * 3
        assert len(server.requests) == 1  # the others did not wait for it
        pauses = [detector._pause_s]
        detector._down_until = 0.0  # the pause is over
        assert detector.find(picture).backend == "network"
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
        assert go.wait(90)
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
        assert (found.backend, found.why) == ("network", "automl: 2 pictures wait already")
        go.set()
        assert [each.result(60).backend for each in under_way] == ["automl"] * 2


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
            *("automl", "network", "automl")
        ]
        assert [CLASS_NAMES[code] for code in rows["kind"]][::2] == ["mitegen"] * 2
        assert live.result()["n_stood_in"] == 1
        assert (
            len(live.fresh().draw(Batch(n[:1], n[:1] * 1.0, {"image": np.array([picture])}))) == 2
        )
