"""An own view of live images: where the brightest pixel is. Usage: brightest_pixel.py HOST."""

import asyncio
import sys

import numpy as np
from matplotlib.figure import Figure

from skywright.errors import HardwareError
from skywright.instruments.panoseti.live.client import stream
from skywright.instruments.panoseti.live.views import View
from skywright.wire.daqdata.encode import LiveImage


class BrightestPixel(View):
    """Count how often each pixel of a module is the brightest one."""

    def __init__(self) -> None:
        self.counts: dict[int, np.ndarray] = {}

    def update(self, image: LiveImage) -> None:
        """Take an image; `image.image` is a (rows, columns) array."""
        if image.movie:
            counts = self.counts.setdefault(image.module, np.zeros((32, 32), int))
            counts.flat[image.image.argmax()] += 1

    def draw(self, figure: Figure) -> None:
        """Draw a panel for each module."""
        panels = figure.subplots(1, max(1, len(self.counts)), squeeze=False)[0]
        for panel, (module, counts) in zip(panels, sorted(self.counts.items()), strict=False):
            panel.imshow(counts, cmap="plasma")
            panel.set_title(f"module {module}: {counts.sum()} images")


async def main(host: str, images: int = 100) -> None:
    """Take images and write a picture."""
    view, count = BrightestPixel(), 0
    async for image in stream(host, interval_s=-1):
        view.update(image)
        count += 1
        if count == images:
            break
    view.save("brightest_pixel.png")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost"))
    except HardwareError as error:
        sys.exit(str(error))
