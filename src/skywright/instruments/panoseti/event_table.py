"""The event table: one row for each pulse-height frame of all modules."""

from collections.abc import Callable

import numpy as np

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.files.columns import Column
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.products import parse_file_name
from skywright.instruments.panoseti.sources.rundir import FrameBlock

GROUP = "/entry/events"
ADC = {"units": "ADC"}
NUMBER = Column(f"{GROUP}/number", "<i8", attrs={"description": "row of this table"})
COLUMNS = tuple(
    Column(f"{GROUP}/{name}", dtype, attrs=attrs)
    for name, dtype, attrs in (
        ("time_ns", "<i8", {"units": "ns", "description": "since 1970 UTC"}),
        ("seconds", "<f8", {"units": "s", "description": "the same, for display"}),
        ("module", "<i4", {}),
        ("quabo", "|u1", {"description": "board of the brightest pixel"}),
        ("largest", "<i4", {**ADC, "description": "brightest pixel"}),
        ("pixel", "<i4", {"description": "of the brightest pixel, row-major in the image"}),
        ("flags", "|u1", {"description": "as in the index of the frames"}),
        ("side", "|u1", {"description": "pixels along a side: 16 is ph256, 32 ph1024"}),
        ("slot", "<i4", {"description": "of the module, from 0; -1 without"}),
        ("row", "<i8", {"description": "of the frame in the index of slot and product; or -1"}),
        ("seqno", "<i4", {"description": "sequence number of the file of module and product"}),
        ("frame", "<i8", {"description": "0-based position of the frame in that file"}),
    )
)


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

    def take(self, result: FrameBlock) -> Rows | None:
        """Return the events of a block of frames."""
        frames, count = result.frames, len(result.frames)
        if frames.product.movie or not count:
            return None
        side = frames.product.side
        slot = self._slot_of(frames.module)
        first = self._rows.get((frames.module, frames.product.name), 0)
        self._rows[frames.module, frames.product.name] = first + count
        pixels = frames.image.reshape(count, -1)
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
            {
                column.path: np.asarray(values[column.path.rsplit("/", 1)[-1]], column.dtype)
                for column in COLUMNS
            },
        )
