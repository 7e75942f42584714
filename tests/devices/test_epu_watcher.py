"""The watcher of a visit without its IOC."""

from pathlib import Path

import pytest

from devices.epu.watcher import EpuWatcher
from skywright.errors import HardwareError


def test_without_its_ioc_the_device_says_that_nothing_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devices.guarded.CONNECT_S", 0.2)
    watcher = EpuWatcher("NOBODY:", assets=tmp_path)
    with pytest.raises(HardwareError, match="epu: no answer from NOBODY:"):
        watcher.stage()
