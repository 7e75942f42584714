"""A derived run, whatever becomes of its disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.derived import Derived

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.derived import DerivedRun


@pytest.fixture
def docs() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def derived(tmp_path: Path, docs: list[tuple[str, Any]]) -> DerivedRun:
    raw = {"uid": "raw", "scan_id": 7, "sample": "x", "plan_name": "count", "proposal": 3}
    run = DerivedRun(PictureStatistics(), raw, lambda *each: docs.append(each), tmp_path)
    numbers = np.arange(3)
    pictures = np.full((3, 4, 5), 9, np.uint8)
    run.add(Batch(numbers, numbers * 1.0, {"image": pictures}))
    return run


def test_takes_over_what_the_sample_is_and_not_what_the_plan_was(
    derived: DerivedRun, docs: list[tuple[str, Any]]
) -> None:
    start = docs[0][1]
    assert (start["sample"], start["proposal"], start["raw_scan_id"]) == ("x", 3, 7)
    assert "plan_name" not in start
    derived.close()


def test_a_second_close_does_nothing(derived: DerivedRun, docs: list[tuple[str, Any]]) -> None:
    derived.close("fail", "the first reason")
    derived.close()
    stops = Derived(docs).of("stop")
    assert [stop["reason"] for stop in stops] == ["the first reason"]
    derived_rows = np.frombuffer(Derived(docs).columns()["identity"], "<i8")
    assert derived_rows.tolist() == [0, 1, 2]  # what was measured before the failure is kept


def test_what_cannot_be_kept_at_the_end_is_no_success(
    derived: DerivedRun, docs: list[tuple[str, Any]]
) -> None:
    with pytest.raises(FileNotFoundError):
        derived.close(pictures={"no/such/directory.png": b"x"})
    stop = Derived(docs).stop
    assert stop is not None
    assert stop["exit_status"] == "fail"
    assert "FileNotFoundError" in stop["reason"]


def test_a_run_without_frames_has_a_result_that_says_so(
    tmp_path: Path, docs: list[tuple[str, Any]]
) -> None:
    run = DerivedRun(PictureStatistics(), {"uid": "raw"}, lambda *e: docs.append(e), tmp_path)
    run.close()
    result = Derived(docs).result
    assert (result["n_frames"], result["last_identity"]) == (0, -1)
    assert np.isnan(result["mean_level"])
    assert Derived(docs).start["raw_scan_id"] == -1
