"""Compiled loops over PFF frames: compare headers with the layout, read numbers, write headers."""

import numpy as np
from numba import njit

LBRACE, RBRACE, LINE_FEED, BLANK, ZERO, NINE = 123, 125, 10, 32, 48, 57
MISMATCH = -1
CUT = -2
"""The data ends inside the header."""
CUT_MIN = 4
"""Bytes of a header, at the end of an image, that are hardly those of an image by chance."""
DIGITS_MAX = 18


@njit(cache=True, nogil=True)
def parse_header(data, at, text, starts, columns, numbers, quabo):  # type: ignore[no-untyped-def]
    """Compare the header at `at` with the layout and read its numbers.

    Returns
    -------
    int
        Length of the header, or `MISMATCH`, or `CUT`.
    """
    size = data.size
    here = at
    for k in range(columns.size + 1):
        for i in range(starts[k], starts[k + 1]):
            if here >= size:
                return CUT
            if data[here] != text[i]:
                return MISMATCH
            here += 1
        if k == columns.size:
            break
        while here < size and data[here] == BLANK:
            here += 1
        value, digits = np.int64(0), 0
        while here < size and ZERO <= data[here] <= NINE:
            value = value * 10 + (data[here] - ZERO)
            here += 1
            digits += 1
        while here < size and data[here] == BLANK:
            here += 1
        if here >= size:
            return CUT
        if digits == 0 or digits > DIGITS_MAX:
            return MISMATCH
        if columns[k] >= 0:
            numbers[columns[k]] = value
        elif columns[k] == -1:
            quabo[0] = value
    return here - at


@njit(cache=True, nogil=True)
def find_header(data, at, text, starts, columns, numbers, quabo):  # type: ignore[no-untyped-def]
    """Return where the next valid or cut header begins, at `at` or later; the size if nowhere."""
    for here in range(at, data.size):
        if data[here] == LBRACE:
            length = parse_header(data, here, text, starts, columns, numbers, quabo)
            if length != MISMATCH:
                return here
    return data.size


@njit(cache=True, nogil=True)
def find_cut_header(data, begin, least, text, starts, columns, numbers, quabo):  # type: ignore[no-untyped-def]
    """Return where a header begins in which `data` ends, at `begin` or later; the size if nowhere.

    At least `least` bytes of it are there.
    """
    for here in range(data.size - 1, data.size - 1 - least, -1):  # most images end here at once
        if not (BLANK <= data[here] <= RBRACE or data[here] == LINE_FEED):
            return data.size
    for here in range(begin, data.size - least + 1):
        if (
            data[here] == LBRACE
            and parse_header(data, here, text, starts, columns, numbers, quabo) == CUT
        ):
            return here
    return data.size


@njit(cache=True, nogil=True)
def decode(data, text, starts, columns, image_bytes, most, offsets, numbers, quabo, pixels):  # type: ignore[no-untyped-def]
    """Decode the frames in `data` from its first byte.

    A frame counts when its header is valid and its image is complete. The image was cut when no
    header follows it and a header begins inside it, of which `CUT_MIN` bytes are enough: the next
    frame may be cut in its header. If a header follows all the same, that beginning must reach
    beyond its first number: an image may hold such text. Bytes between frames are skipped and
    counted. A frame that is cut at the end of `data` is left to the next call: the file may grow.

    Parameters
    ----------
    data
        (B,) uint8.
    most
        Decode at most this number of frames.
    offsets, numbers, quabo, pixels
        Filled: (M,) int64, (M, 5 Q) int64, (M,) int64 and (M, image_bytes) uint8. `pixels` may
        have no rows: then no image is copied.

    Returns
    -------
    frames, used, skipped, torn
        Number of frames, bytes of `data` that are dealt with, bytes skipped, frames whose image
        is not complete.
    """
    size = data.size
    here, count, skipped, torn = 0, 0, 0, 0
    row = np.zeros(numbers.shape[1], np.int64)
    board = np.zeros(1, np.int64)
    ahead_row, ahead_board = np.zeros_like(row), np.zeros_like(board)
    cut_row, cut_board = np.zeros_like(row), np.zeros_like(board)
    ahead = 0  # length of the header at `here`, where the frame before has looked at it
    while count < most and here < size:
        if ahead > 0:
            row, ahead_row = ahead_row, row
            board, ahead_board = ahead_board, board
            length, ahead = ahead, 0
        else:
            length = parse_header(data, here, text, starts, columns, row, board)
        if length == CUT:
            break
        if length == MISMATCH:
            found = find_header(data, here + 1, text, starts, columns, ahead_row, ahead_board)
            skipped += found - here
            here = found
            continue
        end = here + length + image_bytes
        if end > size:
            # Either the tail of a growing file, or an image that is cut before another header.
            found = find_header(data, here + length, text, starts, columns, ahead_row, ahead_board)
            if found < size:
                whole = parse_header(data, found, text, starts, columns, ahead_row, ahead_board)
                if whole == CUT:
                    break
            if found == size:
                break
            torn += 1
            skipped += found - here
            here = found
            continue
        after = parse_header(data, end, text, starts, columns, ahead_row, ahead_board)
        least = starts[2] if after > 0 else CUT_MIN
        begin = max(here + length, end - length - DIGITS_MAX)
        found = find_cut_header(data[:end], begin, least, text, starts, columns, cut_row, cut_board)
        if found == end and after == MISMATCH:  # a header may also begin in the last bytes
            begin, stop = end - CUT_MIN + 1, min(end + CUT_MIN - 1, size)
            found = find_cut_header(
                data[:stop], begin, least, text, starts, columns, cut_row, cut_board
            )
        if found >= end and (after == MISMATCH or end == size):
            found = find_header(data, here + length, text, starts, columns, cut_row, cut_board)
        if found < (end if end < size else end - CUT_MIN + 1):
            torn += 1
            skipped += found - here
            here = found
            continue
        ahead = max(after, 0)
        offsets[count] = here
        numbers[count] = row
        quabo[count] = board[0]
        if pixels.shape[0] > 0:
            pixels[count] = data[here + length : end]
        count += 1
        here = end
    return count, here, skipped, torn


@njit(cache=True, nogil=True)
def fill_headers(out, spans, values):  # type: ignore[no-untyped-def]
    """Write numbers, right-aligned, into headers that hold the fixed text.

    Parameters
    ----------
    out
        (N, frame bytes) uint8.
    spans
        (K, 2) int64, first and end byte of each number.
    values
        (N, K) int64, not negative.

    Returns
    -------
    int
        The first row with a number that does not fit its width, or -1.
    """
    for row in range(out.shape[0]):
        for k in range(spans.shape[0]):
            value = values[row, k]
            position = spans[k, 1] - 1
            while position >= spans[k, 0]:
                out[row, position] = ZERO + value % 10
                value //= 10
                position -= 1
                if value == 0:
                    break
            if value != 0 or values[row, k] < 0:
                return row
            while position >= spans[k, 0]:
                out[row, position] = BLANK
                position -= 1
    return -1
