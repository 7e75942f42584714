"""Regions of interest on a detector tile, and the spans of pixels that they cover."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError
from skywright.instruments.sacla.values import format_number

MASK = "mask="
"""Begin of the text of a mask, in place of corners."""


@dataclass(frozen=True)
class Mask:
    """The pixels of a region, one by one.

    Parameters
    ----------
    shape
        (rows, columns) of the tile.
    bits
        A bit for each pixel, row by row (`numpy.packbits`).
    source
        File that it was read from, as `read_mask` takes it.
    """

    shape: tuple[int, int]
    bits: bytes = field(repr=False)
    source: str = field(default="", compare=False)

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(rows, columns) bool."""
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=int(np.prod(self.shape)))
        return bits.reshape(self.shape).astype(bool)


@dataclass(frozen=True)
class Region:
    """Pixels of one detector: those inside a polygon, or those of a mask.

    Parameters
    ----------
    name
        Unique among the regions of an analysis.
    detector
        Detector id.
    points
        Corners (x = column, y = row) in pixels; pixel centers are at integers.
    mask
        In place of corners.
    """

    name: str
    detector: str
    points: tuple[tuple[float, float], ...] = ()
    mask: Mask | None = None

    def pixels(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the pixels of a tile that belong to the region, (rows, columns) bool.

        Raises
        ------
        ConfigError
            If the mask is of a tile of another shape.
        """
        if self.mask is None:
            return polygon_mask(self.points, shape)
        if not self.fits(shape):
            raise ConfigError(
                f"ROI {self.name}: mask of shape {self.mask.shape}, expected {shape}, the rows and "
                f"columns of {self.detector}"
            )
        return self.mask.pixels

    def fits(self, shape: tuple[int, int] | None) -> bool:
        """Return whether the region can be of a tile of (rows, columns); None: not known."""
        return self.mask is None or shape is None or self.mask.shape == shape


def parse_region(text: str) -> Region:
    """Read ``NAME:DET:x,y;x,y;...`` or ``NAME:DET:mask=FILE`` (`read_mask`).

    Raises
    ------
    ConfigError
        If the text has another form or fewer than three corners, or there is no such mask.
    """
    parts = text.split(":", 2)
    if len(parts) != 3 or not parts[0] or not parts[1]:
        raise ConfigError(
            f"ROI {text!r}: expected NAME:DETECTOR:x,y;x,y;... or NAME:DETECTOR:mask=FILE"
        )
    name, detector, corners = parts
    if corners.startswith(MASK):
        try:
            return Region(name, detector, mask=read_mask(corners.removeprefix(MASK)))
        except ConfigError as error:
            raise ConfigError(f"ROI {name}: {error}") from None
    points = []
    for corner in corners.strip().strip(";").split(";"):
        try:
            x, y = (float(number) for number in corner.split(","))
        except ValueError:
            raise ConfigError(f"ROI {name}: corner {corner!r}, expected x,y") from None
        if not (np.isfinite(x) and np.isfinite(y)):
            raise ConfigError(f"ROI {name}: corner {corner!r} is not finite")
        points.append((x, y))
    if len(points) < 3:
        raise ConfigError(f"ROI {name}: {len(points)} corners, expected at least 3")
    return Region(name, detector, tuple(points))


def format_region(region: Region) -> str:
    """Return a region as `parse_region` reads it."""
    if region.mask is not None:
        return f"{region.name}:{region.detector}:{MASK}{region.mask.source}"
    corners = ";".join(f"{format_number(x)},{format_number(y)}" for x, y in region.points)
    return f"{region.name}:{region.detector}:{corners}"


def read_mask(source: str) -> Mask:
    """Read a mask from a file: (rows, columns), True or 1 for the pixels of the region.

    Parameters
    ----------
    source
        ``FILE.npy``, or ``FILE:DATASET`` of an HDF5 file.

    Raises
    ------
    ConfigError
        If it cannot be read, has another form, or no pixel.
    """
    if not source or any(letter.isspace() for letter in source):
        raise ConfigError(f"mask {source!r}: expected a file, without blanks in its path")
    try:
        values = _read_array(source)
    except Exception as error:  # numpy and h5py raise many kinds
        raise ConfigError(f"mask {source}: not readable ({error})") from None
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ConfigError(
            f"mask {source}: {values.dtype} of shape {values.shape}, expected (rows, columns) of "
            "bool or integers"
        )
    pixels = values == 1
    if not pixels.any():
        raise ConfigError(f"mask {source}: no pixel is True or 1")
    if (values[~pixels] != 0).any():
        raise ConfigError(f"mask {source}: values other than 0 and 1")
    return make_mask(pixels, source)


def make_mask(pixels: NDArray[np.bool_], source: str = "") -> Mask:
    """Return (rows, columns) bool as a mask."""
    rows, columns = pixels.shape
    return Mask((rows, columns), np.packbits(pixels).tobytes(), source)


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of an NPY file.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, also as it is an NPZ file, which `numpy.load` would take.
    """
    with path.open("rb") as file:
        values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return values


def _read_array(source: str) -> NDArray[Any]:
    if source.endswith(".npy"):
        return read_npy(Path(source))
    import h5py

    path, colon, dataset = source.rpartition(":")
    if not colon:
        raise ValueError("expected FILE.npy, or FILE:DATASET of an HDF5 file")
    with h5py.File(path, "r") as file:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise KeyError(f"no dataset {dataset}")
        return np.asarray(found[()])


def polygon_mask(
    points: tuple[tuple[float, float], ...], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Find the pixels whose center is inside a polygon, by the even-odd rule.

    A center that lies exactly on an edge belongs to the polygon on the left and upper edges only,
    so that polygons that share an edge share no pixel. That holds for corners at whole or half
    pixels; others are rounded, and a center on the edge may belong to both or to none.

    Parameters
    ----------
    points
        Corners (x, y).
    shape
        (rows, columns) of the tile.

    Returns
    -------
    NDArray
        (rows, columns) bool.
    """
    rows, columns = shape
    inside = np.zeros(shape, bool)
    x = np.arange(columns, dtype=float)
    corners = np.asarray(points, float)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = min(y0, y1), max(y0, y1)
        # The rows y with low <= y < high: the edge counts at its upper end, not at its lower.
        first, last = max(int(np.ceil(low)), 0), min(int(np.ceil(high)), rows)
        if first >= last:
            continue
        y = np.arange(first, last, dtype=float)
        crossing = (x1 - x0) * (y - y0) / (y1 - y0) + x0
        inside[first:last] ^= x[None, :] < crossing[:, None]
    return inside


def pixel_spans(masks: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """List the runs of consecutive pixels of several masks, in the order of memory.

    Parameters
    ----------
    masks
        (rows, columns) each, all of one shape.

    Returns
    -------
    NDArray
        (n, 3): index of the mask, first pixel, one past the last pixel (flat indices), sorted by
        first pixel.
    """
    spans = []
    for number, mask in enumerate(masks):
        edges = np.diff(np.concatenate(([0], mask.ravel().astype(np.int8), [0])))
        first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        spans.append(np.stack([np.full(len(first), number), first, last], axis=1))
    if not spans:
        return np.empty((0, 3), np.int64)
    found = np.concatenate(spans).astype(np.int64)
    return np.ascontiguousarray(found[np.argsort(found[:, 1], kind="stable")])


def cut_spans(spans: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Cut spans at the multiples of a length.

    Parameters
    ----------
    spans
        (n, 3), `pixel_spans`.
    length
        Pixels.

    Returns
    -------
    NDArray
        (m, 3), no span longer than `length`, sorted by first pixel.
    """
    numbers, first, last = spans.T
    count = (last - 1) // length - first // length + 1
    which = np.repeat(np.arange(len(spans)), count)
    piece = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    start = (first // length)[which] * length + piece * length
    begin, end = np.maximum(first[which], start), np.minimum(last[which], start + length)
    found = np.stack([numbers[which], begin, end], axis=1)
    return np.ascontiguousarray(found[np.argsort(found[:, 1], kind="stable")])
