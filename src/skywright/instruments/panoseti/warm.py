"""Compile and load the kernels ahead, by the calls that the first frames will make."""

import tempfile
from pathlib import Path

import numpy as np

from skywright.instruments.panoseti.coincidences import find_coincidences
from skywright.instruments.panoseti.frames import Frames, make_frames
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.live.sockets import MODULE_BYTES, FrameStream
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.pff_writer import PffWriter, encode_frames
from skywright.instruments.panoseti.products import PRODUCTS, Product


def warm_up() -> None:
    """Write, read and encode a few frames of each product; search coincidences of a few events.

    Kernels are compiled for types, and arrays that cannot be written are another type: only the
    calls of the real readers and writers make what these need.
    """
    publisher = Publisher(Slots())
    with tempfile.TemporaryDirectory(prefix="panoseti-warm-") as folder:
        for product in PRODUCTS.values():
            frames = _frames(product)
            writer = PffWriter(Path(folder), product, 0, 0)
            writer.append(frames.numbers, frames.image, frames.quabo)
            writer.close()
            with writer.path.open("ab") as file:  # cut: the file is scanned for whole frames
                file.write(encode_frames(frames[:1])[:-1] + encode_frames(frames[:1]))
            with PffFile(writer.path) as read:
                publisher.publish_newest(read.read())
                read.frame_sizes(0, len(read))
            message = bytes(MODULE_BYTES) + encode_frames(frames[:1])
            FrameStream(product, publisher).feed(message)
    times, modules = np.array([1, 2, 3], np.int64), np.array([1, 2, 2], np.int64)
    find_coincidences(times, modules, 1)


def _frames(product: Product) -> Frames:
    count = 2
    zeros = np.zeros(count, np.int64)
    numbers = np.ones((count, product.quabos, len(FIELDS)), np.int64)
    image = np.zeros((count, product.side, product.side), product.dtype)
    return make_frames(product, 0, "", np.arange(count), zeros, zeros, numbers, image)
