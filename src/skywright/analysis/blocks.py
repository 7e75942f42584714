"""Analyze whole blocks of frames, in this process or on a cluster.

A cluster's worker imports this module and what the analysis needs, not the store: the import is
fast.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from skywright.analysis import Analysis, Batch, Statistic, find_late
from skywright.analysis.frames import FrameReader, FrameTable
from skywright.analysis.inputs import concatenate
from skywright.analysis.named import make_analysis


def analyze_part(
    name: str, parameters: dict[str, Any], table: FrameTable, count: int, shift: int = 0
) -> tuple[Analysis[Any], Batch]:
    """Analyze whole blocks, on any machine that can read the files.

    Parameters
    ----------
    name, parameters
        The analysis (`make_analysis`).
    table
        Where the frames are.
    count
        Number of frames; they make up whole blocks (`whole_blocks`).
    shift
        Place minus identity of the frames (`IdentityOrder`).

    Returns
    -------
    partial, rows
        See `analyze_blocks`.
    """
    with FrameReader(table) as reader:
        return analyze_blocks(make_analysis(name, parameters), reader.batches(0, count), shift)


def analyze_blocks(
    analysis: Analysis[Statistic], batches: Iterable[Batch], shift: int = 0
) -> tuple[Analysis[Statistic], Batch]:
    """Analyze frames that make up whole blocks (`whole_blocks`).

    Parameters
    ----------
    analysis
        A new analysis without members.
    batches
        The frames, in the order of their file.
    shift
        Place minus identity of the frames (`IdentityOrder`).

    Returns
    -------
    partial
        The analysis, closed: it holds statistics only.
    rows
        The columns of the frames.
    """
    parts = []
    highest = None
    for batch in batches:
        if len(batch):
            places = batch.identities + shift
            late, highest = find_late(places, analysis.block_size, highest)
            rows = analysis.update(replace(batch, identities=places), late)
            parts.append(Batch(batch.identities, batch.times, rows))
    return analysis.close(), concatenate(parts)
