"""The index of the frames of one module and product: what its rows hold, and how they are made."""

from pathlib import Path

import numpy as np

from skywright.acquire.index_layout import IndexLayout, Records
from skywright.files.columns import Column
from skywright.files.index import OFFSET, SIZE
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import Product

GROUP = "/entry/index"
FRAME, TIME, FLAGS, QUABO = (f"{GROUP}/{name}" for name in ("frame", "time_ns", "flags", "quabo"))
NUMBERS = f"{GROUP}/header"
MODULE = f"{GROUP}/module"


def index_layout(product: Product) -> IndexLayout:
    """Return the layout of an index of frames of `product`.

    Its identity is the number of the frame among those of its module and product in this index.
    """
    names = ", ".join(f"{flag.value} {str(flag.name).lower()}" for flag in Flag)
    return IndexLayout(
        name=f"{product.name} index",
        identity="frame of this module and product, in the order in which they were found",
        extra=(
            Column(FRAME, "<i8", attrs={"description": "0-based position in its file"}),
            Column(TIME, "<i8", attrs={"units": "ns", "description": "since 1970 UTC"}),
            Column(FLAGS, "|u1", attrs={"description": names}),
            Column(QUABO, "|u1", attrs={"description": "board of a 16 x 16 image"}),
            Column(MODULE, "<i4", attrs={"description": "number of the module"}),
            Column(
                NUMBERS,
                "<i8",
                (product.quabos, len(FIELDS)),
                attrs={"description": "of each board: " + ", ".join(FIELDS)},
            ),
        ),
    )


def records_of(frames: Frames, path: Path, sizes: np.ndarray, first: int) -> Records:
    """Return the rows of decoded frames.

    Parameters
    ----------
    frames
        The frames.
    path
        Of their file.
    sizes
        (N,) bytes of each frame.
    first
        Identity of the first one.
    """
    return Records(
        file=path.resolve(),
        identity=first + np.arange(len(frames)),
        columns={
            OFFSET: frames.offset,
            SIZE: sizes,
            FRAME: frames.number,
            TIME: frames.time_ns,
            FLAGS: frames.flags,
            QUABO: frames.quabo.astype(np.uint8),
            MODULE: np.full(len(frames), frames.module),
            NUMBERS: frames.numbers,
        },
    )
