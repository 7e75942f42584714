"""Recordings of images in areaDetector's layout."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from skywright.acquire.acquisition import RefusedError
from skywright.acquire.image_layout import Image, ImageLayout
from skywright.acquire.recorder import Recorder
from skywright.files import areadetector
from skywright.files.columns import Column

GAIN = Column(f"{areadetector.ATTRIBUTES}/gain", "|u1")
TIME_NS = 1_700_000_000_123_456_789


def test_images_of_all_sizes_and_types_are_recorded_or_counted(tmp_path: Path) -> None:
    recorder: Recorder[Any, Any] = Recorder(ImageLayout(extra=(GAIN,)))
    recorder.start(tmp_path / "a.h5")
    first = np.arange(12, dtype=np.uint16).reshape(3, 4)
    images = [
        first,
        first[:2, :3],
        first.astype(">u2"),
        first.astype(float),
        np.zeros((4, 4), "u2"),
        np.zeros((3, 4, 3), "u2"),  # in color
    ]
    for number, image in enumerate(images):
        recorder.offer(Image(number, TIME_NS + number, image, {GAIN.path: 7}))
    recorder.offer(Image(9, TIME_NS, first, {GAIN.path: 256}))
    recorder.offer(Image(10, -1, first, {GAIN.path: 8}))  # before 1990
    recorder.offer(Image(11, 5 * 10**18, first, {GAIN.path: 8}))  # after 2126
    recorder.close()
    assert recorder.lost == {
        "images wrong size": 2,
        "images wrong dtype": 1,
        "images does not fit": 1,
    }
    with h5py.File(tmp_path / "a.h5") as file:
        assert file[areadetector.UNIQUE_ID][:].tolist() == [0, 1, 2, 10, 11]
        assert file["/entry/instrument/detector/data"] == file[areadetector.IMAGE]
        stored = file[areadetector.IMAGE][:]
        np.testing.assert_array_equal(stored[[0, 2, 3, 4]], [first] * 4)
        np.testing.assert_array_equal(stored[1, :2, :3], first[:2, :3])
        assert not stored[1, 2].any()
        assert file[areadetector.WIDTH][:].tolist() == [4, 3, 4, 4, 4]
        assert file[areadetector.EPICS_SECONDS][:].tolist() == [
            *[1_700_000_000 - areadetector.EPICS_EPOCH_S] * 3,
            0,
            2**32 - 1,
        ]
        assert file[areadetector.EPICS_NANOSECONDS][0] == 123_456_789
        assert file[GAIN.path][:].tolist() == [7, 7, 7, 8, 8]


def test_an_image_that_is_rejected_leaves_the_error_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    recorder: Recorder[Any, Any] = Recorder(ImageLayout(), synchronous=True)
    recorder.start(tmp_path / "a.h5")
    fits, larger = np.zeros((2, 2), "|u1"), np.zeros((3, 3), "|u1")
    recorder.offer(Image(1, TIME_NS, fits))
    with monkeypatch.context() as patched:
        patched.setattr(areadetector.ImageWriter, "append", full)
        with pytest.raises(RefusedError, match=r"^images: disk full$"):
            recorder.offer(Image(2, TIME_NS, fits))
    with pytest.raises(RefusedError, match=r"^images$"):  # for its size, not for the disk
        recorder.offer(Image(3, TIME_NS, larger))
    assert recorder.error == "disk full"
    recorder.offer(Image(4, TIME_NS, fits))
    assert recorder.error == ""
    recorder.close()
