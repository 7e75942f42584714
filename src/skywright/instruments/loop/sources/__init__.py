"""Where camera pictures come from: one interface for simulated, replayed and received ones.

A source is silent until `start`. It hands each picture to `deliver` from a thread of its own, in
the order of its frame numbers, and reports errors through `report`. Frame numbers grow for as long
as the source lives, over stops and starts; a gap says that pictures were lost on the way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skywright.acquire import source as acquire_source
from skywright.instruments.loop.picture import decode


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One picture as it came."""

    frame_number: int
    """Identity; grows, gaps are lost pictures."""
    time: float
    """Unix seconds: begin of its arrival, or the sender's time plus a fitted offset, less the delay
    of the camera where that is given."""
    data: bytes | None = None
    """The image file exactly as received (JPEG or PNG); None when the source has pixels only."""
    image: NDArray[np.uint8] | None = None
    """(H, W) or (H, W, 3) uint8 when the source has pixels; None when only `data`."""
    sender_time: float = float("nan")
    """Unix seconds by the sender's clock, NaN if it sends no time."""
    truth: Mapping[str, Any] | None = None
    """What a simulator knows to be true of this picture, JSON values; for scoring only."""

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return len(self.data or b"") + (0 if self.image is None else self.image.nbytes)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"frame {self.frame_number}"

    def pixels(self, color: bool) -> NDArray[np.uint8]:
        """Return (H, W) grey or (H, W, 3) RGB pixels; `DataError` if `data` is no whole picture."""
        if self.image is None:
            return decode(self.data or b"", self.name, color)
        if color == (self.image.ndim == 3):
            return self.image
        return np.asarray(Image.fromarray(self.image).convert("RGB" if color else "L"))


Deliver = Callable[[SourceFrame], None]


class Source(acquire_source.Source[SourceFrame], Protocol):
    """The source of a camera: a source of `skywright.acquire` with the size of its pictures.

    Its `name` is ``sim``, ``push``, ``mjpeg``, ``snapshot`` or ``replay``.
    """

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, px, of the newest picture or the next; None while it is not known.

        Takes no lock that is held during a delivery.
        """

    period_s: float
    """Time between pictures; 0 when the sender alone knows it."""


def camera_pace(period_s: float) -> dict[str, Any]:
    """Return the arguments of `PacedSource` for a camera that takes a picture each `period_s`.

    The first exposure begins at the start, so its picture comes one period later. After a
    delay the schedule restarts at the present time: no number is skipped, and no burst follows.
    """
    return {
        "behind_s": 0.0,
        "first_s": period_s,
        "loses": False,
        "period_min_s": 0.001,
        "item_name": "picture",
    }
