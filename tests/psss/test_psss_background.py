"""The mean of pictures as a background, from pulses and from a file."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from support.limits import full_disk
from support.psss_scripted import make_pulse

from skywright.errors import ConfigError, DataError, HardwareError
from skywright.instruments.psss.background import History, record, uploaded
from skywright.instruments.psss.settings import digest_of


class FedProcessor:
    """Gives results of some pulses to who subscribes."""

    is_started = True

    def __init__(self, *images: Any, queued: Sequence[Any] = ()) -> None:
        self._queued = [make_pulse(20 + number, image) for number, image in enumerate(queued)]
        self._next = enumerate(images, 30)

    def subscribe(self, depth: int) -> "FedProcessor":
        return self

    def get(self, timeout_s: float) -> Any:
        pulse = self._queued.pop(0) if self._queued else make_pulse(*next(self._next))
        return SimpleNamespace(pulse=pulse)

    def close(self) -> None:
        pass


def test_a_background_is_the_mean_of_pictures_of_one_size() -> None:
    def picture(level: int, rows: int = 3) -> Any:
        return np.full((rows, 4), level, np.uint16)

    processor = FedProcessor(
        *(picture(65_000, rows=2), picture(1, rows=2), picture(65_000), None),
        *(picture(65_001), picture(65_002), picture(9)),
    )
    found = record(processor, 3, "dark", 60.0)  # type: ignore[arg-type]
    assert found.pixels.shape == found.info.shape == (3, 4)
    assert (found.pixels == 65_001).all()
    assert (found.info.pulses, found.info.first_pulse_id, found.info.last_pulse_id) == (3, 32, 35)


def test_pulses_that_came_before_a_recording_are_not_in_its_background() -> None:
    """They wait for their processing, and may have been exposed before the shutter was closed."""
    light, dark = np.full((3, 4), 500, np.uint16), np.full((3, 4), 2, np.uint16)
    processor = FedProcessor(dark, dark, queued=[light] * 5)
    found = record(processor, 2, "dark", 60.0)  # type: ignore[arg-type]
    assert (found.pixels == 2).all()
    assert (found.info.first_pulse_id, found.info.last_pulse_id) == (30, 31)


def test_a_background_of_a_file_keeps_the_fractions_of_a_mean(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["pictures"] = np.full((3, 4, 3), (1, 4, 65_535), np.uint16).transpose(2, 0, 1)
    found = History(tmp_path).read_file("frames.h5", "pictures", "")
    np.testing.assert_array_equal(found.pixels, np.float32(65_540 / 3))
    assert (found.info.name, found.info.shape) == ("frames.h5", (3, 4))


def test_of_backgrounds_with_one_name_the_digest_chooses(tmp_path: Path) -> None:
    pictures = [np.full((3, 4), level, np.uint16) for level in (1, 2)]
    history = History(tmp_path)
    for picture in pictures:
        history.keep(uploaded("dark", picture))
    for known in (history, History(tmp_path)):  # as it is after a restart, too
        assert (known.load("dark").pixels == 2).all()
        for picture in pictures:
            found = known.load("dark", digest_of("dark", picture))
            np.testing.assert_array_equal(found.pixels, picture)
        with pytest.raises(ConfigError, match="not in the history, which has dark"):
            known.load("dark", digest_of("dark", pictures[0] + 7))


def test_a_full_disk_refuses_a_background_and_the_process_goes_on(tmp_path: Path) -> None:
    """HDF5 would end the process after a write that failed."""
    history = History(tmp_path)
    with full_disk(1000), pytest.raises(HardwareError, match="cannot be kept"):
        history.keep(uploaded("dark", np.arange(120_000.0).reshape(300, 400)))
    assert list(tmp_path.iterdir()) == []
    assert history.keep(uploaded("dark", np.ones((3, 4)))).name == "dark"


def test_a_damaged_file_of_a_background_is_named(tmp_path: Path) -> None:
    """A list leaves it out: other programs put files there too."""
    picture = np.full((3, 4), 1, np.uint16)
    path = tmp_path / History(tmp_path).keep(uploaded("dark", picture)).file
    path.write_bytes(path.read_bytes()[:-200])
    history = History(tmp_path)
    with pytest.raises(DataError, match=f"{path.name}: cannot be read"):
        history.load("dark", digest_of("dark", picture))
    assert history.list() == []


def test_a_file_of_the_history_is_read_once_after_each_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path)
    path = tmp_path / history.keep(uploaded("dark", np.ones((3, 4)))).file
    good = path.read_bytes()
    path.write_bytes(good[:-200])
    for _ in range(3):
        assert history.list() == []
    assert [f"{path.name}: cannot be read" in text for text in caplog.messages] == [True]
    path.write_bytes(good)
    assert [info.shape for info in history.list()] == [(3, 4)]
    other = tmp_path / history.keep(uploaded("other", np.ones((5, 6)))).file
    assert len(history.list()) == 2
    other.replace(path)
    assert [(info.name, info.file) for info in history.list()] == [("other", path.name)]


def test_a_name_that_cannot_be_kept_is_refused_before_pulses_are_taken() -> None:
    with pytest.raises(ConfigError, match="control characters"):
        record(FedProcessor(), 1, "dark\n", 60.0)  # type: ignore[arg-type]
