"""A series as a turn of the spindle: angles, fits, and files named as those of loopDHS."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.instruments.loop.dhs.collection import Finding
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.recording import as_batch
from skywright.instruments.loop.draw import figure_png
from skywright.instruments.loop.rotation_pictures import flat_width
from skywright.instruments.loop.turn import LoopTurn, turn_angles

HEADER = (
    *("LOOP_INFO", "index", "status", "tipX", "tipY", "pinBaseX", "fiberWidth", "loopWidth"),
    *("boxMinX", "boxMaxX", "boxMinY", "boxMaxY", "loopWidthX"),
    *("isMicroMount", "loopClass", "loopScore"),
)
"""The words of an update to DCSS; columns of ``loop_info.csv``, before ``why``."""
SEEN, FACE, EDGE = "black", "green", "magenta"
DPI = 100


@dataclass(frozen=True)
class FittedSeries:
    """A series whose angles are known, and the analysis of it with its result."""

    batch: Batch
    """What was found in the searched pictures, and ``phi``, deg from the start."""
    analysis: LoopTurn
    result: Mapping[str, Any]

    def draw(self) -> dict[str, bytes]:
        """Return ``plot_loop_widths.png``: file name to contents."""
        widths = self.batch["width"].astype(np.float64)
        return {"plot_loop_widths.png": _draw_widths(self.batch["phi"], widths, self.result)}


def see_turn(
    findings: Sequence[Finding], config: DhsConfig, doubled: bool = False
) -> FittedSeries | None:
    """Fit a series as one turn; None if the turn or its pictures are not known.

    With pictures that came twice (`doubled`) their number does not tell whether all came.
    """
    searched = [finding for finding in findings if finding.found is not None]
    if not searched or not config.osci_delta or config.osci_time <= 0.0:
        return None
    times = np.array([finding.time for finding in findings], np.float64)
    phi, angles_from = turn_angles(
        times, config.osci_delta, config.osci_time, config.expected, doubled
    )
    found = as_batch(searched)
    columns = {**found.data, "phi": phi[[finding.index for finding in searched]]}
    batch = Batch(found.identities, found.times, columns)
    analysis = LoopTurn(
        delta_deg=config.osci_delta,
        time_s=config.osci_time,
        angles_from=angles_from,
        size=searched[0].size,
    )
    analysis.update(batch)
    return FittedSeries(batch, analysis, analysis.result())


def write_files(findings: Sequence[Finding], directory: Path, drawn: Mapping[str, bytes]) -> None:
    """Write ``loop_info.csv`` of a series into a directory, and drawings, file name to contents."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        for name, contents in drawn.items():
            (directory / name).write_bytes(contents)
    finally:  # the table counts, also on a disk that is full of drawings
        _write_table(findings, directory / "loop_info.csv")


def _write_table(findings: Sequence[Finding], path: Path) -> None:
    """Write the update of each picture, a word a column; the reason of a failure is the last."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*HEADER, "why"))
        for finding in findings:
            words, failed, why = finding.row.partition(" failed ")
            given = [*words.split(), *failed.split()]
            writer.writerow([*given, *[""] * (len(HEADER) - len(given)), why])


def draw_values(findings: Sequence[Finding]) -> dict[str, bytes]:
    """Draw score, tip, pin and length by index, and how the scores spread: ``pandas_plot.png``."""
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
    return {"pandas_plot.png": figure_png(figure)}


def _draw_widths(
    phi_deg: NDArray[np.float64], width_px: NDArray[np.float64], result: Mapping[str, Any]
) -> bytes:
    """Draw the width of the loop over the turn, with its fit; return a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(phi_deg, width_px, "o", ms=4, color=SEEN, label="seen")
    if np.isfinite(result["face_on"]):
        curve = np.linspace(np.nanmin(phi_deg), np.nanmax(phi_deg), 361)
        axes.plot(curve, flat_width(result, curve), color="red", label="fit")
        for name, color in (("face_on", FACE), ("edge_on", EDGE)):
            angle = result[name]
            axes.plot(angle, flat_width(result, angle), "o", ms=14, color=color)
            axes.annotate(
                f"{name.split('_')[0].upper()}: Phi = {angle:.1f}\N{DEGREE SIGN}",
                (angle, float(flat_width(result, angle))),
                xytext=(12, 8),
                textcoords="offset points",
            )
    else:
        axes.set_title(f"face not known: {result['face_why']}", fontsize="medium")
    axes.set_xlabel("spindle from the start, deg")
    axes.set_ylabel("loop width, px")
    axes.legend(loc="best")
    return figure_png(figure)
