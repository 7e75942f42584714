"""One stream of a raw run and its analysis, in the process of the test."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.stream_analysis import BacklogLimits, StreamAnalysis
from skywright.errors import ConfigError


def analyze(
    tmp_path: Path, make: Callable[[Mapping[str, Any]], PictureStatistics]
) -> tuple[StreamAnalysis, list[Any]]:
    """Return the analysis of a stream that has begun, and the list of its derived documents."""
    run = RawRun({"uid": "a", "time": 1e9}, RequiredKeys.of(PictureStatistics, {}))
    image = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
    descriptor = {
        "uid": "b",
        "run_start": "a",
        "name": "primary",
        "data_keys": {"cam_image": {**image, "external": "STREAM:"}},
        "configuration": {"cam": {"data": {"cam_gain": 7}}},
    }
    run("descriptor", descriptor)
    documents: list[Any] = []
    with ThreadPoolExecutor(1) as drawer:
        stream = StreamAnalysis(
            run.streams["primary"],
            make,
            lambda name, doc: documents.append((name, doc)),
            tmp_path,
            BacklogLimits(),
            drawer,
        )
    return stream, documents


def test_rows_that_cannot_be_written_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, documents = analyze(tmp_path, lambda _: PictureStatistics())
    assert not stream.step()

    def fail() -> None:
        raise OSError("disk full")

    monkeypatch.setattr(stream.derived, "tick", fail)
    assert stream.write_due() == 0.0
    assert stream.step()  # something to report
    assert stream.progress()["reason"] == "OSError: disk full"
    assert documents[-1][0] == "stop"
    assert not stream.step()
    assert stream.write_due() is None


def test_a_configuration_that_does_not_fit_is_reported_as_a_fault_of_it(tmp_path: Path) -> None:
    def make(configuration: Mapping[str, Any]) -> PictureStatistics:
        if configuration:
            raise ConfigError("analysis pictures: no gain 7")
        return PictureStatistics()

    stream, documents = analyze(tmp_path, make)
    assert stream.progress()["error_type"] == "ConfigError"
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["reason"] == "ConfigError: analysis pictures: no gain 7"
