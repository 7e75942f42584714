"""Charts as SVG in the page itself: their colors are the page's, light or dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 26, 40
LABEL_WIDTH, DIGIT_WIDTH = 22, 9
"""Room for the label of the y axis, and for each digit of its numbers on a phone."""
MARK = 3.2
LONG = 30
"""Characters of a label of the y axis above which it needs smaller letters."""
ROWS_HEIGHT = 160
LINE = 17
"""Height of a line of the legend."""
STYLES = "abcd"
PREFIXES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
"""For numbers from the first value on: divisor and SI prefix. Numbers below 10,000 have none."""
LARGEST = 1e300
"""Larger numbers are left out, because the difference of two of them can be infinite. Devices give
the largest float of all where a value is not known."""


@dataclass(frozen=True)
class Marks:
    """Points, by circles or (``square``) squares, so that not color alone tells them apart.

    Parameters
    ----------
    label
        For the legend; empty: it is not there.
    x, y : (n,) float64
        NaN is left out.
    style
        CSS class: one of the page's series, ``a``, ``b``, ...
    square
        Squares instead of circles.
    """

    label: str
    x: Floats
    y: Floats
    style: str
    square: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of numbers as an image below a chart, over the same axis.

    Parameters
    ----------
    picture
        ``data:`` address of an image with a column for each x.
    x : (n,) float64
        At least two values, in equal steps.
    label
        What its rows are.
    """

    picture: str
    x: Floats
    label: str


@dataclass(frozen=True)
class Curve:
    """A line; it is broken at NaN.

    Parameters
    ----------
    x, y : (n,) float64
    style
        CSS class of its series.
    """

    x: Floats
    y: Floats
    style: str


def style_of(number: int) -> tuple[str, bool]:
    """Return the CSS class of a series, and whether its marks are squares; eight series differ."""
    return STYLES[number % len(STYLES)], (number + number // len(STYLES)) % 2 == 1


def draw_chart(
    marks: Sequence[Marks],
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    title: str,
    rows: Rows | None = None,
) -> Markup:
    """Draw marks over curves.

    Parameters
    ----------
    marks, curves
        What to draw; at least one finite point in all.
    x_label, y_label
        Of the axes, with units.
    title
        Text for screen readers.
    rows
        Drawn below the axis.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    series: list[Marks | Curve] = [*curves, *marks]
    y_axis = _Axis(_values(series, "y"), HEIGHT - BOTTOM, TOP)
    left = _left(y_axis)
    x_axis = _Axis(_values(series, "x"), left, WIDTH - RIGHT)
    legend, above = _legend(marks)
    long = " long" if len(y_label) > LONG else ""
    below = ROWS_HEIGHT + LINE if rows is not None else 0
    parts = [
        f'<svg class="chart" viewBox="0 {-above} {WIDTH} {HEIGHT + above + below}" role="img" '
        f'aria-label="{escape(title)}">',
        *_grid(x_axis, y_axis, left),
        f'<text class="label" x="{(left + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}">'
        f"{escape(x_label)}</text>",
        f'<text class="label{long}" transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:g}) '
        f'rotate(-90)">{escape(y_label)}</text>',
    ]
    for curve in curves:
        parts.append(f'<path class="curve {curve.style}" d="{_path(curve, x_axis, y_axis)}"/>')
    for each in marks:
        points = [_mark(each, *point) for point in _points(each, x_axis, y_axis)]
        parts += [f'<g class="marks {each.style}">', *points, "</g>"]
    if rows is not None:
        parts += _rows(rows, x_axis)
    return Markup("\n".join([*parts, *legend, "</svg>"]))


class _Axis:
    """Numbers to places along one edge of the chart, with a little room at both ends."""

    def __init__(self, values: Floats, begin: float, end: float) -> None:
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        span, size = high - low, max(abs(low), abs(high))
        room = 0.04 * span if span > 1e-6 * size else 0.05 * size
        room = 1.0 if room < 1 / LARGEST else room
        self.low, self.high = low - room, high + room
        self._begin, self._scale = begin, (end - begin) / (self.high - self.low)

    def place(self, value: float) -> float:
        return self._begin + (value - self.low) * self._scale

    def places(self, values: Floats) -> list[float]:
        """Return the places of values; numbers of Python, with which the drawing is fast."""
        places: list[float] = (self._begin + (values - self.low) * self._scale).tolist()
        return places

    @property
    def step(self) -> float:
        """Difference of two ticks: 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)

    def ticks(self) -> list[float]:
        """Return two to seven round numbers."""
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [number * self.step for number in range(first, last + 1)]

    def labels(self) -> list[str]:
        """Return the texts of the ticks; no two are alike."""
        return [_short(value, self.step) for value in self.ticks()]


