"""Draw what the loop network says of pictures: ``python tools/loop_maps.py OUT.png PICTURE...``.

A row for each picture: the masks over the whole picture, the heat-maps of the tip and of the end of
the pin, and the last crop that counts, with the box and the tip that come out. The figure of
`docs/explanations/loop-detection.md` is made so:

    python tools/loop_maps.py docs/explanations/loop-detection.png \
        $SKYWRIGHT_TEST_DATA/loop/nylon_{crystal_right,bent_frontlit_left,twisted_darkfield_left}.jpg
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from skywright.instruments.loop.detect import finder
from skywright.instruments.loop.detector.model import Maps
from skywright.instruments.loop.detector.readout import (
    CONFIDENCE_MIN,
    CROPS_MAX,
    Crop,
    next_crop,
    read_maps,
)
from skywright.instruments.loop.draw import annotate
from skywright.instruments.loop.picture import read_picture

COLORS = {
    "pin": (255, 176, 32), "stem": (64, 160, 255), "head": (64, 220, 64),
    "content": (230, 60, 230), "other": (160, 160, 160),
}  # fmt: skip
TIP, BEGIN = (255, 48, 48), (255, 230, 0)
PANEL_PX, GAP_PX = (348, 260), 6
SHADES = 256

Pixels = NDArray[np.uint8]


def masks_over(gray: Pixels, maps: Maps) -> Pixels:
    """Color the parts as far as each is probable."""
    return blended(gray, [(maps.masks[name], color) for name, color in COLORS.items()], 0.6)


def heat_over(gray: Pixels, maps: Maps) -> Pixels:
    """Color where the tip and the end of the pin are probable."""
    return blended(gray, [(maps.begin, BEGIN), (maps.tip, TIP)], 1.0)


def blended(gray: Pixels, layers: list[tuple[NDArray, tuple[int, ...]]], most: float) -> Pixels:
    """Lay maps, each in its color, over a picture."""
    size = gray.shape[1], gray.shape[0]
    seen = np.repeat(gray[:, :, None].astype(np.float32), 3, axis=2)
    for layer, color in layers:
        wide = np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BILINEAR))
        part = most * wide[:, :, None]
        seen = (1 - part) * seen + part * np.array(color, np.float32)
    return seen.round().astype(np.uint8)


def row_of(gray: Pixels) -> list[Pixels]:
    """Return the three panels of a picture that is not higher than wide."""
    model, found = finder().model, finder().find(gray)
    crop = Crop(0, 0, gray.shape[1], gray.shape[0])
    maps = whole = model.run(gray)
    readout = read_maps(maps, crop)
    for _ in range(CROPS_MAX):  # as the finder does
        closer = None if readout is None else next_crop(readout)
        if closer is None:
            break
        closer_maps = model.run(closer.of(gray))
        closer_readout = read_maps(closer_maps, closer)
        if closer_readout is None or closer_readout.tip is None:
            break
        if closer_readout.confidence < CONFIDENCE_MIN * readout.confidence:
            break
        maps, crop, readout = closer_maps, closer, closer_readout
    box = found.bbox and tuple(edge - (crop.x, crop.y)[k % 2] for k, edge in enumerate(found.bbox))
    in_crop = replace(
        found, tip_x=found.tip_x - crop.x, tip_y=found.tip_y - crop.y, bbox=box,
        pin_base_x=found.pin_base_x - crop.x, pin_base_y=found.pin_base_y - crop.y,
    )  # fmt: skip
    drawn = annotate(masks_over(crop.of(gray), maps), in_crop)
    return [masks_over(gray, whole), heat_over(gray, whole), drawn]


def figure(rows: list[list[Pixels]]) -> Image.Image:
    """Put panels side by side, each as large as fits its place."""
    width, height = PANEL_PX
    sheet = Image.new(
        "RGB", (3 * width + 2 * GAP_PX, len(rows) * (height + GAP_PX) - GAP_PX), (255, 255, 255)
    )
    for y, panels in enumerate(rows):
        for x, panel in enumerate(panels):
            image = ImageOps.contain(Image.fromarray(panel), PANEL_PX, Image.Resampling.LANCZOS)
            left = x * (width + GAP_PX) + (width - image.width) // 2
            sheet.paste(image, (left, y * (height + GAP_PX) + (height - image.height) // 2))
    return sheet.quantize(SHADES, Image.Quantize.FASTOCTREE)


def main() -> int:
    """Draw the pictures that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the figure, PNG")
    parser.add_argument("pictures", type=Path, nargs="+")
    arguments = parser.parse_args()
    rows = [row_of(read_picture(file)) for file in arguments.pictures]
    figure(rows).save(arguments.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
