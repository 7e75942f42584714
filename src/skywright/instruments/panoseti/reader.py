"""Images of PFF files by the rows of an index: the reader of ``application/x-pff``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.files.index import IndexReader
from skywright.instruments.panoseti.pff_layout import HEADER_END, LONGEST_HEADER
from skywright.instruments.panoseti.products import PRODUCTS

MIMETYPE = "application/x-pff"


class PffReader(IndexReader):
    """Reads images. The column that `read` takes is the name of a product, for example ``img16``.

    Parameters
    ----------
    path
        Path of the index.
    column
        Has no effect, as in `IndexReader`.
    """

    def decode(self, records: Sequence[memoryview], column: str) -> NDArray[Any]:
        """Return the images of frames, (n, side, side).

        Raises
        ------
        DataError
            If `column` is no product, or a record is no frame of it.
        """
        product = PRODUCTS.get(column)
        if product is None:
            raise DataError(f"{self.path}: no column {column!r}; images are {', '.join(PRODUCTS)}")
        images = np.empty((len(records), product.side, product.side), product.dtype)
        for row, record in enumerate(records):
            start = len(record) - product.image_bytes
            mark = bytes(record[max(0, start - len(HEADER_END)) : max(0, start)])
            if not 0 < start <= LONGEST_HEADER or record[0] != ord("{") or mark != HEADER_END:
                raise DataError(f"{self.path}: row {row} is no frame of {product.name}")
            images[row] = np.frombuffer(record[start:], product.dtype).reshape(images.shape[1:])
        return images
