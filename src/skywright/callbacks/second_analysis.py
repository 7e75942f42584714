"""Runs a second-stage analysis live, over the rows of the first analysis."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skywright.analysis import Analysis, Batch
from skywright.analysis.inputs import concatenate
from skywright.analysis.second import SecondRun, SecondStage
from skywright.callbacks.derived import DerivedRun, scalar_values
from skywright.callbacks.drawing import Draw, until_drawn
from skywright.callbacks.stream_documents import Emit
from skywright.errors import DataError, SkywrightError

log = logging.getLogger(__name__)


class SecondAnalysis:
    """A second-stage analysis of a raw run, its answers and its derived run.

    Parameters
    ----------
    name
        Name of the analysis.
    stage
        The second-stage analysis.
    start
        Start document of the raw run.
    emit
        Takes the derived documents.
    assets
        Root directory of assets.
    draw
        Draws the final result.
    """

    def __init__(
        self,
        name: str,
        stage: SecondStage,
        start: Mapping[str, Any],
        emit: Emit,
        assets: Path,
        draw: Draw,
    ) -> None:
        self.name = name
        self._begun: SecondRun | Exception
        try:
            self._begun = stage.begin_run(start)
        except Exception as error:  # the first analysis goes on
            log.exception("%s: run %s cannot begin", name, start["uid"])
            self._begun = error
        self.draw_until = math.inf
        """Deadline of the pictures, see `until_drawn`."""
        self._draw = draw
        self._start, self._emit, self._assets = start, emit, assets
        self._rows: list[Batch] = []
        self._requested = self._frames = 0
        self._facts: dict[str, Any] = {}
        self._answered = 0
        self._steps: Iterator[None] | None = None

    @property
    def second_run(self) -> SecondRun:
        """The analysis of this raw run; if it could not begin, the error of that is raised."""
        if isinstance(self._begun, Exception):
            raise self._begun
        return self._begun

    def take(self, name: str, doc: Mapping[str, Any]) -> None:
        """Process a document of the raw run; a failure is logged."""
        if isinstance(self._begun, Exception):
            return
        try:
            self._begun(name, doc)
        except Exception:  # the first analysis goes on
            log.exception("%s: %s document could not be processed", self.name, name)

    def add(self, rows: Batch) -> None:
        """Add rows of the first analysis, in the order of their file."""
        if len(rows):
            self._rows.append(rows)

    def note_request(self, number: int, frames: int) -> None:
        """Note a request for the result over at least the first `frames` frames."""
        self._requested, self._frames = number, frames

    def answer(self, reached: float) -> bool:
        """Compute the requested result, if the first analysis has reached the requested frames.

        Returns
        -------
        bool
            Whether there is a new answer.
        """
        if self._answered == self._requested or reached < self._frames:
            return False
        self._answered = self._requested
        self._facts = {"answered": self._requested, "error": "", "error_type": ""}
        try:
            analysis, _ = self._compute()
            self._facts["result"] = _scalars(analysis)
        except Exception as error:  # whatever it is, the plan must see it
            self._fail(error)
        return True

    def finish_steps(self, stream: str, inputs: Mapping[str, str]) -> Iterator[None]:
        """Write the derived run, once, as soon as its pictures are drawn; yield until then.

        A further call continues the steps of the first call. A failure is logged and reported.

        Parameters
        ----------
        stream
            Name of the raw run's stream that the first analysis used.
        inputs
            Uid of the first analysis's derived run, by name of that analysis.
        """
        if self._steps is None:
            self._steps = self._finish(stream, inputs)
        return self._steps

    def _finish(self, stream: str, inputs: Mapping[str, str]) -> Iterator[None]:
        try:
            if not (self.second_run.fits and self._rows):
                return
            self._facts = {"answered": self._requested, "error": "", "error_type": ""}
            analysis, members = self._compute()
            drawn = self._draw((self.second_run, analysis, members, _scalars(analysis)))
            what = f"{self.name}: run {self._start['uid']}"
            pictures = yield from until_drawn(drawn, lambda: self.draw_until, what)
            self._derive(analysis, members, stream, inputs, pictures or {})
        except Exception as error:  # the first analysis must end as it would without this one
            self._fail(error)
            log.error("%s: run %s has no derived run: %s", self.name, self._start["uid"][:8], error)

    def take_facts(self) -> dict[str, Any]:
        """Return what is new since the last call, for the session."""
        facts, self._facts = self._facts, {}
        return facts

    def _compute(self) -> tuple[Analysis[Any], Batch]:
        if not self._rows:
            raise DataError(f"run {self._start['uid'][:8]} has no row yet")
        self._rows = [concatenate(self._rows)]
        analysis, members = self.second_run.prepare(self._rows[0])
        analysis.update(members)
        return analysis, members

    def _derive(
        self,
        analysis: Analysis[Any],
        members: Batch,
        stream: str,
        inputs: Mapping[str, str],
        pictures: Mapping[str, bytes],
    ) -> None:
        derived = DerivedRun(
            analysis.fresh(), self._start, self._emit, self._assets, inputs, stream=stream
        )
        self._facts["derived_uid"] = derived.uid
        try:
            derived.add(members)
        except Exception as error:
            derived.fail(error)
            raise
        why = self.second_run.failure(_scalars(analysis))
        derived.close("fail" if why else "success", why, pictures, keeps_result=True)
        self._facts |= {
            "rows": derived.rows,
            "columns_path": str(derived.columns_path),
            "result": derived.scalars(),
        }

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, SkywrightError):
            log.exception("%s: run %s", self.name, self._start["uid"])
        self._facts |= {"error": str(error), "error_type": type(error).__name__}


def _scalars(analysis: Analysis[Any]) -> dict[str, Any]:
    """Return the number of members and the scalar results."""
    return {"n_frames": analysis.members, **scalar_values(analysis.result())}