def _rows(rows: Rows, axis: _Axis) -> list[str]:
    """Return the image, each column below its place on the axis; mirrored where x falls."""
    left, right = sorted((axis.place(rows.x[0]), axis.place(rows.x[-1])))
    half = (right - left) / (len(rows.x) - 1) / 2
    size = f'width="{right - left + 2 * half:.2f}" height="{ROWS_HEIGHT}"'
    mirrored = f"translate({left + right:.2f} 0) scale(-1 1)" if rows.x[-1] < rows.x[0] else ""
    return [
        f'<text class="legend" x="{LEFT}" y="{HEIGHT + LINE - 5}">{escape(rows.label)}</text>',
        f'<image class="rows" x="{left - half:.2f}" y="{HEIGHT + LINE}" {size} '
        f'preserveAspectRatio="none" transform="{mirrored}" href="{rows.picture}"/>',
    ]


def _values(series: Sequence[Marks | Curve], name: str) -> Floats:
    """Return the values along one axis, of points that can be drawn."""
    parts = [getattr(each, name)[_can_be_drawn(each.x, each.y)] for each in series]
    return np.concatenate(parts) if parts else np.empty(0)


def _left(y_axis: _Axis) -> int:
    """Return where the chart begins: the numbers must not touch the label beside them."""
    longest = max(map(len, y_axis.labels()), default=0)
    return max(LEFT, LABEL_WIDTH + DIGIT_WIDTH * longest)


def _grid(x_axis: _Axis, y_axis: _Axis, left: int) -> list[str]:
    parts = []
    for value, label in zip(x_axis.ticks(), x_axis.labels(), strict=True):
        x = round(x_axis.place(value), 1)
        parts += [
            f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
            f'<text class="tick x" x="{x}" y="{HEIGHT - BOTTOM + 15}">{label}</text>',
        ]
    for value, label in zip(y_axis.ticks(), y_axis.labels(), strict=True):
        y = round(y_axis.place(value), 1)
        kind = "grid zero" if value == 0 else "grid"
        parts += [
            f'<line class="{kind}" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>',
            f'<text class="tick y" x="{left - 5}" y="{y + 4}">{label}</text>',
        ]
    return parts


def _short(value: float, step: float) -> str:
    """Return a number that fits beside an axis, with all digits down to those of the step."""
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(step)) + 1 if value else 1
    digits = min(max(places, 6), 15)
    for least, unit, sign in PREFIXES if abs(value) < 1e12 else ():
        if abs(value) >= least:
            return f"{value / unit:.{digits}g}{sign}"
    return f"{value:.{digits}g}"


def _points(series: Marks | Curve, x_axis: _Axis, y_axis: _Axis) -> list[tuple[float, float]]:
    known = _can_be_drawn(series.x, series.y)
    xs, ys = x_axis.places(series.x[known]), y_axis.places(series.y[known])
    return [(round(x, 1), round(y, 1)) for x, y in zip(xs, ys, strict=True)]


def _can_be_drawn(x: Any, y: Any) -> Any:
    """Return whether points can be drawn; for arrays, of each point."""
    return (abs(x) <= LARGEST) & (abs(y) <= LARGEST)  # False for NaN


def _path(curve: Curve, x_axis: _Axis, y_axis: _Axis) -> str:
    """Return the path, moved without drawing where the curve is not known."""
    words, pen = [], "M"
    known = _can_be_drawn(curve.x, curve.y)
    xs, ys = (
        axis.places(np.where(known, values, 0.0))
        for axis, values in ((x_axis, curve.x), (y_axis, curve.y))
    )
    for x, y, is_known in zip(xs, ys, known.tolist(), strict=True):
        if is_known:
            words.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L" if is_known else "M"
    return "".join(words)


def _mark(marks: Marks, x: float, y: float) -> str:
    if marks.square:
        left, top = round(x - MARK, 1), round(y - MARK, 1)
        return f'<rect x="{left}" y="{top}" width="{2 * MARK}" height="{2 * MARK}"/>'
    return f'<circle cx="{x}" cy="{y}" r="{MARK}"/>'


def _legend(marks: Sequence[Marks]) -> tuple[list[str], int]:
    """Return the elements of the legend, and the height of its lines but the last one."""
    lines: list[list[Marks]] = [[]]
    for each in (each for each in marks if each.label):
        if lines[-1] and sum(map(_width, [*lines[-1], each])) > WIDTH - LEFT:
            lines.append([])
        lines[-1].append(each)
    parts = []
    for number, line in enumerate(reversed(lines)):
        x, y = float(LEFT), 16 - LINE * number
        for each in line:
            parts += [f'<g class="marks {each.style}">', _mark(each, x + 5, y - 4), "</g>"]
            parts.append(f'<text class="legend" x="{x + 13:g}" y="{y}">{escape(each.label)}</text>')
            x += _width(each)
    return parts, LINE * (len(lines) - 1)


def _width(marks: Marks) -> float:
    """Return the width of an entry of the legend."""
    return 30 + 7.5 * len(marks.label)
