"""Pictures with what was found in them drawn in."""

import io
import math
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skywright.instruments.loop.detection import Corners, Detection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "nylon": (64, 220, 64),
    "mitegen": (64, 200, 255),
    "pin": (255, 176, 32),
    "none": (255, 80, 80),
}
TIP_COLOR = (255, 64, 64)
LETTERS = 26  # heights of a letter in the longer side: 13 px in a cell of 360 px on a sheet
LINE = 42  # letters of a line: they are not as wide as high
FONT_MIN_PX = 10


def annotate(
    picture: NDArray[np.uint8],
    detection: Detection,
    title: str = "",
    pin_box: Corners | None = None,
) -> NDArray[np.uint8]:
    """Draw box, tip, end of the pin and a caption into a copy, (H, W, 3) uint8, of a picture.

    Parameters
    ----------
    picture
        (H, W) or (H, W, 3) uint8.
    detection
        What was found in it.
    title
        Put before the caption, e.g. a file name or a frame number.
    pin_box
        xmin, ymin, xmax, ymax of the pin (`backends.boxes.find_pin_box`), px.
    """
    image, draw, unit = canvas(picture)
    color = COLORS[detection.kind]
    if pin_box is not None:
        draw.rectangle([round(value) for value in pin_box], outline=COLORS["pin"], width=unit)
    if detection.bbox is not None:
        draw.rectangle([round(value) for value in detection.bbox], outline=color, width=unit)
    if not math.isnan(detection.pin_base_x):
        end = detection.pin_base_x, detection.pin_base_y
        draw.circle(end, 3 * unit, outline=COLORS["pin"], width=2)
    if detection.tip_in_view:
        _cross(draw, detection.tip_x, detection.tip_y, 9 * unit, unit, TIP_COLOR)
    words = f"{title} {caption(detection)}".strip()
    draw.multiline_text(
        (4 * unit, 2 * unit),
        "\n".join(wrap(words, LINE, break_long_words=False, break_on_hyphens=False)),
        fill=color,
        font=ImageFont.load_default(max(FONT_MIN_PX, max(image.size) / LETTERS)),
        stroke_width=unit,
        stroke_fill=(0, 0, 0),
    )
    return np.asarray(image)


def canvas(picture: NDArray[np.uint8]) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Return a copy of a picture in color, what draws into it, and the width of a line, px."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    # Lines and letters grow with the picture, or nothing is seen of them on a sheet.
    return image, ImageDraw.Draw(image), max(1, round(max(image.size) / 500))


def caption(detection: Detection) -> str:
    """Say in a few words what was found: class, score, side and what is amiss."""
    if detection.flat:
        return "flat image"
    words = [detection.kind, f"{detection.score:.2f}"]
    if detection.side is not None:
        words.append(f"from {detection.side}")
    if detection.clipped:
        words.append("clipped")
    if not detection.tip_in_view:
        words.append(f"tip not in view {detection.tip_sign}")
    return " ".join(words)


def figure_png(figure: "Figure") -> bytes:
    """Return a figure of matplotlib as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _cross(
    draw: ImageDraw.ImageDraw, x: float, y: float, arm: int, width: int, color: tuple[int, ...]
) -> None:
    """Draw two lines that leave the point itself free to be seen."""
    x, y = round(x), round(y)  # Pillow cuts the fraction off
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        start, end = round(0.3 * arm), arm
        draw.line(
            (x + start * dx, y + start * dy, x + end * dx, y + end * dy), fill=color, width=width
        )
