"""What the page keeps of the shots: the newest facts and the mean image."""

import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dashboard.chart import CIVIDIS

TINTS = np.array(CIVIDIS, np.float64)


@dataclass
class ShotBoard:
    """The shots as the page shows them.

    Attributes
    ----------
    facts
        Header of the last message of `dashboard.sacla.shots_worker`; empty before the first.
    image
        (rows, columns) float32, thinned mean image.
    status
        What is wrong, if the IOC is not connected.
    number
        Grows with each message; no number of an earlier server.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    image: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    status: str = "waiting for the IOC of the shots"
    number: int = field(default_factory=time.time_ns)

    async def changes(self, messages: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Take in the worker's messages, and yield `number` after each."""
        async for message in messages:
            self.take(message)
            yield str(self.number)

    def take(self, message: bytes) -> None:
        """Take in a message."""
        line, _, pixels = message.partition(b"\n")
        header = json.loads(line)
        self.number += 1
        self.status = "" if header["connected"] else header["status"]
        if header["connected"]:
            self.facts = header
            self.image = np.frombuffer(pixels, "<f4").reshape(header["image_shape"])

    def array(self, *keys: str) -> NDArray[np.float64]:
        """Return an array of the facts; NaN where it has no value."""
        value: Any = self.facts
        for key in keys:
            value = value.get(key, {})
        value = value or []
        return np.array(value, dtype=float)

    def png(self) -> bytes:
        """Return the mean image in the page's colors, from its 1st to its 99.5th percentile.

        Bad pixels are transparent.
        """
        good = np.isfinite(self.image)
        low, high = np.percentile(self.image[good], (1.0, 99.5)) if good.any() else (0.0, 1.0)
        place = np.clip((self.image - low) / max(high - low, 1e-9), 0.0, 1.0) * (len(TINTS) - 1)
        place = np.where(good, place, 0.0)
        steps = np.arange(len(TINTS))
        colors = [np.interp(place, steps, channel) for channel in TINTS.T]
        pixels = np.stack([*colors, np.where(good, 255, 0)], axis=-1).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()
