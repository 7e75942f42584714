"""Single pictures: fetched, divided by the background if there is one, and searched for a loop."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError, HardwareError
from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs.replies import NO_PICTURE, OperationError
from skywright.instruments.loop.dhs.server import Call
from skywright.instruments.loop.picture import Size, decode

LIMIT_S = 13.0
"""For a picture and what is found in it; DCSS's scripts give up after 15 s."""
LIGHT_MIN = 8.0  # gray levels of a background that can be divided by

Fetch = Callable[[], Awaitable[bytes]]
"""Gives the file of a fresh picture, or raises `HardwareError` or `DataError`."""


@dataclass(frozen=True)
class Snapshot:
    """A picture and what is found in it."""

    gray: NDArray[np.uint8]
    found: Detection

    @property
    def size(self) -> Size:
        """Width and height, px."""
        height, width = self.gray.shape
        return width, height


@dataclass
class Snapshots:
    """Takes single pictures, if there is a camera to ask, and searches them."""

    fetch: Fetch | None
    detector: Detector
    background: NDArray[np.uint8] | None = None
    """An empty view by which pictures are divided; None: they are left as they are."""

    async def picture(self, call: Call) -> tuple[bytes, NDArray[np.uint8]]:
        """Return file and pixels of a fresh picture.

        Raise `OperationError` if the camera gives none within `LIMIT_S`; a note says why.
        """
        try:
            if self.fetch is None:
                raise HardwareError("no --snapshot-url is configured")
            async with asyncio.timeout(LIMIT_S):
                data = await self.fetch()
                return data, await asyncio.to_thread(decode, data, "snapshot")
        except (TimeoutError, HardwareError, DataError) as error:
            call.note(f"{NO_PICTURE}: {str(error) or f'nothing came in {LIMIT_S:g} s'}")
            raise OperationError(NO_PICTURE) from error

    async def take(self, call: Call) -> Snapshot:
        """Return a fresh picture with what is found in it.

        Raise `OperationError` as `picture` does, and if both take longer than `LIMIT_S`.
        """
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        data, gray = await self.picture(call)
        try:
            async with asyncio.timeout_at(deadline):
                return await self.search(data, gray, call)
        except TimeoutError as error:
            raise OperationError(f"nothing found in {LIMIT_S:g} s") from error

    async def search(self, data: bytes, gray: NDArray[np.uint8], call: Call) -> Snapshot:
        """Find the loop in a picture, given as file and as pixels (H, W) uint8.

        A note tells when another detector stood in for the one that was asked.
        """
        file: bytes | None = data
        picture = gray
        if self.background is not None and self.background.shape != gray.shape:
            height, width = self.background.shape
            call.note(f"the background is left out: {width} x {height} px, not as the picture")
        elif self.background is not None:
            gray = await asyncio.to_thread(_without_background, gray, self.background)
            picture, file = gray, None
        elif self.detector.color:
            picture = await asyncio.to_thread(decode, data, "snapshot", True)
        found = await asyncio.to_thread(self.detector.find, picture, file, call.key)
        if found.why:
            call.note(f"{found.why}; the built-in detector was used instead")
        return Snapshot(gray, found.detection)


def _without_background(
    gray: NDArray[np.uint8], background: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Divide a picture by an empty one of the same view: mottle, dust and vignette go."""
    light = np.maximum(background.astype(np.float32), LIGHT_MIN)
    return np.clip(gray * (light.mean() / light), 0, 255).astype(np.uint8)
