"""The two compressions of bsread, each with a prefix that says how much comes out.

``bitshuffle_lz4``: int64 bytes uncompressed and int32 bytes a block, big-endian both, then the
stream of the bitshuffle library: the HDF5 filter's own layout. ``lz4``: uint32 bytes uncompressed,
in one or the other byte order, then one LZ4 block.
"""

import ctypes
import functools
import struct
from typing import Any, Literal

import bitshuffle.ext
import lz4.block
import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError

Compression = Literal["none", "lz4", "bitshuffle_lz4"]
COMPRESSIONS: tuple[Compression, ...] = ("none", "lz4", "bitshuffle_lz4")

LZ4_RATIO = 255
"""Greatest ratio of uncompressed to compressed bytes of an LZ4 block; limits what is allocated."""

BITSHUFFLE_PREFIX = struct.Struct(">qi")
BLOCK_PREFIX = struct.Struct(">I")
BLOCK_BYTES = 8192
BLOCK_ITEMS_MIN, BLOCK_ITEMS_MULTIPLE = 128, 8
"""A bitshuffle block has a multiple of `BLOCK_ITEMS_MULTIPLE` items, about `BLOCK_BYTES` long."""


def compress(
    data: NDArray[Any], compression: Compression, *, big_endian: bool = False
) -> memoryview | bytes:
    """Return a value frame: the prefix and the compressed bytes of an array.

    Parameters
    ----------
    data
        C-contiguous, any item size. With ``none`` its own memory is returned, not a copy.
    compression
        Of the channel.
    big_endian
        Byte order of the channel, in which lz4's size is written.
    """
    if compression == "none":
        return _as_bytes(data).data
    if compression == "lz4":
        order: Literal["big", "little"] = "big" if big_endian else "little"
        packed: bytes = lz4.block.compress(_as_bytes(data).data, store_size=False)
        return data.nbytes.to_bytes(4, order) + packed
    return _bitshuffle(data)


def decompress(
    frame: Any, compression: Compression, itemsize: int, nbytes: int | None
) -> NDArray[np.uint8]:
    """Return the bytes of a value frame; those of an uncompressed one are not copied.

    Parameters
    ----------
    frame
        A buffer of bytes, as received.
    compression, itemsize
        Of the channel; bytes an element.
    nbytes
        Expected number of uncompressed bytes; None if the shape is not known.

    Raises
    ------
    DataError
        If the frame contradicts itself. A size in its prefix above `LZ4_RATIO` times the frame is
        refused before memory is allocated.
    """
    data = np.frombuffer(frame, np.uint8)
    if compression == "none":
        out = data
    elif compression == "lz4":
        out = _unlz4(data, nbytes)
    else:
        out = _unbitshuffle(data, itemsize, nbytes)
    if nbytes is not None and out.nbytes != nbytes:
        raise DataError(f"value: {out.nbytes} bytes, expected {nbytes} by type and shape")
    return out


def default_block(itemsize: int) -> int:
    """Return the elements in a bitshuffle block of items of `itemsize` bytes."""
    items = BLOCK_BYTES // itemsize // BLOCK_ITEMS_MULTIPLE * BLOCK_ITEMS_MULTIPLE
    return max(items, BLOCK_ITEMS_MIN)


def _as_bytes(data: NDArray[Any]) -> NDArray[np.uint8]:
    return data.reshape(-1).view(np.uint8)


def _unlz4(data: NDArray[np.uint8], nbytes: int | None) -> NDArray[np.uint8]:
    if data.nbytes < 4:
        raise DataError(f"lz4: {data.nbytes} bytes, expected at least the 4 of the size")
    # The Python sender writes the size little-endian whatever the channel's order. The data fit to
    # one order only.
    sizes = [int.from_bytes(data[:4].tobytes(), o) for o in ("little", "big")]
    block = data[4:].data
    for size in sizes if nbytes is None else [nbytes] * (nbytes in sizes):
        if size > LZ4_RATIO * block.nbytes:
            continue
        if size == 0:
            return np.empty(0, np.uint8)
        try:
            out = lz4.block.decompress(block, uncompressed_size=size)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError):
            continue
        if len(out) == size:
            return np.frombuffer(out, np.uint8)
    raise DataError(f"lz4: size {sizes[0]} or {sizes[1]} does not fit {block.nbytes} bytes of data")


