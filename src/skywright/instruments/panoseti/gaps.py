"""Packets that were lost, by the numbers that boards give to their packets."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.clock import NUM, SEC
from skywright.instruments.panoseti.products import QUABOS

COUNTER = 65536
"""Boards count their packets modulo this."""
LATE = 1024
"""Packets overtake one another by less than this; a number further back belongs to the next turn
of the counter."""


class Gaps(NamedTuple):
    """The packet numbers of each board in successive frames; each field has shape (4,)."""

    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]
    span: NDArray[np.int64]
    """Numbers from the lowest to the highest, over turns of the counter; 0: no packet."""
    packets: NDArray[np.int64]
    """Packets that came."""

    @property
    def lost(self) -> NDArray[np.int64]:
        """(4,) packets that were sent and did not come."""
        return np.maximum(self.span - self.packets, 0)

    def with_next(self, other: "Gaps") -> "Gaps":
        """Add the frames that follow."""
        both, none = (self.span > 0) & (other.span > 0), self.span == 0
        # Numbers relative to the highest one here.
        own_first, first = 1 - self.span, _steps(other.lowest - self.highest)
        last = first + other.span - 1
        span = np.maximum(last, 0) - np.minimum(first, own_first) + 1
        return Gaps(
            np.where(none | both & (first < own_first), other.lowest, self.lowest),
            np.where(none | both & (last > 0), other.highest, self.highest),
            np.where(both, span, self.span + other.span),
            self.packets + other.packets,
        )


NO_GAPS = Gaps(*np.zeros((4, QUABOS), np.int64))
"""Of no frames."""


def count_gaps(numbers: NDArray[np.int64], quabo: NDArray[np.int64]) -> Gaps:
    """Count the packets of successive frames, and the numbers that they span.

    Parameters
    ----------
    numbers
        (N, Q, 5) int64 header numbers.
    quabo
        (N,) board of each frame, used if Q is 1.
    """
    return gaps_of(packets_of(board, numbers, quabo)[:, NUM] for board in range(QUABOS))


def gaps_of(sent: Iterable[NDArray[np.int64]]) -> Gaps:
    """Return the gaps in the packet numbers of each board, in the order of arrival."""
    boards = np.zeros((QUABOS, 4), np.int64)
    for board, numbers in enumerate(sent):
        if len(numbers):
            place = np.cumsum(_steps(np.diff(numbers, prepend=numbers[0])))
            low, high = place.min(), place.max()
            ends = (numbers[0] + low) % COUNTER, (numbers[0] + high) % COUNTER
            boards[board] = *ends, high - low + 1, len(numbers)
    return Gaps(*boards.T)


def packets_of(
    board: int, numbers: NDArray[np.int64], quabo: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return (n, 5) the header numbers of the packets of one board that came."""
    of_board = numbers[quabo == board, 0] if numbers.shape[1] == 1 else numbers[:, board]
    return of_board[of_board[:, SEC] > 0]


def _steps(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return by how much packet numbers have grown; negative for a packet that came late."""
    return (differences + LATE) % COUNTER - LATE
