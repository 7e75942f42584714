"""Science packets of the boards (UDP 60001), and the frames that the DAQ makes of them.

A packet is 16 bytes of header and the pixels of one board, as the board has them: turned clockwise
by 90 degrees times its number against the telescope. The DAQ turns them back and puts the packets
of one moment together.
"""

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.clock import NS, TAI_MINUS_UTC_S, TAI_PERIOD_S
from skywright.instruments.panoseti.frames import QUADRANTS, Frames, make_frames
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import QUABO_SIDE, QUABOS, Product

HEADER = np.dtype(
    [
        ("acq_mode", "u1"),
        ("version", "u1"),
        ("pkt_num", "<u2"),
        ("boardloc", "<u2"),
        ("pkt_tai", "<u4"),
        ("pkt_nsec", "<u4"),
        ("reserved", "<u2"),
    ]
)
ACQ_MODE = {"ph256": 1, "ph1024": 1, "img16": 2, "img8": 6}
MOVIE_TOLERANCE_NS, PULSE_TOLERANCE_NS = 100, 50
"""Packets this close in time are of one image."""


def packet_dtype(product: Product) -> np.dtype:
    """Return the layout of a packet of a product."""
    pixels = ("pixels", product.dtype, (QUABO_SIDE, QUABO_SIDE))
    return np.dtype([*HEADER.descr, pixels])


def make_packets(
    product: Product,
    module: int,
    quabo: NDArray[np.integer],
    time_ns: NDArray[np.int64],
    pkt_num: NDArray[np.integer],
    images: NDArray[np.generic],
) -> NDArray[np.void]:
    """Return packets as boards in step with TAI send them.

    Parameters
    ----------
    product, module
        Of all packets.
    quabo
        (N,) number of the board.
    time_ns
        (N,) ns since 1970 UTC.
    pkt_num
        (N,) counter of the board; it wraps at 65536.
    images
        (N, 16, 16) in the telescope's orientation.
    """
    packets = np.zeros(len(time_ns), packet_dtype(product))
    packets["acq_mode"] = ACQ_MODE[product.name]
    packets["pkt_num"] = pkt_num % 65536
    packets["boardloc"] = 4 * module + quabo
    packets["pkt_tai"] = (time_ns // NS + TAI_MINUS_UTC_S) % TAI_PERIOD_S
    packets["pkt_nsec"] = time_ns % NS
    for board in range(QUABOS):
        rows = quabo == board
        packets["pixels"][rows] = np.rot90(images[rows], board, axes=(1, 2))  # counter-clockwise
    return packets


def frames_of_packets(
    product: Product, packets: NDArray[np.void], arrival_ns: NDArray[np.int64]
) -> Frames:
    """Return the frames that the DAQ makes of the packets of one module.

    As newer Hashpipe does, nanoseconds of a free-running clock are written as 999999999 when they
    have passed 10^9; of the TAI seconds, 10 bits are used.

    Parameters
    ----------
    product
        What is made.
    packets
        (N,) of `packet_dtype`, in the order of arrival.
    arrival_ns
        (N,) time of arrival by the computer's clock, ns since 1970 UTC.
    """
    board = (packets["boardloc"] % 4).astype(np.int64)
    module = int(packets["boardloc"][0] // 4) if len(packets) else 0
    header = np.stack(
        [
            packets["pkt_num"], packets["pkt_tai"] % TAI_PERIOD_S,
            np.minimum(packets["pkt_nsec"], NS - 1),
            arrival_ns // NS, arrival_ns % NS // 1000,
        ],
        axis=1,
    ).astype(np.int64)  # fmt: skip
    pixels = np.empty((len(packets), QUABO_SIDE, QUABO_SIDE), product.dtype)
    for number in range(QUABOS):
        rows = board == number
        pixels[rows] = np.rot90(packets["pixels"][rows], -number, axes=(1, 2))
    if product.quabos == 1:
        group, boards, count = np.arange(len(packets)), board, len(packets)
        numbers, image = header[:, np.newaxis], pixels
    else:
        group = packet_groups(product, packets)
        count = int(group[-1]) + 1 if len(group) else 0
        numbers = np.zeros((count, QUABOS, len(FIELDS)), np.int64)
        image = np.zeros((count, product.side, product.side), product.dtype)
        numbers[group, board] = header
        for number in range(QUABOS):
            rows = board == number
            image[(group[rows], *QUADRANTS[number])] = pixels[rows]
        boards = np.zeros(count, np.int64)
    zeros = np.zeros(count, np.int64)
    return make_frames(product, module, "", np.arange(count), zeros, boards, numbers, image)


def packet_groups(product: Product, packets: NDArray[np.void]) -> NDArray[np.int64]:
    """Return (N,) the number of the frame of each packet, from 0, in the order of the packets.

    A packet begins a new frame when its time is another one or its board is already there.
    Times turn over after 1024 s.
    """
    tolerance = MOVIE_TOLERANCE_NS if product.movie else PULSE_TOLERANCE_NS
    time = (packets["pkt_tai"] % TAI_PERIOD_S).astype(np.int64) * NS + packets["pkt_nsec"]
    board = packets["boardloc"] % QUABOS
    group = np.empty(len(packets), np.int64)
    number, seen, first = -1, 0, 0
    for row, (bit, now) in enumerate(zip((1 << board).tolist(), time.tolist(), strict=True)):
        apart = abs(now - first)
        if number < 0 or seen & bit or min(apart, TAI_PERIOD_S * NS - apart) > tolerance:
            number, seen, first = number + 1, 0, now
        seen |= bit
        group[row] = number
    return group
