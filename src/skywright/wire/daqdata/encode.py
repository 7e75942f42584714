"""Encode an image as the bytes of a StreamImagesResponse, and decode one.

The header of a product always has the same keys, and a protobuf Struct holds its numbers as eight
bytes each. So the header is encoded once, and each image puts its numbers into a copy. The fields
of a protobuf message may follow each other in any order: the rest is made by protobuf itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from numba import njit
from numpy.typing import ArrayLike, NDArray

from skywright.errors import DataError
from skywright.wire.daqdata import daq_data_pb2 as pb

_HEADER_TAG, _IMAGE_TAG, _RESPONSE_IMAGE_TAG = b"\x12", b"\x1a", b"\x22"
_MARK = 1e300
"""No header number comes near it: marks the places of the numbers in an encoded header."""


@njit(cache=True, nogil=True)
def _pack_varints(pixels, out):  # type: ignore[no-untyped-def]
    """Write (N,) uint16 or uint8 as varints into `out`; return the number of bytes."""
    end = 0
    for pixel in pixels:
        value = np.uint32(pixel)
        while value > 127:
            out[end] = (value & 127) | 128
            value >>= 7
            end += 1
        out[end] = value
        end += 1
    return end


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class ImageEncoder:
    """Encode images of one product.

    Parameters
    ----------
    name
        Of the product; goes into the response's ``name``.
    movie
        Whether the images are counts; else they are pulse heights.
    side, bytes_per_pixel
        Of an image.
    keys
        Path of each header number, for instance ``("quabo_0", "pkt_num")``.
    """

    def __init__(
        self,
        name: str,
        movie: bool,
        side: int,
        bytes_per_pixel: int,
        keys: Sequence[tuple[str, ...]],
    ) -> None:
        self._name = name
        self._fixed = pb.PanoImage(
            type=pb.PanoImage.MOVIE if movie else pb.PanoImage.PULSE_HEIGHT,
            shape=[side, side],
            bytes_per_pixel=bytes_per_pixel,
        ).SerializeToString()
        self._unsigned = np.dtype(f"<u{bytes_per_pixel}")
        self._packed = np.empty(side * side * 3, np.uint8)
        self._header, self._places = _header_template(keys)

    def encode(
        self,
        numbers: ArrayLike,
        image: NDArray[np.generic],
        file: str,
        frame_number: int,
        module: int,
        time_ns: int = 0,
        message: str = "",
    ) -> bytes:
        """Return a serialized StreamImagesResponse.

        Parameters
        ----------
        numbers
            (K,), the header numbers in the order of `keys`.
        image
            (side, side), any dtype of the product's width: the bits are sent as unsigned numbers.
        file
            Base name of the file the image is from; empty for none.
        frame_number
            0-based position in that file.
        module
            Number of the module.
        time_ns
            Goes into the response's ``timestamp``: ns since 1970 UTC.
        message
            Goes into the response's ``message``.
        """
        header = self._header.copy()
        header[self._places] = np.asarray(numbers, "<f8").view(np.uint8).reshape(-1, 8)
        pixels = np.ascontiguousarray(image).view(self._unsigned).reshape(-1)
        length = _pack_varints(pixels, self._packed)
        rest = pb.PanoImage(file=file, frame_number=frame_number, module_id=module)
        body = b"".join(
            (
                self._fixed,
                _HEADER_TAG, _varint(len(header)), header.tobytes(),
                _IMAGE_TAG, _varint(length), self._packed[:length].tobytes(),
                rest.SerializeToString(),
            )
        )  # fmt: skip
        outer = pb.StreamImagesResponse(name=self._name, message=message)
        outer.timestamp.FromNanoseconds(time_ns)
        return b"".join((outer.SerializeToString(), _RESPONSE_IMAGE_TAG, _varint(len(body)), body))


def _header_template(
    keys: Sequence[tuple[str, ...]],
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return an encoded header, and (K, 8) the bytes of each number in it."""
    marks = _MARK * (1 + np.arange(len(keys)) / 1024)
    nested: dict[str, Any] = {}
    for path, mark in zip(keys, marks, strict=True):
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = float(mark)
    struct = Struct()
    struct.update(nested)
    encoded = struct.SerializeToString(deterministic=True)
    starts = np.array([encoded.index(mark.tobytes()) for mark in marks.astype("<f8")])
    return np.frombuffer(encoded, np.uint8).copy(), starts[:, np.newaxis] + np.arange(8)


@dataclass(frozen=True)
class LiveImage:
    """An image as a client sees it.

    Attributes
    ----------
    movie
        True for counts, False for pulse heights.
    module
        Number of the module.
    header
        The frame's header; numbers are int.
    image
        (H, W): uint8 or uint16 counts, or int16 pulse heights.
    file, frame_number
        Where the frame is; `file` is empty for an image that is in none.
    time_ns
        ns since 1970 UTC as the server computed them; 0 if it does not send them.
    message
        Text from the server about this image.
    """

    movie: bool
    module: int
    header: dict[str, Any]
    image: NDArray[np.generic]
    file: str
    frame_number: int
    time_ns: int
    message: str

    @property
    def quabo(self) -> int | None:
        """Board of a 16 x 16 image; None for a 32 x 32 image."""
        number = self.header.get("quabo_num")
        return number if type(number) is int else None


def decode(response: pb.StreamImagesResponse) -> LiveImage:
    """Return the image of a response.

    Raises
    ------
    DataError
        If the pixels do not fit the shape, or the width of a pixel is not 1 or 2 bytes.
    """
    image = response.pano_image
    movie = image.type == pb.PanoImage.MOVIE
    return LiveImage(
        movie=movie,
        module=image.module_id,
        header={name: _python_value(value) for name, value in image.header.fields.items()},
        image=pixels_of(image),
        file=image.file,
        frame_number=image.frame_number,
        time_ns=response.timestamp.ToNanoseconds(),
        message=response.message,
    )


def pixels_of(image: pb.PanoImage) -> NDArray[np.generic]:
    """Return the pixels of an image in their own dtype and shape.

    Raises
    ------
    DataError
        If the pixels do not fit the shape, or the width of a pixel is not 1 or 2 bytes.
    """
    if image.bytes_per_pixel not in (1, 2):
        raise DataError(f"bytes_per_pixel must be 1 or 2, it is {image.bytes_per_pixel}")
    unsigned = np.dtype(f"<u{image.bytes_per_pixel}")
    values = np.array(image.image_array, np.uint32)
    shape = tuple(image.shape)
    if len(shape) != 2 or values.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"image_array has {values.size} pixels, shape is {shape}")
    if values.size and values.max() > np.iinfo(unsigned).max:
        raise DataError(f"a pixel of {values.max()} does not fit {image.bytes_per_pixel} bytes")
    pixels = values.astype(unsigned).reshape(shape)
    signed = image.type == pb.PanoImage.PULSE_HEIGHT and image.bytes_per_pixel == 2
    return pixels.view("<i2") if signed else pixels


def _python_value(value: Value) -> Any:
    """Return a value of a header; protobuf's own function refuses NaN and infinity."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _python_value(each) for name, each in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_python_value(each) for each in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(value, kind)
