"""The newest series of a DHS: what was found in its pictures so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
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
        Of the raw run.
    pictures
        Number of pictures that were searched so far.
    results
        Of the detection.
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
    values = {} if stream is None else _values(stream, *CHARTS)
    count = min((len(each) for each in values.values()), default=0)
    return SeriesShown(summary, count, results, words, _draw(values, count) if count else [])


def _values(stream: Stream, *names: str) -> dict[str, np.ndarray]:
    columns = {name: stream.column(name) for name in names}
    return {
        name: column.read(slice(0, column.shape[0])).astype(np.float64)
        for name, column in columns.items()
        if column is not None
    }


def _draw(values: Mapping[str, np.ndarray], count: int) -> list[Markup]:
    """Draw each number of the pictures that is known of one of them."""
    index = np.arange(count, dtype=np.float64)
    charts = []
    for name, (label, style, y_label, title) in CHARTS.items():
        if name in values and np.isfinite(values[name][:count]).any():
            marks = [Marks(label, index, values[name][:count], style)]
            charts.append(draw_chart(marks, [], "picture", y_label, title))
    return charts
