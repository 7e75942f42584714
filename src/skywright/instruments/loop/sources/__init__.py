"""The interface of the camera's sources, simulated, replayed or real, and what they deliver.

A source delivers nothing before `start`. It calls `deliver` with each picture, on a thread of its
own, in the order of the frame numbers, and `report` with each error. Frame numbers increase as long
as the source object exists, over stops and starts; a missing number is a picture that was lost, or
that arrived while the source was stopped.
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
    """One picture as it was received."""

    frame_number: int
    """Identity; it increases. A missing number is a picture that was lost, or that arrived while
    the source was stopped."""
    time: float
    """Time of the picture, Unix s. The source takes the time when it arrived, or the sender's time
    plus a fitted offset; it subtracts the delay of the camera if that is configured."""
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
        """Name of the picture in messages."""
        return f"frame {self.frame_number}"

    def pixels(self, color: bool) -> NDArray[np.uint8]:
        """Return (H, W) gray or (H, W, 3) RGB pixels; `DataError` if `data` is no whole picture."""
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
        """Width and height of the pictures, px; None while they are not known.

        Takes no lock that is held during a delivery.
        """


CAMERA_PACE: dict[str, Any] = {
    "behind_s": 0.0,
    "waits_first": True,
    "loses": False,
    "period_min_s": 0.001,
    "item_name": "picture",
}
"""Arguments of `PacedSource` for a camera.

The first exposure begins at the start, so its picture comes one period later. After a delay, due
times that have passed are left out: no number is skipped, and no burst follows."""
