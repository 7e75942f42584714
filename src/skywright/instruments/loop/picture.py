"""Camera pictures: from the bytes of an image file to an array, and back."""

import io
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skywright.errors import DataError
from skywright.instruments.loop.detection import SIDE_MIN_PX

Size = tuple[int, int]
"""Width and height, px."""
PNG = b"\x89PNG"
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError),
    Image.DecompressionBombError,
)
"""What Pillow raises for files that it cannot read; SyntaxError for broken PNG chunks, RuntimeError
for broken AVIF, and NotImplementedError, a RuntimeError, for rare kinds of DDS and BLP."""
PIXELS_MAX = 100_000_000
"""Most pixels of a JPEG. No camera has more; a damaged header may say so."""
LOST_DATA = re.compile(
    r"Corrupt JPEG data: (?!\d{1,2} extraneous bytes"
    r"|\d+ extraneous bytes before marker 0x(?:c[0-3]|d[bd]|e[0-9a-f]|fe))"
)
"""libjpeg's warnings that pixels are lost, which Pillow does not report. Fewer than 100 odd bytes
before the next part of a file are what some cameras fill it up with; before a part of the header,
where no pixels can be lost, they may be more. Other parts (0xc4, 0xda) follow pixels too, in a
progressive file."""


def decode(data: bytes, source: str = "picture", color: bool = False) -> NDArray[np.uint8]:
    """Decode the bytes of an image file.

    Parameters
    ----------
    data
        The whole file: JPEG, PNG or what else Pillow reads.
    source
        Name of the file, URL or frame, for error messages.
    color
        Whether to return RGB; of files other than JPEG its three channels are equal.

    Returns
    -------
    (H, W) or (H, W, 3) uint8
        Luminance, or RGB. Of deeper pictures the least of 10, 12, 14, 16 bits that holds them is
        scaled to 0..255; of floating-point pictures up to 1.0 it is 0..1.

    Raises
    ------
    DataError
        If the bytes are empty, truncated, no picture, or a picture smaller than 32 x 32.
    """
    if not data:
        raise DataError(f"{source}: 0 bytes, expected an image file; was the upload cut off?")
    is_jpeg = data.startswith(b"\xff\xd8")
    picture = _decode_jpeg(data, source, color) if is_jpeg else _decode_other(data, source)
    height, width = picture.shape[:2]
    if min(height, width) < SIDE_MIN_PX:
        raise DataError(
            f"{source}: picture of {width} x {height} pixels, expected at least "
            f"{SIDE_MIN_PX} x {SIDE_MIN_PX}; check the resolution of the camera"
        )
    return np.dstack([picture] * 3) if color and picture.ndim == 2 else picture


def read_file(path: str | Path) -> bytes:
    """Return the bytes of an image file; `DataError` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason})") from error


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file to luminance, (H, W) uint8; `DataError` if that fails."""
    return decode(read_file(path), str(path))


def picture_size(data: bytes, known: Collection[Size | None] = ()) -> Size | None:
    """Return width and height of an image file, None if it is damaged.

    A size that is one of the `known` is taken from the header alone, which may lie.
    """
    with suppress(*DECODE_ERRORS), Image.open(io.BytesIO(data)) as image:
        if image.size in known:
            return image.size
    with suppress(DataError):
        height, width = decode(data).shape
        return width, height
    return None


def to_gray(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn color, (H, W, 3) uint8, into luminance, (H, W) uint8; gray stays as it is.

    Luminance is that of ITU-R BT.601, in fixed point.
    """
    if picture.ndim != 3 or picture.shape[2] != 3:
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))


def _decode_jpeg(data: bytes, source: str, color: bool) -> NDArray[np.uint8]:
    """Decode a JPEG to its luminance or RGB; libjpeg's warnings (missing data) are errors."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > PIXELS_MAX:
            raise DataError(
                f"{source}: {width} x {height} pixels, expected at most {PIXELS_MAX}; "
                "is it a camera picture?"
            )
        if color:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        return simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0]
    except ValueError as error:
        # libjpeg cannot convert CMYK and other rare kinds; Pillow refuses broken ones.
        if not LOST_DATA.match(str(error)):
            with suppress(DataError):
                return _decode_other(data, source)
        raise DataError(
            f"{source}: JPEG of {len(data)} bytes cannot be decoded ({error}); "
            "it is truncated or damaged, take the picture again"
        ) from error


def _decode_other(data: bytes, source: str) -> NDArray[np.uint8]:
    """Decode what Pillow knows: PNG, TIFF, BMP, CMYK JPEG."""
    try:
        if data.startswith(PNG):
            with Image.open(io.BytesIO(data)) as image:
                image.verify()  # the checksums, which are not looked at when pixels are decoded
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I") or image.mode == "F":
                return _scaled_to_bytes(np.asarray(image))
            if image.has_transparency_data:
                # Transparent parts show the bright field behind, as a viewer would.
                white = Image.new("RGBA", image.size, "white")
                return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("L"))
            return np.array(image.convert("L"))
    except Image.DecompressionBombError as error:
        raise DataError(f"{source}: refused, {error}; expected a camera picture") from error
    except DECODE_ERRORS as error:
        # Pillow's message for an unknown format shows the address of a Python object.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else str(error)
        raise DataError(
            f"{source}: {len(data)} bytes cannot be decoded as a picture ({reason}); "
            "expected JPEG or PNG, whole"
        ) from error


def _scaled_to_bytes(pixels: NDArray) -> NDArray[np.uint8]:
    """Map a picture deeper than 8 bits to 0..255 by the least bit depth that holds it."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite")
    if pixels.dtype.kind == "f" and values.max() <= 1.0:
        return np.clip(values * 255.0, 0, 255).astype(np.uint8)
    # Cameras of 10, 12 and 14 bits write their counts unscaled into 16-bit files.
    depth = next((bits for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits), 32)
    return np.clip(values * (255.0 / (2**depth - 1)), 0, 255).astype(np.uint8)


def encode_jpeg(picture: NDArray[np.uint8], quality: int = 85, subsampling: str = "420") -> bytes:
    """Encode a picture, (H, W) or (H, W, 3) uint8, as JPEG of a quality 0..100.

    Subsampling of color is 420 as video encoders do, or 444 for lines of one pixel.
    """
    pixels = np.ascontiguousarray(np.atleast_3d(picture))
    space = "GRAY" if picture.ndim == 2 else "RGB"
    return simplejpeg.encode_jpeg(pixels, quality, space, subsampling)


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture, (H, W) or (H, W, 3) uint8, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
