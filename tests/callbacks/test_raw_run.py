"""Which data keys of a stream are an analysis's inputs."""

from typing import Any

import pytest

from skywright.analysis import ArrayInput
from skywright.callbacks.raw_run import RequiredKeys
from skywright.errors import DataError
from skywright.instruments.loop.analysis import LoopDetection


def key(*shape: int | None, dtype: str | None = "<u2") -> dict[str, Any]:
    described: dict[str, Any] = {"shape": list(shape), "dtype": "array", "source": ""}
    return described if dtype is None else {**described, "dtype_numpy": dtype}


@pytest.mark.parametrize(
    ("described", "fits"),
    [
        (key(), False),  # a count whose name ends alike
        (key(32, 32), False),  # a telescope's module
        (key(1024, 512, dtype="<f4"), False),  # an X-ray detector's tile
        (key(480, 704, dtype="|u1"), True),
        (key(480, 704, 3, dtype="|u1"), True),
        (key(480, 704), True),  # a camera of 12 bits
        (key(480, 704, dtype=None), True),  # a device that does not tell
        (key(None, None, dtype="|u1"), True),
    ],
)
def test_loop_detection_takes_pictures_of_video_cameras_only(
    described: dict[str, Any], fits: bool
) -> None:
    wanted = RequiredKeys.of(LoopDetection, {})
    found = wanted.find({"cam_image": described, "cam_frame_number": key()})
    assert found == ({"image": "cam_image", "frame_number": "cam_frame_number"} if fits else None)


def test_a_key_that_the_user_names_is_taken_whatever_it_is() -> None:
    wanted = RequiredKeys.of(LoopDetection, {"image": "m1_image"})
    assert wanted.find({"m1_image": key(32, 32)}) == {"image": "m1_image"}


def test_the_one_that_fits_is_taken_of_two() -> None:
    wanted = RequiredKeys(("image",), "number", "time", arrays={"image": ArrayInput(2)})
    assert wanted.find({"a_image": key(), "b_image": key(4, 4)}) == {"image": "b_image"}
    with pytest.raises(DataError, match="a_image, b_image all fit the input 'image'"):
        wanted.find({"a_image": key(4, 4), "b_image": key(4, 4)})
