"""Live analyses over a store of a test, and the results that they must have."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.derived import Derived, read_derived
from support.streaming import StreamingCamera, noise

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.live import LiveAnalysis

Start = Callable[..., LiveAnalysis]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a live analysis over the store in tmp_path."""
    tests = str(Path(__file__).parents[1])  # for support.odd_analyses
    monkeypatch.setenv("PYTHONPATH", tests, prepend=os.pathsep)
    started: list[LiveAnalysis] = []

    def start(name: str = "picture_statistics", *args: Any, **options: Any) -> LiveAnalysis:
        live = LiveAnalysis(
            name, *args, journal=tmp_path / "journal", assets=tmp_path / "assets", **options
        )
        started.append(live)
        return live

    yield start
    for live in started:
        live.close()


@pytest.fixture
def camera(tmp_path: Path) -> StreamingCamera:
    return StreamingCamera("cam", tmp_path / "assets")


def finished(tmp_path: Path) -> list[Derived]:
    return [run for run in read_derived(tmp_path / "journal") if run.stop]


def expected(numbers: range) -> dict[str, Any]:
    """The result by the analysis alone."""
    analysis = PictureStatistics()
    pictures = np.array([noise(i) for i in numbers])
    identities = np.array(numbers, np.int64)
    analysis.update(Batch(identities, identities * 0.0, {"image": pictures}))
    return analysis.result()


def kill(live: LiveAnalysis) -> None:
    if live.worker_pid is not None:
        os.kill(live.worker_pid, signal.SIGKILL)
