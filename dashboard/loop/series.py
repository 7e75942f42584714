"""The newest series of a DHS: what was found in its pictures so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from tiled.client.container import Container

from dashboard.chart import Marks, draw_chart
from skywright.instruments.loop.turn import describe_result
from skywright.store.client import RAW
from skywright.store.export.contents import Stream, read_contents
from skywright.store.lookup import RunFilter, RunSummary, derived_runs, find_runs
from skywright.store.show import final_results

PLAN = "collectLoopImages"
DETECTION, TURN = "loop_detection", "loop_turn"
CHARTS = {
    "tip_y": ("tip, down", "a", "tip, px", "Row of the tip in each picture of the series"),
    "width": ("width", "c", "width, px", "Width of the loop in each picture of the series"),
}
"""By column of the pictures: label, style, label of the axis and title."""


@dataclass(frozen=True)
class SeriesShown:
    """A series as it is shown.

    Attributes
    ----------
    summary
        Summary of the raw run.
    pictures
        Number of pictures that were searched so far.
    results
        Results of the detection.
    words
        Where the face is, in one line; empty before the end of a turn.
    charts
        Tip and width by picture.
    """

    summary: RunSummary
    pictures: int
    results: Mapping[str, Any]
    words: str
    charts: Sequence[Markup]


def newest_series(client: Container, journals: Path) -> SeriesShown | None:
    """Read the newest series of a DHS; None when the catalog has none.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    runs = find_runs(client, RunFilter(plan=PLAN), 1, journals, (RAW,))
    if not runs:
        return None
    summary, results, words, stream = runs[-1], {}, "", None
    for run in derived_runs(client, summary.uid):
        contents = read_contents(run)
        name = (contents.start.get("analysis") or {}).get("name")
        found = final_results(contents)
        if name == DETECTION:
            results = found
            stream = contents.stream("pictures")
        elif name == TURN and found:
            words = describe_result(found)
    columns = read_columns(stream, CHARTS)
    count = len(next(iter(columns.values()), ()))
    return SeriesShown(summary, count, results, words, _draw(columns))


def read_columns(stream: Stream | None, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """Return those of the columns that the stream has, by name.

    The catalog may be writing the run: of columns that grow one after another, the rows that all
    of them have are read.
    """
    columns = {} if stream is None else {name: stream.column(name) for name in names}
    known = {name: column for name, column in columns.items() if column is not None}
    rows = slice(0, min((column.shape[0] for column in known.values()), default=0))
    return {name: column.read(rows).astype(np.float64) for name, column in known.items()}


def _draw(columns: Mapping[str, NDArray[np.float64]]) -> list[Markup]:
    """Draw a chart of each column that has a value."""
    charts = []
    for name, values in columns.items():
        if np.isfinite(values).any():
            label, style, y_label, title = CHARTS[name]
            marks = [Marks(label, np.arange(len(values), dtype=np.float64), values, style)]
            charts.append(draw_chart(marks, [], "picture", y_label, title))
    return charts
