"""Plots of columns of runs: one against another, of one run or several; rows as an image."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from tiled.client.container import Container

from dashboard.chart import LARGEST, Curve, Marks, draw_chart, style_of
from dashboard.color_map import color_limits, false_color_png
from skywright.errors import DataError
from skywright.store.export.contents import (
    Column,
    RunContents,
    Stream,
    read_contents,
    scanned_fields,
)
from skywright.store.lookup import as_mapping, find_run, time_of
from skywright.store.pictures import holds_frames
from skywright.store.show import ColumnView, RunView, StreamView
from skywright.words import local_time

Floats = NDArray[np.float64]
ROW, TIME = "row", "time"
"""Not columns of a device: the number of the row, and the time of the event."""
RUNS_MAX = 4
ROWS_MAX = 1_000_000
"""Rows of a column that are read; of longer ones each n-th."""
MARKS_MAX = 400
"""Points that are drawn one by one; more become a band from least to largest."""
BINS = 400
POINTS_MIN = 4
"""Least number of points of a part of a band: a single one is a dot that nobody sees."""
ALMOST_EQUAL = 1e-4
"""Numbers that differ by less than this fraction cannot be distinguished on an axis."""
IMAGE_ROWS, IMAGE_COLUMNS = 240, 760


@dataclass(frozen=True)
class Choice:
    """What is plotted.

    Parameters
    ----------
    stream, y, x
        Names; `x` may be `ROW` or `TIME`.
    others
        Names of runs that are laid over, as `lookup.find_run` takes them.
    """

    stream: str
    y: str
    x: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A plot in a page.

    Parameters
    ----------
    drawing
        An ``<svg>`` or ``<img>`` element; None: there is nothing to draw.
    notes
        What is not in it, in words.
    """

    drawing: Markup | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Series:
    uid: str
    label: str
    x: Floats
    y: NDArray[Any]
    x_label: str
    y_label: str
    thinned: str = ""
    """How rows and columns were reduced, in words; empty: all are drawn."""


def plottable(stream: StreamView) -> list[ColumnView]:
    """Return the columns of a stream that can be plotted: numbers, or rows of numbers."""
    return [
        column
        for column in stream.columns
        if column.is_number and len(column.shape) in (1, 2) and column.shape[0] > 1
        if not holds_frames(column)
    ]


def abscissas(stream: StreamView) -> list[str]:
    """Return what the columns of a stream can be plotted against."""
    scalars = [column.name for column in plottable(stream) if len(column.shape) == 1]
    return [ROW, *([TIME] if stream.events else []), *scalars]


def choose(view: RunView, asked: Mapping[str, str]) -> Choice | None:
    """Return what to plot of a run: as asked, else what its documents hint at.

    Parameters
    ----------
    view
        The run.
    asked
        ``y``: a column as ``stream/name``; ``x``; ``with``: names of runs, with blanks between.
        An ``x`` that is none of `abscissas` is replaced by the default.

    Returns
    -------
    Choice or None
        None: the run has nothing to plot.

    Raises
    ------
    DataError
        If the run has no such column.
    """
    streams = [stream for stream in view.streams if plottable(stream)]
    if not streams:
        return None
    name, _, y = asked.get("y", "").partition("/")
    motors = scanned_fields(view.start)
    if name:
        stream = next((each for each in streams if each.name == name), None)
        if stream is None or y not in {column.name for column in plottable(stream)}:
            raise DataError(f"run {view.summary.uid[:8]} has no numbers {name}/{y}")
    else:
        stream = next((each for each in streams if each.name == "primary"), streams[0])
        y = _default_column(stream, motors)
    against = abscissas(stream)
    x = asked.get("x", "")
    if x not in against:
        times = [each for each in against if each == TIME or each.endswith(f"_{TIME}")]
        x = next((each for each in (*motors, *times) if each in against and each != y), ROW)
    return Choice(stream.name, y, x, tuple(asked.get("with", "").split()))


