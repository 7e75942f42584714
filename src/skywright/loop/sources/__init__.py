"""Where camera pictures come from: one interface for simulated, replayed and received ones.

A source is silent until `start`. It hands each picture to `deliver` from a thread of its own, in
the order of its frame numbers, and tells trouble through `report`. Frame numbers grow for as long
as the source lives, over stops and starts; a gap says that pictures were lost on the way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One picture as it came.

    Attributes
    ----------
    frame_number
        Identity; grows, gaps are lost pictures.
    time
        Unix seconds: exposure where the source knows it, else arrival.
    data
        The image file exactly as received (JPEG or PNG); None when the source has pixels only.
    image
        (H, W) or (H, W, 3) uint8 when the source has pixels; None when only `data`.
    sender_time
        Unix seconds by the sender's clock, NaN when it says none.
    truth
        What a simulator knows to be true of this picture, JSON values; for scoring only.
    """

    frame_number: int
    time: float
    data: bytes | None = None
    image: NDArray[np.uint8] | None = None
    sender_time: float = float("nan")
    truth: Mapping[str, Any] | None = None

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return len(self.data or b"") + (0 if self.image is None else self.image.nbytes)


Deliver = Callable[[SourceFrame], None]
Report = Callable[[str], None]


class Source(Protocol):
    """What the camera needs of a source; all methods may be called from any thread."""

    name: str
    """``sim``, ``push``, ``replay``."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, px, of the newest picture or the next; None when nobody knows.

        Takes no lock that is held during a delivery.
        """

    period_s: float
    """Time between pictures; 0 when the sender alone knows it."""

    def start(self, deliver: Deliver, report: Report) -> None:
        """Begin to deliver pictures; returns at once."""

    def stop(self) -> None:
        """Deliver nothing any more once this has returned."""

    def set_period(self, seconds: float) -> float:
        """Ask for a time between pictures; return the one in use."""

    def close(self) -> None:
        """Stop and give back sockets, files and threads, for good."""
