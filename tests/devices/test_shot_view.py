"""What the page reads of the shots: arrays that were posted together."""

from typing import Any

import pytest

from devices.sacla.view import ShotView

KEYS = ("sequence", "edges", "on_mean")


class ShotIoc:
    """An IOC that posts an update, `sequence` last, after one of its PVs was read."""

    def __init__(self, updates_after: str) -> None:
        self.values = dict.fromkeys(KEYS, 1)
        self.updates_after = updates_after

    def get(self, name: str) -> int:
        value = self.values[name]
        if name == self.updates_after:
            self.values, self.updates_after = dict.fromkeys(KEYS, 2), ""
        return value


@pytest.mark.parametrize("updates_after", KEYS)
def test_arrays_of_two_updates_are_not_read_together(
    updates_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view: Any = ShotView.__new__(ShotView)  # without the PVs of an IOC
    ioc = ShotIoc(updates_after)
    monkeypatch.setattr(view, "get", ioc.get, raising=False)
    values = view._read_together({key: key for key in KEYS})
    assert values["edges"] == values["on_mean"]
