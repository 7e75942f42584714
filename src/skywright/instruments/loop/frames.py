"""Picture files to pixels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skywright.instruments.loop.picture import decode
from skywright.instruments.loop.sources import SourceFrame


def pixels(frame: SourceFrame, color: bool) -> NDArray[np.uint8]:
    """Return (H, W) grey or (H, W, 3) RGB pixels of a picture; DataError when undecodable."""
    name = f"frame {frame.frame_number}"
    if frame.image is not None:
        if color == (frame.image.ndim == 3):
            return frame.image
        return np.asarray(Image.fromarray(frame.image).convert("RGB" if color else "L"))
    return decode(frame.data or b"", name, color)
