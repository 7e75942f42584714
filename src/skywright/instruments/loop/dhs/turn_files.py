"""Table and plots of a series, under the names that loopDHS gives them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.dhs.collection import Finding
from skywright.instruments.loop.draw import figure_png

HEADER = (
    *("LOOP_INFO", "index", "status", "tipX", "tipY", "pinBaseX", "fiberWidth", "loopWidth"),
    *("boxMinX", "boxMaxX", "boxMinY", "boxMaxY", "loopWidthX"),
    *("isMicroMount", "loopClass", "loopScore"),
)
"""The words of an update to DCSS; columns of ``loop_info.csv``, before ``why``."""
SEEN, FACE, EDGE = "black", "green", "magenta"
DPI = 100


def write_table(findings: Sequence[Finding], path: Path) -> None:
    """Write ``loop_info.csv``: the update of each picture, a word a column.

    A picture without a result has ``failed``, no values, and the reason in the last column.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*HEADER, "why"))
        for finding in findings:
            words, failed, why = finding.row.partition(" failed ")
            given = [*words.split(), *failed.split()]
            writer.writerow([*given, *[""] * (len(HEADER) - len(given)), why])


def draw_values(findings: Sequence[Finding]) -> bytes:
    """Draw ``pandas_plot.png``: score, tip, pin and length by index, and how the scores spread.

    Returns
    -------
    bytes
        Of a PNG file.
    """
    from matplotlib.figure import Figure

    rows = [finding.row.split() for finding in findings if " normal " in finding.row]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(HEADER)}
    index = np.array(columns["index"], dtype=int)
    figure = Figure(figsize=(8, 12), dpi=DPI, layout="constrained")
    by_index, spread = figure.subplots(2, 1)
    for name in ("loopScore", "tipX", "pinBaseX", "loopWidthX"):
        by_index.plot(index, np.array(columns[name], dtype=float), "o", label=name)
    by_index.set_xlabel("index")
    by_index.set_ylabel("score, and fractions of the picture's width")
    by_index.legend(loc="best")
    scores = np.array(columns["loopScore"], dtype=float)
    spread.hist(scores, bins=20, range=(0.0, 1.0))
    spread.set_xlabel("score")
    spread.set_ylabel("pictures")
    if scores.size:
        spread.set_title(
            f"mean {scores.mean():.4f}, median {np.median(scores):.4f}, "
            f"standard deviation {scores.std():.4f}",
            fontsize="medium",
        )
    return figure_png(figure)


def draw_widths(
    phi_deg: NDArray[np.float64], width_px: NDArray[np.float64], result: Mapping[str, Any]
) -> bytes:
    """Draw ``plot_loop_widths.png``: the width of the loop over the turn, with its fit.

    Parameters
    ----------
    phi_deg : (n,) float64
        From the start.
    width_px : (n,) float64
        NaN where not seen.
    result
        Of `skywright.instruments.loop.turn.LoopTurn`.

    Returns
    -------
    bytes
        Of a PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(phi_deg, width_px, "o", ms=4, color=SEEN, label="seen")
    if np.isfinite(result["face_on"]):
        curve = np.linspace(np.nanmin(phi_deg), np.nanmax(phi_deg), 361)
        axes.plot(curve, _width(result, curve), color="red", label="fit")
        for name, color in (("face_on", FACE), ("edge_on", EDGE)):
            angle = result[name]
            axes.plot(angle, _width(result, angle), "o", ms=14, color=color)
            axes.annotate(
                f"{name.split('_')[0].upper()}: Phi = {angle:.1f}\N{DEGREE SIGN}",
                (angle, float(_width(result, angle))),
                xytext=(12, 8),
                textcoords="offset points",
            )
    else:
        axes.set_title(f"face not known: {result['face_why']}", fontsize="medium")
    axes.set_xlabel("spindle from the start, deg")
    axes.set_ylabel("loop width, px")
    axes.legend(loc="best")
    return figure_png(figure)


def _width(result: Mapping[str, Any], phi_deg: Any) -> Any:
    turn = np.deg2rad(phi_deg - result["face_on"])
    return np.hypot(result["width"] * np.cos(turn), result["thickness"] * np.sin(turn))
