"""A second-stage analysis for tests: the mean level of pictures over the place of a motor."""

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from skywright.analysis import Analysis, Batch, join_by_identity
from skywright.analysis.second import Document, SecondRun, SecondStage
from skywright.errors import ConfigError
from skywright.files.columns import Column

SLOPE = "support.second_stages:SlopeStage"
MOTOR = "motor"


class Slope(Analysis[Batch]):
    """Fits a line through levels over places."""

    name = "slope"
    version = "1"
    inputs = ("mean", "place")
    columns = (Column("place", "<f8"), Column("level", "<f8"))
    results = (
        Column("slope", "<f8", attrs={"description": "level by place"}),
        Column("last_place", "<f8", attrs={"description": "place of the last picture"}),
    )

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        return {"place": batch["place"], "level": batch["mean"]}

    def statistic(self, members: Batch) -> Batch:
        return members

    def fold(self, prefix: Batch | None, statistic: Batch) -> Batch:
        return statistic if prefix is None else join_by_identity([prefix, statistic])

    def summarize(self, state: Batch | None) -> Mapping[str, Any]:
        if state is None:
            return {"slope": np.nan, "last_place": np.nan}
        place, level = state["place"], state["level"]
        slope = np.polyfit(place, level, 1)[0] if np.ptp(place) else np.nan
        return {"slope": slope, "last_place": place[-1]}


class SlopeRun(SecondRun):
    """Takes the places from the events; the metadata ``trouble`` makes it fail."""

    def __init__(self, start: Document) -> None:
        self.start = start
        self.places: list[float] = []

    def __call__(self, name: str, doc: Document) -> None:
        if name == "event" and MOTOR in doc["data"]:
            self.places.append(doc["data"][MOTOR])

    @property
    def fits(self) -> bool:
        if self.start.get("trouble") == "fits":
            raise ValueError("no slope today")
        return bool(self.places)

    def prepare(self, rows: Batch) -> tuple[Analysis[Any], Batch]:
        errors = {"config": ConfigError, "bug": ZeroDivisionError}
        if (trouble := self.start.get("trouble")) in errors:
            raise errors[trouble]("no slope today")
        data = {**rows.data, "place": np.array(self.places[: len(rows)])}
        return Slope(), Batch(rows.identities, rows.times, data)

    def draw(self, *_: Any) -> Iterator[tuple[str, bytes]]:
        yield "slope.txt", b"a line"
        if self.start.get("breaks_off"):
            raise OSError("no ink")

    def failure(self, result: Mapping[str, Any]) -> str:
        return "" if np.isfinite(result["slope"]) else "one place only"


class DeadlyRun(SlopeRun):
    """Takes the process down that draws it, as a fault in compiled code would."""

    def draw(self, *_: Any) -> Iterator[tuple[str, bytes]]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield "", b""


class SlopeStage(SecondStage):
    """The stage."""

    analysis = Slope

    def begin_run(self, start: Document) -> SlopeRun:
        if start.get("trouble") == "begin":
            raise ValueError("no slope today")
        return SlopeRun(start)

    def event_keys(self, start: Document) -> frozenset[str]:
        self.begin_run(start)  # fails alike
        return frozenset({MOTOR})
