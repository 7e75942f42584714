"""The source of shots as a device, with what its IOC posts sent by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.sacla.columns import shot_columns
from devices.sacla.shots import Point, Shots
from skywright.errors import HardwareError


class HandPosted(Shots):
    """Reads from a dictionary what an IOC would answer, by the attribute's name."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__("NOBODY:", assets=tmp_path, name="sacla")
        self.answers: dict[str, Any] = {}
        self.heartbeat_limit.put(0.0)
        self.settle_time.put(0.0)

    def _read_now(self, signal: Any) -> Any:
        return self.answers[signal.attr_name]


@pytest.fixture
def sacla(tmp_path: Path) -> HandPosted:
    device = HandPosted(tmp_path)
    device.rows._present_columns = lambda: shot_columns(1, ())
    device.rows.begin(str(tmp_path / "mine.h5"))
    return device


@pytest.mark.parametrize("files", [[], [["other.h5", [0, 0, 0, 0]]]])
def test_rows_after_a_restart_of_the_ioc_are_not_documented(
    sacla: HandPosted, files: list[Any]
) -> None:
    """The plan pauses; meanwhile the IOC is restarted, and another client may record."""
    sacla._on_rows(sacla.rows, 10)
    sacla._on_rows(sacla.rows, 0)
    sacla._on_rows(sacla.rows, 50)
    sacla.answers["files"] = json.dumps(files)
    assert sacla.rows.rows == 10
    with pytest.raises(HardwareError, match=r"lost the IOC .* the IOC was restarted"):
        list(sacla.rows.collect_asset_docs())


def test_the_masks_of_a_region_set_are_described_as_the_ioc_writes_them(
    sacla: HandPosted,
) -> None:
    """A mask may be of a detector that the present run lacks, and that is larger."""
    regions = "dots:E:mask= all:D:0,0;9,0;9,9"
    sacla.answers |= {"regions": regions, "shapes": [6, 8], "mask_bytes": 32}
    described = sacla.region_sets.describe_collect()
    assert described["sacla_set_mask"]["shape"] == [16, 32]
    sacla.answers["mask_bytes"] = 0
    assert "sacla_set_mask" not in sacla.region_sets.describe_collect()


def test_shots_that_came_while_a_point_reads_are_counted(
    sacla: HandPosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shot comes after them, as at the end of a replay."""

    def segments(start: int, stop: int) -> list[tuple[str, int, int]]:
        sacla._on_rows(sacla.rows, 7)
        return [("mine.h5", start, stop)]

    def read(point: Point, path: Path, start: int, stop: int, most: int) -> None:
        point._shots = np.zeros((3, point.count + stop - start))

    monkeypatch.setattr(sacla.rows, "segments", segments)
    monkeypatch.setattr(Point, "read", read)
    sacla.answers |= {"regions": "all:D:0,0;9,0;9,9", "run_number": 7, "next_identity": 0}
    sacla.shots_per_point.put(7)
    sacla.silence_limit.put(1.0)

    def wait(reached: Callable[[], bool]) -> None:
        if sacla.rows.rows == 0:
            sacla._on_rows(sacla.rows, 3)
        assert reached(), "it waits for a further shot"

    monkeypatch.setattr(sacla, "_wait", wait)
    sacla._take_point()
    assert sacla.n_off.get() == 7
