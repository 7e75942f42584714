"""The event table: one row for each pulse-height frame of all modules."""

from collections.abc import Callable

import numpy as np

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.event_columns import COLUMNS, NUMBER
from skywright.instruments.panoseti.frames import missing_pixels
from skywright.instruments.panoseti.products import parse_file_name
from skywright.instruments.panoseti.sources.rundir import FrameGroup


class EventsLayout(ColumnsLayout):
    """Makes rows of pulse-height frames; movie frames have none.

    Parameters
    ----------
    slot_of
        Returns the slot of a module, None without.
    """

    def __init__(self, slot_of: Callable[[int], int | None]) -> None:
        super().__init__("events of all modules", COLUMNS, NUMBER)
        self._slot_of = slot_of
        self._rows: dict[tuple[int, str], int] = {}
        self._next = 0

    def restart(self) -> None:
        """Count from 0 again, as the indexes do."""
        self._rows.clear()
        self._next = 0

    def row_group(self, result: FrameGroup) -> Rows | None:
        """Return the events of a group of frames."""
        frames, count = result.frames, len(result.frames)
        if frames.product.movie or not count:
            return None
        side = frames.product.side
        slot = self._slot_of(frames.module)
        first = self._rows.get((frames.module, frames.product.name), 0)
        self._rows[frames.module, frames.product.name] = first + count
        missing = missing_pixels(frames.present, frames.product)
        none_is_less = np.iinfo(frames.product.dtype).min
        pixels = np.where(missing, none_is_less, frames.image).reshape(count, -1)
        brightest = pixels.argmax(axis=1)
        quabo = frames.quabo
        if side == 32:
            row, column = np.divmod(brightest, side)
            quabo = np.array([[0, 1], [3, 2]])[row // 16, column // 16]
        rows = first + np.arange(count) if slot is not None else np.full(count, -1)
        values = {
            "time_ns": frames.time_ns,
            "seconds": frames.time_ns / NS,
            "module": np.full(count, frames.module),
            "quabo": quabo,
            "largest": np.take_along_axis(pixels, brightest[:, np.newaxis], 1)[:, 0],
            "pixel": brightest,
            "flags": frames.flags,
            "side": np.full(count, side),
            "slot": np.full(count, -1 if slot is None else slot),
            "row": rows,
            "seqno": np.full(count, parse_file_name(result.path).seqno),
            "frame": frames.number,
        }
        number = self._next + np.arange(count)
        self._next += count
        return Rows(
            number,
            {column.path: np.asarray(values[column.name], column.dtype) for column in COLUMNS},
        )
