"""The derived run of a rotation tells whether anything was found."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from support.seen_rotation import CALIBRATION, analysis, rotation
from support.undrawn import UndrawnRotation

from skywright.analysis import Batch
from skywright.callbacks.journal import journal_path
from skywright.instruments.loop import centering
from skywright.instruments.loop.live_rotation import Findings
from skywright.instruments.loop.spindle import Turn

START = {"uid": "1f0e7a52-6c2b-4b56-9d0f-0a4f2f6f3a11", "time": 1.0, "scan_id": 1}


class FoundRotation(UndrawnRotation):
    """ColumnCaster given rows."""

    rows: Batch

    def _fit(self, *args: Any) -> Findings:
        made = analysis()
        made.update(self.rows)
        result = {k: v.item() for k, v in made.result().items() if not np.ndim(v)}
        return Findings(made, self.rows, result)


def empty_rotation() -> Batch:
    """Pictures of a full turn in which nothing is seen."""
    seen = rotation()
    data = dict(seen.data)
    for name, values in data.items():
        if values.dtype.kind == "f" and name not in ("phi", "mean", "contrast"):
            data[name] = np.full_like(values, np.nan)
    data["kind"] = np.zeros_like(data["kind"])
    return Batch(seen.identities, seen.times, data)


@pytest.mark.parametrize(("rows", "status"), [(rotation(), "success"), (empty_rotation(), "fail")])
def test_a_rotation_without_a_loop_is_no_success(rows: Batch, status: str, tmp_path: Path) -> None:
    centering.warm_up()  # compiling is no part of the wait
    detection = Mock()
    detection.progress.return_value = Mock(derived_uid="d")
    live = FoundRotation(
        detection, Mock(return_value=CALIBRATION), journal=tmp_path, assets=tmp_path / "assets"
    )
    live.rows = rows
    live._over.put(Turn(START))
    uid = live.derived_uid(START["uid"], timeout_s=60.0)
    live.close()
    lines = journal_path(tmp_path, uid).read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    stop = next(doc for name, doc in documents if name == "stop")
    events = [doc for name, doc in documents if name == "event"]
    assert stop["exit_status"] == status
    assert bool(stop["reason"]) == (status == "fail")
    assert events[-1]["data"]["ok"] == (status == "success")
