"""AutoML's REST messages: ours read by theirs, theirs by ours, and whatever else comes."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.errors import DataError
from skywright.wire.automl import (
    Box,
    Instance,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

CLASSES = ("nylon", "mitegen", "pin")
PARTS = st.floats(0.0, 1.0)
BOXES = st.lists(
    st.builds(Box, st.sampled_from(CLASSES), st.floats(0.02, 1.0), PARTS, PARTS, PARTS, PARTS),
    max_size=12,
)
REPLY = {
    "predictions": [
        {
            "key": "loop:1.14:7",
            "detection_boxes": [[0.4, 0.3, 0.6, 0.5], [0.1, 0.0, 0.9, 0.2]],
            "detection_scores": [0.2, 0.9],
            "detection_classes_as_text": ["nylon", "pin"],
            "detection_classes": [1.0, 3.0],
            "num_detections": 2.0,
        }
    ]
}


@pytest.mark.parametrize("picture", [b"x", b"xy", bytes(range(256))])
def test_base64_in_lines_and_without_padding_is_read(picture: bytes) -> None:
    for text in (base64.encodebytes(picture), base64.b64encode(picture).rstrip(b"=")):
        body = {"instances": [{"image_bytes": {"b64": text.decode()}, "key": "a"}]}
        instances, _ = decode_request(json.dumps(body).encode())
        assert instances[0].picture == picture


def test_request_is_as_the_container_wants_it() -> None:
    picture = b"\xff\xd8 any bytes"
    said = json.loads(encode_request([Instance("op:1.2:0", picture)]))
    assert said == {
        "instances": [
            {"image_bytes": {"b64": base64.b64encode(picture).decode()}, "key": "op:1.2:0"}
        ],
        "params": [{"max_bounding_box_count": "10"}],
    }


@given(st.lists(st.tuples(st.text(), st.binary()), min_size=1), st.integers(min_value=1))
def test_requests_come_back(pictures: list[tuple[str, bytes]], most: int) -> None:
    instances = [Instance(key, data) for key, data in pictures]
    assert decode_request(encode_request(instances, most)) == (instances, most)


def test_request_without_params_and_key() -> None:
    body = b'{"instances": [{"image_bytes": {"b64": ""}}, {"image_bytes": {"b64": ""}, "key": 3}]}'
    assert decode_request(body) == ([Instance("", b""), Instance(3, b"")], 10)
    assert decode_request(body[:-1] + b', "params": null}') == decode_request(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"instances": []}', "instances"),
        (b'{"instances": [{"key": "a"}]}', "instances: 0: image_bytes"),
        (b'{"instances": [{"image_bytes": {"b64": "%%%"}}]}', "no base64"),
        (b'{"instances": [{"image_bytes": {"b64": "\xff"}}]}', "body"),
        (
            b'{"instances": [{"image_bytes": {"b64": ""}}],'
            b' "params": [{"max_bounding_box_count": "many"}]}',
            "max_bounding_box_count",
        ),
    ],
)
def test_wrong_requests_are_named(body: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode_request(body)


def test_reply_is_read_by_key_and_sorted_by_score() -> None:
    found = decode_reply(json.dumps(REPLY).encode(), "loop:1.14:7")
    assert found == [Box("pin", 0.9, 0.1, 0.0, 0.9, 0.2), Box("nylon", 0.2, 0.4, 0.3, 0.6, 0.5)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "body"),
        (b'{"error": "no"}', "predictions"),
        (b'{"predictions": []}', "keys none, expected 'mine'"),
        (json.dumps(REPLY).encode(), "keys 'loop:1.14:7', expected 'mine'"),
        (b'{"predictions": [{"key": "mine", "detection_boxes": [[1, 2]]}]}', "detection_boxes"),
        (
            b'{"predictions": [{"key": "mine", "detection_boxes": [[0.1, 0.2, 0.3, 0.4]],'
            b' "detection_scores": [0.9, 0.1], "detection_classes_as_text": []}]}',
            "0 classes, 2 scores, 1 boxes",
        ),
    ],
)
def test_wrong_replies_are_named(body: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode_reply(body, "mine")


@given(st.lists(BOXES, min_size=1, max_size=3), st.integers(1, 20))
def test_replies_have_what_old_clients_lean_on(pictures: list[list[Box]], most: int) -> None:
    said = encode_reply(list(enumerate(pictures)), CLASSES, most)
    for key, (boxes, prediction) in enumerate(
        zip(pictures, json.loads(said)["predictions"], strict=True)
    ):
        assert prediction["key"] == key
        lists = [v for name, v in prediction.items() if name.startswith("detection_")]
        count = min(max(len(boxes), 5), most)
        assert {len(each) for each in lists} == {count} == {prediction["num_detections"]}
        scores = prediction["detection_scores"]
        assert scores == sorted(scores, reverse=True)
        assert all(score < 0.01 for score in scores[len(boxes) :])
        numbers = [CLASSES.index(name) + 1 for name in prediction["detection_classes_as_text"]]
        assert prediction["detection_classes"] == numbers
        best = sorted(boxes, key=lambda box: box.score, reverse=True)[:count]
        assert decode_reply(said, key)[: len(best)] == best


@given(
    st.recursive(
        st.none() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    for body in (value, {"predictions": value}, {"instances": value}):
        for read in (decode_request, lambda data: decode_reply(data, "k")):
            with pytest.raises(DataError):
                read(json.dumps(body).encode())
