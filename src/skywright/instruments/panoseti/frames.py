"""Decoded frames of one module and product, and the quadrants of their images."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.clock import SEC, date_frames
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import QUABO_SIDE, QUABOS, Product

QUADRANTS = (
    (slice(0, QUABO_SIDE), slice(0, QUABO_SIDE)),
    (slice(0, QUABO_SIDE), slice(QUABO_SIDE, None)),
    (slice(QUABO_SIDE, None), slice(QUABO_SIDE, None)),
    (slice(QUABO_SIDE, None), slice(0, QUABO_SIDE)),
)
"""Rows and columns of boards 0 to 3 in a 32 x 32 image: clockwise from the upper left."""


@dataclass(frozen=True)
class Frames:
    """N frames, in the order of their file.

    Attributes
    ----------
    product, module
        Of all frames.
    file
        Name of the file they are from.
    number
        (N,) int64, 0-based position in that file.
    offset
        (N,) int64, byte at which the frame begins.
    time_ns
        (N,) int64, ns since 1970 UTC; 0 if no board sent a packet.
    flags
        (N,) uint8, see `clock.Flag`.
    quabo
        (N,) int64, board of a 16 x 16 image; 0 for 32 x 32.
    numbers
        (N, Q, 5) int64, header numbers of each board, columns as in `pff_layout.FIELDS`.
    image
        (N, H, W) of the product's dtype, as in the file.
    """

    product: Product
    module: int
    file: str
    number: NDArray[np.int64]
    offset: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    flags: NDArray[np.uint8]
    quabo: NDArray[np.int64]
    numbers: NDArray[np.int64]
    image: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, rows: slice | NDArray[np.generic]) -> "Frames":
        return replace(
            self,
            **{
                name: getattr(self, name)[rows]
                for name in (
                    "number", "offset", "time_ns", "flags", "quabo", "numbers", "image"
                )
            },
        )  # fmt: skip

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N, Q): whether each board's packet arrived."""
        return self.numbers[:, :, SEC] > 0

    def masked(self) -> np.ma.MaskedArray:
        """Return the images with the pixels of missing boards masked."""
        return np.ma.MaskedArray(self.image, mask=missing_pixels(self.present, self.product))

    def header(self, row: int) -> dict[str, object]:
        """Return the header of one frame as its JSON would read."""
        boards = [dict(zip(FIELDS, map(int, board), strict=True)) for board in self.numbers[row]]
        if self.product.quabos == 1:
            return {"quabo_num": int(self.quabo[row]), **boards[0]}
        return {f"quabo_{number}": board for number, board in enumerate(boards)}


def make_frames(
    product: Product,
    module: int,
    file: str,
    number: NDArray[np.int64],
    offset: NDArray[np.int64],
    quabo: NDArray[np.int64],
    numbers: NDArray[np.int64],
    image: NDArray[np.generic],
) -> Frames:
    """Return `Frames`, dated; arguments as the attributes of `Frames`."""
    numbers = numbers.reshape(len(number), product.quabos, len(FIELDS))
    time_ns = np.empty(len(number), np.int64)
    flags = np.empty(len(number), np.uint8)
    date_frames(numbers, time_ns, flags)
    return Frames(product, module, file, number, offset, time_ns, flags, quabo, numbers, image)


def missing_pixels(present: NDArray[np.bool_], product: Product) -> NDArray[np.bool_]:
    """Return (N, H, W): True where the pixel belongs to a board that is not `present` (N, Q)."""
    mask = np.zeros((len(present), product.side, product.side), bool)
    if product.quabos == 1:
        mask[:] = ~present[:, :, np.newaxis]
        return mask
    for board in range(QUABOS):
        rows, columns = QUADRANTS[board]
        mask[:, rows, columns] = ~present[:, board, np.newaxis, np.newaxis]
    return mask
