"""The source of shots as a device, with what its IOC posts sent by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from devices.sacla.columns import shot_columns
from devices.sacla.shots import Shots
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
    with pytest.raises(HardwareError, match="lost the IOC .* the IOC was restarted"):
        list(sacla.rows.collect_asset_docs())
