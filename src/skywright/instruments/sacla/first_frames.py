"""The average of the first frames of a source, to draw regions of interest on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError, HardwareError
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.sources import ShotSource, take_records
from skywright.instruments.sacla.stored_frame import copy_frame


def average_frames(
    source: ShotSource, detector: str, count: int = 10, limit_s: float = 60.0
) -> NDArray[np.float64]:
    """Start a source, average its first frames of a detector, and stop it.

    Parameters
    ----------
    source
        Not yet started; it is not closed here. Analyze with another source object: the frames that
        are averaged have left this one.
    detector
        Its id.
    count
        Number of frames; a source that ends sooner gives fewer.
    limit_s
        Longest wait; the frames that have come by then are averaged.

    Returns
    -------
    NDArray
        (rows, columns) ADU.

    Raises
    ------
    HardwareError
        If no frame comes in time.
    DataError
        If the source has no such detector, or ends without a frame of it.
    """
    if detector not in source.info.tiles:
        known = ", ".join(source.info.tiles) or "none"
        raise DataError(f"no detector {detector} (known are {known})")
    shape = source.info.tiles[detector].bad.shape
    total, frame = np.zeros(shape), np.empty(shape, np.float32)
    found = 0

    def take(record: Record[Any]) -> bool:
        nonlocal found
        if record.channel == detector:
            copy_frame(record.payload, frame)
            np.add(total, frame, out=total)
            found += 1
        return 0 < found >= count

    has_ended = take_records(source, take, limit_s=limit_s)
    if not found:
        if has_ended:
            raise DataError(f"{detector}: the source has ended without a frame")
        raise HardwareError(f"{detector}: no frame within {limit_s} s")
    return total / found
