"""Time of a frame in int64 nanoseconds since 1970 UTC, from White Rabbit and computer clocks.

A board sends TAI seconds modulo 1024 and the nanoseconds of that second; the computer adds its own
time of arrival (NTP). The difference ``d = (tv_sec - pkt_tai + 37) mod 1024`` is 0, or 1 or 1023
when the packet crossed the start of a second. Any other value means that the board's clock is not
in step with UTC; such a frame gets the time of arrival and the flag `UNLOCKED`.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from skywright.instruments.panoseti.pff_layout import FIELDS

TAI_MINUS_UTC_S = 37
TAI_PERIOD_S = 1024
NS = 1_000_000_000
COMPUTER_LATE_NS = NS // 10
"""Largest error by which the computer's clock (NTP) is taken to be behind UTC."""
NUM, TAI, NSEC, SEC, USEC = range(len(FIELDS))


class Flag(IntFlag):
    """What is unusual about a frame."""

    UNLOCKED = 1
    """The clock of the board that dates the frame is not in step with UTC: time of arrival."""
    MISSING_QUABO = 2
    """At least one board's packet was lost; its pixels are zero and mean nothing."""
    EMPTY = 4
    """No board sent a packet: the frame has no time."""
    BACKWARD = 8
    """The frame is earlier than the one before it in its file, frames without a time left out."""


UNLOCKED, MISSING_QUABO, EMPTY = int(Flag.UNLOCKED), int(Flag.MISSING_QUABO), int(Flag.EMPTY)


@register_jitable
def _difference(second, tai):  # type: ignore[no-untyped-def]
    """Return d, from 0 to 1023."""
    return (second - tai + TAI_MINUS_UTC_S) % TAI_PERIOD_S


@register_jitable
def _is_in_step(d, nsec):  # type: ignore[no-untyped-def]
    # A free-running counter passes 10^9 and is written as 999999999 by newer software.
    return (nsec < NS - 1) & ((d <= 1) | (d == TAI_PERIOD_S - 1))


@njit(cache=True, nogil=True)
def date_frames(numbers, time_ns, flags):  # type: ignore[no-untyped-def]
    """Fill `time_ns` (N,) int64 and `flags` (N,) uint8 from `numbers` (N, Q, 5) int64.

    The first board present dates the frame: board 0 unless its packet was lost.
    """
    for row in range(numbers.shape[0]):
        dating, missing = -1, 0
        for board in range(numbers.shape[1]):
            if numbers[row, board, SEC] == 0:
                missing += 1
            elif dating < 0:
                dating = board
        if dating < 0:
            time_ns[row] = 0
            flags[row] = EMPTY | MISSING_QUABO
            continue
        flag = MISSING_QUABO if missing else 0
        second, nsec = numbers[row, dating, SEC], numbers[row, dating, NSEC]
        d = _difference(second, numbers[row, dating, TAI])
        if _is_in_step(d, nsec):
            if d == 1:
                second -= 1
            elif d == TAI_PERIOD_S - 1:
                second += 1
            time_ns[row] = second * NS + nsec
        else:
            flag |= UNLOCKED
            time_ns[row] = second * NS + numbers[row, dating, USEC] * 1000
        flags[row] = flag


@dataclass(frozen=True)
class ClockOffset:
    """How far a board's clock is from UTC in one run.

    Attributes
    ----------
    seconds
        Whole seconds to add to the board's time: 0 for a board in step.
    offset_ns
        Median of arrival minus board time after `seconds` is added, from -0.1 to 0.9 s: the
        fraction of a second by which a free board is off, plus the delay of the network (about
        0.3 ms) and the error of the computer's clock.
    steady
        Fraction of the packets whose board time is within 0.1 s of the computer's, after both
        offsets: relative times are exact to the nanosecond among these. The rest have nanoseconds
        that no second resets, or a jump.
    packets
        Number of packets in the estimate.
    """

    seconds: int
    offset_ns: int
    steady: float
    packets: int


def estimate_offset(numbers: NDArray[np.int64]) -> ClockOffset:
    """Estimate the offset of one board's clock over a run.

    Parameters
    ----------
    numbers
        (N, 5) int64, header numbers of one board, columns as in `pff_layout.FIELDS`; packets that
        were lost (``tv_sec`` 0) do not count.
    """
    numbers = numbers[numbers[:, SEC] > 0]
    if not len(numbers):
        return ClockOffset(0, 0, 0.0, 0)
    d = _difference(numbers[:, SEC], numbers[:, TAI])
    counted = np.bincount(d, minlength=TAI_PERIOD_S)
    seconds = int(np.argmax(counted))
    running = numbers[:, NSEC] < NS - 1  # older software counts on, newer writes 999999999
    arrival = numbers[:, SEC] * NS + numbers[:, USEC] * 1000
    late = arrival - board_ns(numbers, seconds)
    offset_ns = int(np.median(late[running] if running.any() else late))
    carry = (offset_ns + COMPUTER_LATE_NS) // NS
    seconds, offset_ns = (seconds + carry) % TAI_PERIOD_S, offset_ns - carry * NS
    apart = np.abs(arrival - board_ns(numbers, seconds) - offset_ns)
    return ClockOffset(
        seconds=seconds,
        offset_ns=offset_ns,
        steady=float(np.mean(running & (apart < COMPUTER_LATE_NS))),
        packets=len(numbers),
    )


def in_step(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,) whether a board's clock is in step with UTC in each packet.

    Parameters
    ----------
    numbers
        (N, 5) int64, header numbers of packets that came.
    """
    d = _difference(numbers[:, SEC], numbers[:, TAI])
    locked: NDArray[np.bool_] = _is_in_step(d, numbers[:, NSEC])
    return locked


def board_ns(numbers: NDArray[np.int64], seconds: int = 0) -> NDArray[np.int64]:
    """Return the board's own time, moved by whole seconds next to the time of arrival.

    Differences of these times are exact to the nanosecond even for a board out of step, where its
    clock is steady (`ClockOffset.steady`).

    Parameters
    ----------
    numbers
        (N, 5) int64, header numbers of one board.
    seconds
        `ClockOffset.seconds` of that board.

    Returns
    -------
    NDArray[np.int64]
        (N,), ns since 1970 UTC plus the board's fraction of a second.
    """
    d = _difference(numbers[:, SEC] - seconds, numbers[:, TAI])
    step = np.where(d > TAI_PERIOD_S // 2, d - TAI_PERIOD_S, d)
    step = np.where(np.abs(step) <= 1, step, 0)
    return (numbers[:, SEC] - step) * NS + numbers[:, NSEC]
