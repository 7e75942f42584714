"""The camera: scale, focus, light, dirt, noise and compression.

Image frame: columns grow to the right, rows downwards, the center of the first pixel is (0, 0);
a frame covers -0.5 .. width - 0.5. With (x, y, z) a point in the goniometer frame (stages added,
um) and phi the spindle angle:

    along  = x                                across = y cos(phi) - z sin(phi)
    depth  = y sin(phi) + z cos(phi)          (grows away from the camera)

`side` is the border through which the pin enters. Columns and rows are

    left    u = axial_px + k_x along     v = axis_px + k_y across
    right   u = axial_px - k_x along     v = axis_px + k_y across
    top     v = axial_px + k_y along     u = axis_px + k_x across
    bottom  v = axial_px - k_y along     u = axis_px + k_x across

with k = 1 / um_per_px, after (along, across) is turned by `roll_deg`, the roll of the camera. So
`axis_px` is the row (left, right) or column (top, bottom) of the spindle where along = 0.
"""

import datetime
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, zoom

Side = Literal["left", "right", "top", "bottom"]
LightMode = Literal["backlight", "frontlight", "darkfield"]
_NOISE_BITS = 20


@dataclass(frozen=True)
class Optics:
    """A camera and its light."""

    width_px: int = 704
    height_px: int = 480
    um_per_px_x: float = 6.73
    um_per_px_y: float = 7.47
    """Pixels of video encoders are not square."""
    side: Side = "left"
    axis_px: float = 240.0
    axial_px: float = 400.0
    """See the module's text."""
    roll_deg: float = 0.0
    psf_px: float = 0.8
    """Sigma of the blur in focus."""
    focus_um: float = 0.0
    depth_of_field_um: float = 1500.0
    """Depth in focus, and distance from it that adds a blur of sigma 1 px."""
    light: LightMode = "backlight"
    level: float = 190.0
    """Counts of the empty picture at its center; above 255 saturates."""
    contrast: float = 1.0
    """Factor on the optical density of the sample; 1 is strong."""
    reflect: float = 0.0
    """Counts of a white surface under the front light."""
    stray: float = 4.0
    """Counts of the lamps' light that reach the sensor whatever the sample does."""
    black: float = 2.0
    """Counts with all lamps off."""
    gradient: float = 0.0
    gradient_deg: float = 0.0
    """Relative change of light over half the frame, and its direction."""
    vignette: float = 0.0
    """Relative loss of light in the corners."""
    mottle: float = 0.0
    """Relative rms of blotches of the light."""
    color: bool = True
    """Three channels; gray otherwise."""
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(3,) float: relative color of the light."""
    color_vignette: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(3,) float: relative change of color towards the corners."""
    sample_tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(3,) float: relative color of light that the sample transmits or reflects."""
    dust: int = 0
    """Specks and rings that do not turn with the sample."""
    nozzle: tuple[float, float, float] | None = None
    """Column and row of the end of a cryo nozzle as fractions of the frame, and its direction in
    degrees from +x towards +y."""
    nozzle_px: float = 90.0
    """Width of the nozzle."""
    border_px: tuple[int, int, int, int] = (0, 0, 0, 0)
    """(top, bottom, left, right): rows and columns that the encoder fills with `border_level`."""
    border_level: int = 0
    overlay: bool = False
    """Date and text burnt into the picture."""
    interlaced: bool = False
    """Even rows show the first half of the exposure, odd rows the second."""
    read_noise: float = 1.5
    shot_noise: float = 0.02
    """Counts rms, and counts**2 per count."""
    exposure_s: float = 1.0 / 60.0
    jpeg_quality: int = 85
    pattern_seed: int = 0
    """Draws mottle and dust."""


def projection(optics: Optics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix (2, 2) px/um from (along, across) to (column, row), and the origin px."""
    kx, ky = 1.0 / optics.um_per_px_x, 1.0 / optics.um_per_px_y
    roll = np.deg2rad(optics.roll_deg)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    sign = -1.0 if optics.side in ("right", "bottom") else 1.0
    matrix, origin = [[sign * kx, 0.0], [0.0, ky]], [optics.axial_px, optics.axis_px]
    if optics.side in ("top", "bottom"):
        matrix, origin = [[0.0, kx], [sign * ky, 0.0]], origin[::-1]
    return np.array(matrix) @ turn, np.array(origin)


