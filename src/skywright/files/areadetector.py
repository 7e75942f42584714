"""Images in the HDF5 layout of areaDetector's `NDFileHDF5`: paths, columns, and a writer.

Source: the default layout of https://areadetector.github.io/areaDetector/ADCore/NDFileHDF5.html.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from skywright.files.columns import Column, ColumnWriter
from skywright.files.file_writer import FileWriter

IMAGE = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
UNIQUE_ID = f"{ATTRIBUTES}/NDArrayUniqueId"
TIME_STAMP = f"{ATTRIBUTES}/NDArrayTimeStamp"
EPICS_SECONDS = f"{ATTRIBUTES}/NDArrayEpicsTSSec"
EPICS_NANOSECONDS = f"{ATTRIBUTES}/NDArrayEpicsTSnSec"
WIDTH, HEIGHT = f"{ATTRIBUTES}/picture_width", f"{ATTRIBUTES}/picture_height"

EPICS_EPOCH_S = 631_152_000
"""1990-01-01 in Unix seconds."""
EPICS_SECONDS_MAX = 2**32 - 1
"""In 2126, the last time that `EPICS_SECONDS` can hold."""

GROUPS: Mapping[str, Mapping[str, Any]] = {
    "/entry": {"NX_class": "NXentry", "default": "data"},
    "/entry/data": {"NX_class": "NXdata", "signal": "data"},
    "/entry/instrument": {"NX_class": "NXinstrument"},
    "/entry/instrument/detector": {"NX_class": "NXdetector"},
    ATTRIBUTES: {"NX_class": "NXcollection"},
}
LINKS: Mapping[str, str] = {"/entry/instrument/detector/data": IMAGE}


def image_columns(shape: Sequence[int], dtype: DTypeLike) -> tuple[Column, ...]:
    """Return the columns of a file of images, without the identity.

    Parameters
    ----------
    shape
        Shape of an image: (H, W), or (H, W, 3) in color.
    dtype
        Dtype of its pixels.
    """
    size = {"units": "px", "description": "of the image; the pixels outside are 0"}
    return (
        Column(
            IMAGE,
            np.dtype(dtype).newbyteorder("<").str,
            tuple(shape),
            1,
            {"signal": 1, "interpretation": "image"},
        ),
        Column(TIME_STAMP, "<f8", attrs={"units": "s", "description": "Unix time"}),
        Column(EPICS_SECONDS, "<u4", attrs={"units": "s", "description": "since 1990-01-01"}),
        Column(EPICS_NANOSECONDS, "<u4", attrs={"units": "ns"}),
        Column(WIDTH, "<i4", attrs=size),
        Column(HEIGHT, "<i4", attrs=size),
    )


def time_values(time_ns: ArrayLike, time_s: ArrayLike | None = None) -> dict[str, ArrayLike]:
    """Return the values of the columns of time.

    Parameters
    ----------
    time_ns
        int64 scalar or (n,), ns since 1970.
    time_s
        float64 Unix time, where that is what was measured; None: from `time_ns`.
    """
    seconds, nanoseconds = np.divmod(np.asarray(time_ns, np.int64), 1_000_000_000)
    return {
        TIME_STAMP: np.asarray(time_ns, np.int64) / 1e9 if time_s is None else time_s,
        EPICS_SECONDS: np.clip(seconds - EPICS_EPOCH_S, 0, EPICS_SECONDS_MAX),
        EPICS_NANOSECONDS: nanoseconds,
    }


class ImageWriter(FileWriter):
    """The one writer of a file of images of one shape and type; not thread-safe.

    Parameters
    ----------
    path
        Path of the new file; its directory must exist.
    shape
        Shape of an image: (H, W), or (H, W, 3) in color. A smaller image is stored in the upper
        left corner, the rest is 0; `WIDTH` and `HEIGHT` are its size.
    dtype
        Dtype of its pixels.
    identity
        Description of the identity, for the file.
    extra
        Further columns, one value for each image.

    Raises
    ------
    DataError
        If the file exists.
    OSError
        If it cannot be created.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        dtype: DTypeLike = np.uint8,
        identity: str = "frame number",
        extra: Sequence[Column] = (),
    ) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        columns = (*image_columns(shape, dtype), *extra)
        identities = Column(UNIQUE_ID, "<i8", attrs={"description": identity})
        super().__init__(ColumnWriter(path, columns, identities, GROUPS, LINKS))

    def reason_to_reject(self, image: NDArray[Any]) -> str:
        """Return the reason to reject an image: ``wrong size``, ``wrong dtype``, or "" for none."""
        height, width, *depth = image.shape
        if height > self.shape[0] or width > self.shape[1] or depth != list(self.shape[2:]):
            return "wrong size"
        return "" if np.can_cast(image.dtype, self.dtype, "safe") else "wrong dtype"

    def append(
        self,
        identity: int,
        image: NDArray[Any],
        time_ns: int,
        time_s: float | None = None,
        extra: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Append an image for which `reason_to_reject` returns "".

        Parameters
        ----------
        identity
            Frame number or pulse id.
        image
            (H, W) or (H, W, 3).
        time_ns, time_s
            As for `time_values`.
        extra
            Values of the further columns, by path.

        Raises
        ------
        DataError
            If a value is missing or does not fit.
        OSError
            If the disk is full or fails; the image is not recorded then.
        """
        height, width = image.shape[:2]
        if image.shape != self.shape:
            whole = np.zeros(self.shape, self.dtype)
            whole[:height, :width] = image
            image = whole
        rows = {IMAGE: image, WIDTH: width, HEIGHT: height, **time_values(time_ns, time_s)}
        self.writer.append(identity, rows | dict(extra or {}))
