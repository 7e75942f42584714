"""Rows by the numbers that a machine gives them, whatever these are called."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from store.recording import Recording, scalar
from support.streaming import StreamingCamera, noise

from skywright.errors import DataError
from skywright.store.ingest import IngestState, ingest
from skywright.store.pulses import PulseRows

FIRST = 7000


@pytest.fixture
def run(journals: Path, client: Any) -> Any:
    """Five pictures numbered from `FIRST`, in a stream of their own beside the events."""
    camera = StreamingCamera("cam", journals, first=FIRST, burst=5)
    camera.stage()
    camera.kickoff()
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.stream("shots", **camera.describe())
    recording.collect(camera, 1, "shots")
    recording.event(x=0.0)
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    return client["raw"][recording.uid]


def test_identity_and_stream_have_any_name(run: Any) -> None:
    rows = PulseRows(run, "image", identity="frame_number")
    found = rows.between(FIRST + 1, FIRST + 3, ("image",))
    assert found["frame_number"].tolist() == [FIRST + 1, FIRST + 2]
    np.testing.assert_array_equal(found["image"], [noise(FIRST + 1), noise(FIRST + 2)])


def test_what_is_missing_is_named(run: Any) -> None:
    with pytest.raises(DataError, match="no stream has rows with pulse_id and spectrum"):
        PulseRows(run)
    with pytest.raises(DataError, match="no column cam_spectrum"):
        PulseRows(run, "image", "frame_number").between(FIRST, FIRST + 1, ("spectrum",))


class Stored:
    """A column as tiled's client gives it."""

    structure_family = "array"

    def __init__(self, values: list[int]) -> None:
        self._values = np.array(values)
        self.shape, self.dtype = self._values.shape, self._values.dtype

    def read(self) -> np.ndarray:
        return self._values

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._values[rows]


def shots(ids: list[int]) -> Any:
    """A stream; its second column has the numbers of the rows."""
    columns = {"cam_pulse_id": Stored(ids), "cam_row": Stored([*range(len(ids))])}
    data_keys: dict[str, Any] = {key: {} for key in columns}
    return SimpleNamespace(base=columns, metadata={"data_keys": data_keys})


@pytest.mark.parametrize("ids", [[10, 11, 12, 12, 14], [10, 12, 11, 14, 12], [14, 10, 12, 12, 11]])
def test_pulses_are_in_order_though_an_id_comes_late(ids: list[int]) -> None:
    run: Any = {"primary": shots(ids)}
    rows = PulseRows(run, "row")
    for first, stop in ((10, 12), (11, 13), (12, 13), (0, 99), (13, 14), (12, 11)):
        found = rows.between(first, stop, ("row",))
        inside = [(each, row) for row, each in enumerate(ids) if first <= each < stop]
        assert [*zip(found["pulse_id"], found["row"], strict=True)] == sorted(inside)
