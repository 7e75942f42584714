"""The REST messages of an AutoML Vision Edge container: pictures there, boxes back.

Coordinates are fractions of the picture's width and height, 0..1, y before x as on the wire.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from skywright.errors import DataError

HEALTH_PATH = "/v1/models/default"
PREDICT_PATH = "/v1/models/default:predict"
BOXES_MAX, BOXES_MIN = 10, 5
"""Boxes of a reply; the least because old clients read the first five without looking."""
PADDING_SCORE = 0.005

Key = str | int
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Box:
    """Something found in a picture."""

    kind: str
    score: float
    ymin: float
    xmin: float
    ymax: float
    xmax: float


@dataclass(frozen=True)
class Instance:
    """A picture to be looked at: its file, and the key that comes back with the reply."""

    key: Key
    picture: bytes


class _ImageBytes(BaseModel):
    b64: str


class _Instance(BaseModel):
    image_bytes: _ImageBytes
    key: Key = ""


class _Params(BaseModel):
    max_bounding_box_count: Annotated[int, Field(ge=1)] = BOXES_MAX


class _Request(BaseModel):
    instances: Annotated[list[_Instance], Field(min_length=1)]
    params: list[_Params] | None = None


class _Prediction(BaseModel):
    key: Key = ""
    detection_boxes: list[tuple[float, float, float, float]]
    detection_scores: list[float]
    detection_classes_as_text: list[str]


class _Reply(BaseModel):
    predictions: list[_Prediction]


def encode_request(instances: Sequence[Instance], most: int = BOXES_MAX) -> bytes:
    """Return the body of a request.

    Parameters
    ----------
    instances
        Pictures, their files unchanged.
    most
        Boxes wanted of each.
    """
    return json.dumps(
        {
            "instances": [
                {
                    "image_bytes": {"b64": base64.b64encode(each.picture).decode()},
                    "key": each.key,
                }
                for each in instances
            ],
            "params": [{"max_bounding_box_count": str(most)}],
        }
    ).encode()


def decode_request(body: bytes) -> tuple[list[Instance], int]:
    """Return the pictures of a request, and how many boxes are wanted of each.

    Raises
    ------
    DataError
        If it is no such request.
    """
    request = _read(_Request, body)
    try:
        instances = [
            Instance(each.key, _decoded(each.image_bytes.b64)) for each in request.instances
        ]
    except ValueError as error:
        raise DataError(f"instances: image_bytes: b64: no base64 ({error})") from error
    return instances, request.params[0].max_bounding_box_count if request.params else BOXES_MAX


def _decoded(text: str) -> bytes:
    """Return what base64 says; in lines, as Python's `encodebytes` gives it, and unpadded too."""
    text = "".join(text.split())
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def encode_reply(
    found: Sequence[tuple[Key, Sequence[Box]]], classes: Sequence[str], most: int = BOXES_MAX
) -> bytes:
    """Return the body of a reply.

    Parameters
    ----------
    found
        Key and boxes of each picture. Boxes go out by falling score, `BOXES_MIN` or more but at
        most `most`: boxes of the whole picture, of a score below 0.01, fill up.
    classes
        All names; their places, from 1, are the numbers.
    most
        Boxes of a picture.
    """
    return json.dumps(
        {"predictions": [_prediction(key, boxes, classes, most) for key, boxes in found]}
    ).encode()


def _prediction(
    key: Key, boxes: Sequence[Box], classes: Sequence[str], most: int
) -> Mapping[str, Any]:
    padding = [
        Box(classes[0], PADDING_SCORE / (i + 1), 0.0, 0.0, 1.0, 1.0)
        for i in range(BOXES_MIN - len(boxes))
    ]
    best = sorted([*boxes, *padding], key=lambda box: box.score, reverse=True)[:most]
    return {
        "key": key,
        "detection_boxes": [[box.ymin, box.xmin, box.ymax, box.xmax] for box in best],
        "detection_scores": [box.score for box in best],
        "detection_classes_as_text": [box.kind for box in best],
        "detection_classes": [float(classes.index(box.kind) + 1) for box in best],
        "num_detections": float(len(best)),
    }


def decode_reply(body: bytes, key: Key) -> list[Box]:
    """Return the boxes of the picture that was sent with a key, by falling score.

    Raises
    ------
    DataError
        If it is no such reply, or not to that picture.
    """
    reply = _read(_Reply, body)
    mine = next((each for each in reply.predictions if str(each.key) == str(key)), None)
    if mine is None:
        keys = ", ".join(repr(each.key) for each in reply.predictions) or "none"
        raise DataError(f"predictions: keys {keys}, expected {key!r}")
    lists = mine.detection_classes_as_text, mine.detection_scores, mine.detection_boxes
    counts = [len(each) for each in lists]
    if len(set(counts)) > 1:
        found = "{} classes, {} scores, {} boxes".format(*counts)
        raise DataError(f"predictions: {found}, expected as many of each")
    boxes = [Box(kind, score, *corners) for kind, score, corners in zip(*lists, strict=True)]
    whole = [box for box in boxes if all(map(math.isfinite, astuple(box)[1:]))]
    return sorted(whole, key=lambda box: box.score, reverse=True)


def _read(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(map(str, first["loc"])) or "body"
        raise DataError(f"{where}: {first['msg']}") from error