def draw_plot(client: Container, uid: str, choice: Choice) -> Plot:
    """Read the columns of a choice, and draw them.

    Parameters
    ----------
    client
        tiled client of the root.
    uid
        The run; the others are laid over it.
    choice
        From `choose`.

    Returns
    -------
    Plot
        Without a drawing if the columns of `uid` cannot be read; the notes say so.
    """
    series: list[_Series] = []
    notes: list[str] = []
    for name in (uid, *choice.others[: RUNS_MAX - 1]):
        try:
            contents = read_contents(find_run(client, name), only=(choice.stream,))
            read = _read(contents, choice)
            if series and series[0].y.ndim < read.y.ndim:
                raise DataError(f"run {read.uid}: a row of {choice.y} is not one number")
        except DataError as error:
            notes.append(str(error))
            if not series:
                return Plot(None, tuple(notes))
        else:
            series.append(read)
            notes += [read.thinned] if read.thinned else []
            if read.y.ndim == 2:
                break  # the rows of one run are the image
    left_out = choice.others[RUNS_MAX - 1 :]
    if left_out and series[0].y.ndim == 1:
        notes.insert(0, f"only {RUNS_MAX} runs are drawn, without {' '.join(left_out)}")
    nothing = Plot(None, (*notes, f"{choice.y} has no value that can be drawn"))
    if series[0].y.ndim == 2:
        if not np.isfinite(series[0].y).any():
            return nothing
        (first,), offsets = _subtract_first_values(series)
        notes.append(_image_note(first))
        notes += ["rows of numbers are drawn of the first run only"] if choice.others else []
        return Plot(_image(first), (*notes, *offsets))
    drawn = []
    for each in series:
        if np.isfinite(each.x + each.y).any():
            drawn.append(each)
        else:
            notes.append(f"run {each.uid}: {choice.y} has no value that can be drawn")
    if not drawn:
        return nothing
    series, offsets = _subtract_first_values(drawn)
    return Plot(_chart(series, choice), (*notes, *offsets))


def _default_column(stream: StreamView, motors: Sequence[str]) -> str:
    """Return the column to plot if none is chosen: a hinted scalar, else any that is no time.

    Floats before integers: those are mostly the numbers of pulses, frames and settings.
    """
    columns = [column for column in plottable(stream) if column.name not in motors]
    scalars = [column for column in columns if len(column.shape) == 1]
    scalars.sort(key=lambda column: np.dtype(column.dtype).kind != "f")
    hinted = [column for column in scalars if column.name in stream.hinted]
    values = [column for column in scalars if not column.name.endswith(TIME)]
    return [*hinted, *values, *columns, plottable(stream)[0]][0].name


