"""What a series tells as a turn of the spindle: angles, the fits over them, files for people."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skywright.analysis import Batch
from skywright.instruments.loop.dhs.collection import Finding
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.recording import as_batch
from skywright.instruments.loop.dhs.turn_files import draw_values, draw_widths, write_table
from skywright.instruments.loop.turn import LoopTurn, in_words, turn_angles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """A series whose angles are known.

    Attributes
    ----------
    batch
        What was found in the searched pictures, and ``phi``, deg from the start.
    analysis
        Of all of it.
    result
        Of `analysis`.
    """

    batch: Batch
    analysis: LoopTurn
    result: Mapping[str, Any]

    @property
    def words(self) -> str:
        """Where the face of the loop is, in one line."""
        return in_words(self.result)

    @cached_property
    def plots(self) -> dict[str, bytes]:
        """``plot_loop_widths.png``: file name to contents."""
        widths = self.batch["width"].astype(np.float64)
        return {"plot_loop_widths.png": draw_widths(self.batch["phi"], widths, self.result)}


def see_turn(findings: Sequence[Finding], config: DhsConfig) -> Turn | None:
    """Fit a series as one turn; None if the turn or its pictures are not known."""
    searched = [finding for finding in findings if finding.found is not None]
    if not searched or not config.osci_delta or config.osci_time <= 0.0:
        return None
    times = np.array([finding.time for finding in findings], np.float64)
    phi, angles_from = turn_angles(times, config.osci_delta, config.osci_time, config.expected)
    batch = as_batch(searched)
    batch = Batch(
        batch.identities,
        batch.times,
        {**batch.data, "phi": phi[[finding.index for finding in searched]]},
    )
    analysis = LoopTurn(
        delta_deg=config.osci_delta,
        time_s=config.osci_time,
        angles_from=angles_from,
        size=searched[0].size,
    )
    analysis.update(batch)
    return Turn(batch, analysis, analysis.result())


def write_files(
    findings: Sequence[Finding], turn: Turn | None, directory: Path, plotted: bool = True
) -> None:
    """Write ``loop_info.csv`` of a series into the directory of its pictures, and its plots.

    Parameters
    ----------
    findings, turn
        Of the series.
    directory
        Created if it is missing.
    plotted
        Whether plots are wanted.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_table(findings, directory / "loop_info.csv")
    if not plotted:
        return
    drawn = {"pandas_plot.png": draw_values(findings)} | (turn.plots if turn else {})
    for name, contents in drawn.items():
        (directory / name).write_bytes(contents)
