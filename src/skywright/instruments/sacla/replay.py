"""Analysis of a replay file, here or on a cluster."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.analysis.cluster import Submit
from skywright.instruments.sacla.frames import FileFrames
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.report import Report, make_report
from skywright.instruments.sacla.shots import more_values_for


def replay(
    path: Path,
    regions: Sequence[Region],
    edges: NDArray[np.float64],
    window: int = 120,
    workers: int = 1,
    submit: Submit | None = None,
    binned_by: str = "delay",
) -> Report:
    """Analyze a replay file.

    Parameters
    ----------
    path
        HDF5 in the format sacla-replay, version 1.
    regions
        Regions of interest.
    edges
        (bins + 1,) of the delay, ps, or of the value that shots are binned by.
    window
        Tags that the join waits for late records.
    workers
        Number of threads that read and analyze frames; of compressed frames more than one are
        processes.
    submit
        Gives whole blocks to a cluster that sees the file, in place of the workers
        (`skywright.analysis.cluster.cluster`).
    binned_by
        One of `BINNED_BY`, or the key of any other point detector of the file.

    Returns
    -------
    Report

    Raises
    ------
    DataError
        If the file cannot be read.
    ConfigError
        If a region does not fit the file.
    HardwareError
        If the worker processes do not start.
    """
    started = time.perf_counter()
    with ReplayFile(path, more_values_for(binned_by)) as file:
        file.log_cameras()
        pipeline = ShotPipeline(
            file.info,
            regions,
            edges,
            window,
            FileFrames(path.resolve()),
            workers,
            submit=submit,
            binned_by=binned_by,
        )
        try:
            pipeline.wait_for_workers()
            for _, record in file.timed_records():
                pipeline.add(record)
            pipeline.finish()
        finally:
            pipeline.close()
    return make_report(pipeline, time.perf_counter() - started, workers)
