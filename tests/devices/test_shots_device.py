"""The source of shots as a device, without an IOC: what its streams describe."""

from pathlib import Path
from typing import Any

import pytest

from devices.sacla.shots import Shots


def test_the_masks_of_a_region_set_are_described_as_the_ioc_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask may be of a detector that the present run lacks, and that is larger."""
    sacla = Shots("NOBODY:", assets=tmp_path, name="sacla")
    answers: dict[Any, Any] = {sacla.regions: "dots:E:mask= all:D:0,0;9,0;9,9"}
    answers |= {sacla.shapes: [6, 8], sacla.mask_bytes: 32}
    monkeypatch.setattr(sacla, "_read_now", answers.__getitem__)
    described = sacla.region_sets.describe_collect()
    assert described["sacla_set_mask"]["shape"] == [16, 32]
    answers[sacla.mask_bytes] = 0
    assert "sacla_set_mask" not in sacla.region_sets.describe_collect()