def _bitshuffle(data: NDArray[Any]) -> memoryview:
    block = default_block(data.itemsize)
    prefix = BITSHUFFLE_PREFIX.pack(data.nbytes, block * data.itemsize)
    library = _library()
    bound = library.bshuf_compress_lz4_bound(data.size, data.itemsize, block)
    out = np.empty(len(prefix) + bound, np.uint8)
    out[: len(prefix)] = np.frombuffer(prefix, np.uint8)
    target = out.ctypes.data + len(prefix)
    done = library.bshuf_compress_lz4(data.ctypes.data, target, data.size, data.itemsize, block)
    if done < 0:
        raise MemoryError(f"bitshuffle: error {done} on {data.nbytes} bytes")
    return out[: len(prefix) + done].data


def _unbitshuffle(data: NDArray[np.uint8], itemsize: int, nbytes: int | None) -> NDArray[np.uint8]:
    if data.nbytes < BITSHUFFLE_PREFIX.size:
        raise DataError(f"bitshuffle: {data.nbytes} bytes, expected at least the 12 of the prefix")
    size, block_bytes = BITSHUFFLE_PREFIX.unpack_from(data.data)
    stream = data[BITSHUFFLE_PREFIX.size :]
    if size == 0:
        return np.empty(0, np.uint8)
    # Each block has 4 bytes beside its LZ4 data, so this limit refuses no valid frame.
    if size < 0 or size % itemsize or size > LZ4_RATIO * stream.nbytes:
        raise DataError(f"bitshuffle: size {size} for {stream.nbytes} bytes of {itemsize}")
    if nbytes is not None and size != nbytes:
        raise DataError(f"bitshuffle: size {size}, expected {nbytes} by type and shape")
    block, odd = divmod(block_bytes, itemsize)
    block = block or default_block(itemsize)
    if block_bytes < 0 or odd or block % BLOCK_ITEMS_MULTIPLE:
        raise DataError(f"bitshuffle: block of {block_bytes} bytes of items of {itemsize}")
    _check_blocks(stream, size // itemsize, itemsize, block)
    out = np.empty(size, np.uint8)
    done = _library().bshuf_decompress_lz4(
        stream.ctypes.data, out.ctypes.data, size // itemsize, itemsize, block
    )
    if done != stream.nbytes:
        raise DataError(f"bitshuffle: {done} of {stream.nbytes} bytes used, or error if negative")
    return out


def _check_blocks(stream: NDArray[np.uint8], items: int, itemsize: int, block: int) -> None:
    """Raise unless the blocks fill `stream` to its end: the library trusts their sizes."""
    blocks = items // block + bool(items % block // BLOCK_ITEMS_MULTIPLE)
    view, at, end = stream.data, 0, stream.nbytes
    read = BLOCK_PREFIX.unpack_from
    try:
        for _ in range(blocks):
            at += 4 + read(view, at)[0]
    except struct.error:
        at = end + 1
    if at + items % BLOCK_ITEMS_MULTIPLE * itemsize != end:
        raise DataError(
            f"bitshuffle: {blocks} blocks do not end where the frame does ({end} bytes)"
        )


def _library() -> ctypes.CDLL:
    """Return the C library, with one thread for the caller: frames are what runs in parallel."""
    library = _loaded()
    if (set_threads := getattr(library, "omp_set_num_threads", None)) is not None:
        set_threads(1)  # holds for the calling thread
    return library


@functools.cache
def _loaded() -> ctypes.CDLL:
    """Load the C library inside the package: called this way it lets other threads run.

    The package's own functions hold the interpreter for the 3 ms that a full picture takes.
    """
    library = ctypes.CDLL(bitshuffle.ext.__file__)
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    library.bshuf_compress_lz4_bound.argtypes = [size] * 3
    library.bshuf_compress_lz4_bound.restype = size
    for function in (library.bshuf_compress_lz4, library.bshuf_decompress_lz4):
        function.argtypes = [pointer, pointer, size, size, size]
        function.restype = ctypes.c_int64
    return library