def _read(contents: RunContents, choice: Choice) -> _Series:
    uid = contents.start["uid"][:8]
    stream = contents.stream(choice.stream)
    column = stream.column(choice.y) if stream is not None else None
    if stream is None or column is None:
        raise DataError(f"run {uid} has no column {choice.y} in the stream {choice.stream}")
    is_image = len(column.shape) == 2
    step = -(-column.shape[0] // (IMAGE_ROWS if is_image else ROWS_MAX)) or 1
    rows = slice(0, column.shape[0], step)
    y = _numbers(column, rows, uid, (1, 2))
    thinned = [f"1 of {step} rows is drawn"] if step > 1 else []
    if is_image and (width := -(-column.shape[1] // IMAGE_COLUMNS)) > 1:
        # The maximum keeps a line that is narrower than a pixel; `fmax` passes over NaN.
        y = np.fmax.reduceat(y, np.arange(0, column.shape[1], width), axis=1)
        thinned.append(f"a pixel is the maximum of {width} columns")
    x, x_label = _x_values(stream, choice.x, rows, contents.start)
    count = min(len(x), len(y))  # of a run that grows, one may be read later
    label = f"{run_name(contents.start)} {local_time(time_of(contents.start))}"
    note = f"run {uid}, {column.name}: {', '.join(thinned)}" if thinned else ""
    return _Series(uid, label, x[:count], y[:count], x_label, _with_unit(column), note)


def _numbers(column: Column, rows: slice, uid: str, dimensions: tuple[int, ...] = (1,)) -> Floats:
    if column.dtype.kind not in "iuf" or 0 in column.shape or len(column.shape) not in dimensions:
        raise DataError(f"run {uid}: the column {column.name} has no numbers that can be plotted")
    values = np.asarray(column.read(rows), np.float64)
    # As in a chart: sums and differences of larger numbers can be infinite.
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def run_name(start: Mapping[str, Any]) -> str:
    """Return what a run is called: its analysis, else its plan."""
    name = as_mapping(start.get("analysis")).get("name")
    return str(name or start.get("plan_name") or "run")


def _x_values(
    stream: Stream, name: str, rows: slice, start: Mapping[str, Any]
) -> tuple[Floats, str]:
    column = stream.column(name)
    if name == ROW:
        return np.arange(rows.start, rows.stop, rows.step, dtype=np.float64), ROW
    if column is None:
        raise DataError(f"run {start['uid'][:8]} has no column {name} in the stream {stream.name}")
    x = _numbers(column, rows, start["uid"][:8])
    if name == TIME or name.endswith(f"_{TIME}"):
        return x - time_of(start), f"{name}, s from the run's start"
    return x, _with_unit(column)


def _subtract_first_values(series: Sequence[_Series]) -> tuple[list[_Series], tuple[str, ...]]:
    """Subtract one offset from x, and one from y, of all curves where numbers are large.

    The offset is the first value of the first curve, where values differ little, as pulse ids do.

    Returns
    -------
    list of _Series
        The curves; they stay comparable, because all have the same offset.
    tuple of str
        What was subtracted, in words.
    """
    curves, notes = list(series), []
    for axis in ("x", "y"):
        values = [getattr(each, axis) for each in curves]
        if any(each.ndim != 1 for each in values):
            continue
        known = np.concatenate([each[np.isfinite(each)] for each in values])
        if not known.size or not 0 < np.ptp(known) < ALMOST_EQUAL * abs(known[0]):
            continue
        label, uid = getattr(curves[0], f"{axis}_label"), curves[0].uid
        notes.append(f"{label} is drawn from its first value, {known[0]:.16g} in run {uid}")
        label += ", from the first"
        curves = [
            replace(each, **{axis: getattr(each, axis) - known[0], f"{axis}_label": label})
            for each in curves
        ]
    return curves, tuple(notes)


def _with_unit(column: Column) -> str:
    units = column.data_key.get("units")
    return f"{column.name}, {units}" if units else column.name


def _chart(series: Sequence[_Series], choice: Choice) -> Markup:
    marks, curves = [], []
    for k, each in enumerate(series):
        style, is_square = style_of(k)
        is_few = len(each.y) <= MARKS_MAX
        x, y = (each.x, each.y) if is_few else _band(each.x, each.y)
        label = each.label if len(series) > 1 else ""
        nothing = np.empty(0)
        points = (x, y) if is_few else (nothing, nothing)
        if label or is_few:
            marks.append(Marks(label, *points, style, is_square))
        curves.append(Curve(x, y, style))
    title = f"{choice.y} against {choice.x}"
    return draw_chart(marks, curves, series[0].x_label, series[0].y_label, title)


def _band(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return a line from the least to the largest value in each of at most `BINS` parts.

    Lines between the parts would look like slopes that the data do not have.
    """
    order = np.argsort(x, kind="stable")
    order = order[np.isfinite(x[order] + y[order])]
    places, values = [], []
    for part in np.array_split(order, min(BINS, max(1, len(order) // POINTS_MIN))):
        if len(part):
            places += [x[part].mean()] * 3
            values += [y[part].min(), y[part].max(), np.nan]
    return np.array(places), np.array(values)


def _image(series: _Series) -> Markup:
    picture = base64.b64encode(false_color_png(series.y)).decode()
    return Markup('<img class="waterfall" src="data:image/png;base64,{}" alt="{}">').format(
        picture, f"{series.y_label}: a line for each row, the first at the top"
    )


def _image_note(series: _Series) -> str:
    low, high = color_limits(series.y)
    return (
        f"{series.y_label}: from the top {series.x_label} {series.x[0]:.6g} to {series.x[-1]:.6g}, "
        f"colors from {low:.4g} to {high:.4g} (1st and 99.5th percentile)"
    )