@lru_cache(maxsize=8)
def empty_field(optics: Optics) -> NDArray[np.float32]:
    """Return the picture without sample, noise, border and text: (H, W) float32 counts."""
    rng = np.random.default_rng([optics.pattern_seed, 11])
    height, width = optics.height_px, optics.width_px
    row, col = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = 2.0 * col / width - 1.0, 2.0 * row / height - 1.0
    direction = np.deg2rad(optics.gradient_deg)
    slope = x * np.cos(direction) + y * np.sin(direction)
    shift = rng.uniform(-0.3, 0.3, 2)
    corner = ((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / 2.0
    field = (1.0 + optics.gradient * slope) * np.clip(1.0 - optics.vignette * corner, 0.02, None)
    if optics.mottle > 0.0:
        coarse = gaussian_filter(rng.standard_normal((24, 32)), 2.0)
        coarse /= coarse.std()
        blotches = _enlarging(24, height) @ coarse @ _enlarging(32, width).T
        field *= 1.0 + optics.mottle * blotches
    field = np.clip(field, 0.02, None) * _dirt(optics, row, col, rng) * _nozzle(optics, row, col)
    return np.ascontiguousarray(field * optics.level, dtype=np.float32)


@lru_cache(maxsize=8)
def _enlarging(count: int, size: int) -> NDArray[np.float64]:
    """Return the matrix (size, count) of a cubic spline through `count` values, of one axis."""
    # One axis after the other is the same as `zoom` of both at once, which is by far slower.
    return zoom(np.eye(count), (size / count, 1.0), order=3)


def _dirt(optics: Optics, row: NDArray, col: NDArray, rng: np.random.Generator) -> NDArray:
    """Return the transmission (H, W) of dust: soft spots, and rings of dust out of focus."""
    clear = np.ones_like(row)
    for _ in range(optics.dust):
        u, v = rng.uniform(0, optics.width_px), rng.uniform(0, optics.height_px)
        radius = rng.uniform(1.5, 12.0) * optics.width_px / 704.0
        depth = rng.uniform(0.01, 0.12) if rng.random() < 0.85 else rng.uniform(0.15, 0.6)
        reach = int(4.0 * radius + 3.0)
        window = tuple(slice(max(int(at) - reach, 0), int(at) + reach) for at in (v, u))
        distance = np.hypot(col[window] - u, row[window] - v) / radius
        if rng.random() < 0.5:
            spot = np.exp(-0.5 * distance**2)
        else:
            spot = np.exp(-0.5 * ((distance - 1.5) / 0.35) ** 2)
            spot -= 0.4 * np.exp(-0.5 * distance**2)
        clear[window] *= 1.0 - depth * spot
    return clear


def _nozzle(optics: Optics, row: NDArray, col: NDArray) -> NDArray:
    """Return the transmission (H, W) of a blunt, blurred cryo nozzle that enters from outside."""
    if optics.nozzle is None:
        return np.ones_like(row)
    u, v, angle = optics.nozzle
    du, dv = col - u * optics.width_px, row - v * optics.height_px
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    behind, aside = -(du * c + dv * s), np.abs(-du * s + dv * c)
    wall = optics.nozzle_px / 2.0 + 0.15 * np.maximum(behind, 0.0)
    soft = 6.0 * optics.width_px / 704.0
    inside = 1.0 / (1.0 + np.exp(-np.minimum(behind, wall - aside) / soft))
    return 1.0 - 0.93 * inside


def chroma(optics: Optics) -> NDArray[np.float32]:
    """Return the table (C, 6) float32 that `raster.expose` colors pixels by."""
    if not optics.color:
        return np.zeros((1, 6), np.float32)
    table = np.zeros((3, 6), np.float32)
    rng = np.random.default_rng([optics.pattern_seed, 12])
    table[:, 0] = optics.tint
    table[:, 1] = optics.color_vignette
    table[:, 2:4] = rng.normal(0.0, 0.3, (3, 2)) * np.abs(optics.color_vignette)[:, None]
    table[:, 4] = optics.sample_tint
    return table


@lru_cache(maxsize=1)
def noise_table() -> NDArray[np.float32]:
    """Return 2**20 unit normal numbers, the same in every process."""
    rng = np.random.default_rng(20240229)
    return rng.standard_normal(1 << _NOISE_BITS, dtype=np.float32)


def noise_rows(optics: Optics, frame_seed: int) -> NDArray[np.int64]:
    """Return where in the table each row of a frame begins, (H,) int64."""
    rng = np.random.default_rng([frame_seed, 13])
    last = len(noise_table()) - optics.width_px
    return rng.integers(0, last, size=optics.height_px, dtype=np.int64)


@lru_cache(maxsize=16)
def _overlay(width: int, height: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a strip of burnt-in text (h, W) uint8 and where it covers the picture."""
    rng = np.random.default_rng([seed, 14])
    when = datetime.datetime(2009, 1, 1) + datetime.timedelta(
        seconds=int(rng.integers(0, 400_000_000))
    )
    text = f"{when:%Y-%m-%d %H:%M:%S}"
    if rng.random() < 0.5:
        text = f"SAMPLE CAM {rng.integers(1, 9)}   {text}"
    size = max(10, height // 36)
    strip = Image.new("L", (width, size + 6), 0)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size)
    boxed = rng.random() < 0.4
    draw.text((7, 2), text, fill=1, font=font)
    draw.text((6, 1), text, fill=250, font=font)
    pixels = np.asarray(strip)
    # Without gray levels, as character generators do: black shadow, white text.
    pixels = np.where(pixels > 110, 250, np.where(pixels > 0, 1, 0)).astype(np.uint8)
    return pixels, np.ones_like(pixels, bool) if boxed else pixels > 0


def stamp(image: NDArray[np.uint8], optics: Optics) -> None:
    """Burn text and border rows into a picture (H, W, C) in place."""
    if optics.overlay:
        pixels, covered = _overlay(optics.width_px, optics.height_px, optics.pattern_seed)
        first = 0 if optics.pattern_seed % 2 else optics.height_px - len(pixels)  # top or bottom
        rows = slice(first, first + len(pixels))
        image[rows][covered] = pixels[covered][:, None]
    top, bottom, left, right = optics.border_px
    height, width = image.shape[:2]
    image[:top] = optics.border_level
    image[height - bottom :] = optics.border_level
    image[:, :left] = optics.border_level
    image[:, width - right :] = optics.border_level
