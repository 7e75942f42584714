"""Images for the screen: scaled to 8 bits, and several on one contact sheet."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skywright.errors import DataError

SHEET_GRAY = 24
"""Gray level of the sheet between the images, 0 to 255."""
LABEL_PX = 14
"""Height of a label, px."""


def to_uint8(pixels: NDArray) -> NDArray[np.uint8]:
    """Scale an image to 8 bits.

    The darkest 0.1 % of the pixels become 0, the brightest 0.1 % become 255. If all others have one
    value, that becomes 0.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, 3), any number type; uint8 is returned as it is.

    Returns
    -------
    uint8 array of the same shape
        NaN becomes 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 0.0)
    with np.errstate(over="ignore"):  # of infinite pixels, or if `high` is `low`
        scaled = (np.nan_to_num(values, nan=low) - low) * (255 / max(high - low, 1e-300))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]],
    columns: int = 4,
    cell_px: int = 360,
    labels: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Put pictures, scaled down to equal cells, on one sheet, row by row.

    Parameters
    ----------
    pictures
        (H, W, 3) or (H, W) uint8 each, of any sizes.
    columns
        Cells in a row; as many as there are pictures, if these are fewer.
    cell_px
        Width of a cell, px; its height is three quarters of that.
    labels
        Text for the upper left corner of each picture, `LABEL_PX` high; none if empty.

    Returns
    -------
    (rows * 3/4 * cell_px, columns * cell_px, 3) uint8

    Raises
    ------
    DataError
        If there is no picture, or the labels are more or fewer than the pictures.
    """
    if not pictures:
        raise DataError("contact sheet: 0 pictures, expected at least one")
    if labels and len(labels) != len(pictures):
        raise DataError(
            f"contact sheet: {len(labels)} labels for {len(pictures)} pictures; expected as many"
        )
    columns = min(columns, len(pictures))
    cell_height = cell_px * 3 // 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_px, rows * cell_height), (SHEET_GRAY,) * 3)
    draw = ImageDraw.Draw(sheet)
    texts = labels or [""] * len(pictures)
    for number, (picture, label) in enumerate(zip(pictures, texts, strict=True)):
        image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
        image.thumbnail((cell_px - 4, cell_height - 4))
        left, top = (number % columns) * cell_px, (number // columns) * cell_height
        corner = left + (cell_px - image.width) // 2, top + (cell_height - image.height) // 2
        sheet.paste(image, corner)
        draw.text(
            (corner[0] + 3, corner[1] + 2),
            label,
            fill=(255, 255, 255),
            font=ImageFont.load_default(LABEL_PX),
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(sheet)
