"""Compile the kernels ahead."""

import numpy as np

from skywright.instruments.panoseti.frames import make_frames
from skywright.instruments.panoseti.pff_kernels import decode
from skywright.instruments.panoseti.pff_layout import FIELDS, read_layout
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import PRODUCTS


def warm_up() -> None:
    """Write and decode a frame of each product."""
    for product in PRODUCTS.values():
        image = np.zeros((1, product.side, product.side), product.dtype)
        zeros = np.zeros(1, np.int64)
        numbers = np.zeros((1, product.quabos, len(FIELDS)), np.int64)
        data = encode_frames(make_frames(product, 0, "", zeros, zeros, zeros, numbers, image))
        layout = read_layout(data, product)
        decode(
            np.frombuffer(data, np.uint8), layout.text, layout.starts, layout.columns,
            product.image_bytes, 1, True, zeros, numbers.reshape(1, -1), zeros,
            np.empty((1, product.image_bytes), np.uint8),
        )  # fmt: skip
