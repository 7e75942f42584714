"""The layout of a PFF frame: text header, ``LF LF *``, image.

A header is fixed text around numbers. `HeaderLayout` is that text, taken from the first header of
a file, because writers differ in their padding; the kernels of `pff_kernels` compare every further
header with it and read its numbers.
"""

import json
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.instruments.panoseti import pff_kernels as kernels
from skywright.instruments.panoseti.products import Product

HEADER_END = b"\n\n*"
LONGEST_HEADER = 4096
"""No header is longer; the known ones have 121 and 489 bytes."""
NSEC_DIGITS = 9
"""Digits that ``pkt_nsec`` has; boards without lock make it longer, and with it that one header."""
FIELDS = ("pkt_num", "pkt_tai", "pkt_nsec", "tv_sec", "tv_usec")
"""Numbers of each board, in the order of the columns of a decoded header."""
_NUMBER = re.compile(rb'"(\w+)"(\s*:\s*?) *(-?[0-9]+)( *)(?=\s*[,}])')
"""A number and the blanks around it, which pad it; other white space is fixed text."""
_OBJECT = re.compile(rb'(?:"([^"]*)"\s*:\s*)?\{|\}')
"""The begin of an object, with its name if it has one, or the end."""


class IncompleteHeaderError(DataError):
    """The bytes end inside the first header: wait for more."""


@dataclass(frozen=True)
class HeaderLayout:
    """The fixed text of a header and the meaning of its numbers.

    Attributes
    ----------
    product
        The data product of the file.
    text
        (T,) uint8, all pieces of fixed text, one after the other, ``LF LF *`` included.
    starts
        (N + 2,) int64: piece k is ``text[starts[k]:starts[k + 1]]``; number k follows piece k.
    columns
        (N,) int64: column of `FIELDS` of the board, board number times 5 plus position, into
        which number k goes; -1 for ``quabo_num``, -2 for a number of another name.
    header_bytes
        Length of a regular header, ``LF LF *`` included.
    """

    product: Product
    text: NDArray[np.uint8]
    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    header_bytes: int

    @property
    def frame_bytes(self) -> int:
        """Length of a regular frame, header and image."""
        return self.header_bytes + self.product.image_bytes

    def parse(self, data: bytes) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Compare a header with this layout.

        Parameters
        ----------
        data
            Begins with the header.

        Returns
        -------
        length, numbers, quabo
            Length of the header, or a code of `pff_kernels` below 0 if it has another layout or is
            cut; (Q * 5,) its numbers, and (1,) its ``quabo_num``.
        """
        numbers = np.empty(self.product.quabos * len(FIELDS), np.int64)
        quabo = np.zeros(1, np.int64)
        raw = np.frombuffer(data, np.uint8)
        length = kernels.parse_header(raw, 0, self.text, self.starts, self.columns, numbers, quabo)
        return length, numbers, quabo


def read_layout(data: bytes, product: Product) -> HeaderLayout:
    """Return the layout of the first header in `data`.

    Parameters
    ----------
    data
        The beginning of a file; `LONGEST_HEADER` bytes are enough.
    product
        What the file's name says.

    Raises
    ------
    IncompleteHeaderError
        If `data` is empty or ends inside the header.
    DataError
        If `data` does not begin with a header of `product`.
    """
    if data and data[:1] != b"{":
        raise DataError(f"a PFF header begins with '{{', not with {data[:1]!r}")
    end = data.find(HEADER_END, 0, LONGEST_HEADER)
    if end < 0:
        if len(data) >= LONGEST_HEADER:
            raise DataError(f"no end of a PFF header in the first {LONGEST_HEADER} bytes")
        raise IncompleteHeaderError("the first PFF header is not complete")
    raw = data[:end]
    _check_names(raw, product)
    pieces, columns, overflow, last = [], [], 0, 0
    for found in _NUMBER.finditer(raw):
        name = found[1].decode()
        board = _board_before(raw, found.start(), product)
        column = -1 if name == "quabo_num" else -2
        if name in FIELDS and board is not None:
            column = board * len(FIELDS) + FIELDS.index(name)
        if name == "pkt_nsec":
            overflow += max(0, len(found[3]) - NSEC_DIGITS)
        pieces.append(raw[last : found.end(2)])
        columns.append(column)
        last = found.end(4)
    wanted = {*range(product.quabos * len(FIELDS)), *([-1] if product.quabos == 1 else [])}
    if wanted - set(columns):
        raise DataError(f"{product.name} header: not all of its numbers are written as such")
    pieces.append(raw[last:] + HEADER_END)
    lengths = np.cumsum([0, *map(len, pieces)])
    return HeaderLayout(
        product=product,
        text=np.frombuffer(b"".join(pieces), np.uint8),
        starts=lengths.astype(np.int64),
        columns=np.array(columns, np.int64),
        header_bytes=end + len(HEADER_END) - overflow,
    )


def find_layout(data: bytes, product: Product) -> HeaderLayout | None:
    """Return the layout of the first whole header in `data`, wherever it begins; None if none."""
    at = data.find(b"{")
    while at >= 0:
        try:
            return read_layout(data[at : at + LONGEST_HEADER], product)
        except DataError:
            at = data.find(b"{", at + 1)
    return None


def _check_names(raw: bytes, product: Product) -> None:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the first PFF header is not JSON: {error}") from error
    names = [f"quabo_{number}" for number in range(product.quabos)]
    boards = [header] if product.quabos == 1 else [header.get(name) for name in names]
    wanted = (*FIELDS, "quabo_num") if product.quabos == 1 else FIELDS
    for number, board in enumerate(boards):
        where = "" if product.quabos == 1 else f"quabo_{number}."
        for name in wanted:
            value = board.get(name) if isinstance(board, dict) else None
            if not isinstance(value, int):
                raise DataError(f"{product.name} header: {where}{name} must be a whole number")


def _board_before(raw: bytes, position: int, product: Product) -> int | None:
    """Return the number of the board whose object holds `position`; None outside of all boards."""
    path: list[bytes] = []
    for found in _OBJECT.finditer(raw, 0, position):
        if found[0] == b"}":
            del path[-1:]  # a text may hold more of them
        else:
            path.append(found[1] or b"")
    if product.quabos == 1:
        return 0 if len(path) == 1 else None
    boards = [b"quabo_%d" % number for number in range(product.quabos)]
    return boards.index(path[1]) if len(path) == 2 and path[1] in boards else None


def standard_header(product: Product) -> bytes:
    """Return the header that Hashpipe writes for `product`, all numbers 0."""
    widths = dict(zip(FIELDS, (10, 4, 9, 10, 6), strict=True))
    numbers = ", ".join(f'"{name}": {0:>{width}}' for name, width in widths.items())
    if product.quabos == 1:
        text = f'{{ "quabo_num": 0, {numbers}}}'
    else:
        lines = [f'   "quabo_{board}": {{ {numbers}}}' for board in range(product.quabos)]
        text = "{\n" + ", \n".join(lines) + "\n}"
    return text.encode() + HEADER_END
