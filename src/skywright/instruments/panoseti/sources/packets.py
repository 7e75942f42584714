"""Runs of the science packets that boards send over UDP, grouped into frames and written as PFF.

A frame of four boards is written when it is complete, or when its first packet is `HOLD_S` old:
what has not come by then is missing in it.
"""

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.counters import Counters, sum_counts
from skywright.errors import ConfigError, SkywrightError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.gaps import NO_GAPS, Gaps, gaps_of
from skywright.instruments.panoseti.packets import (
    frames_of_packets,
    packet_dtype,
    packet_groups,
)
from skywright.instruments.panoseti.products import PRODUCTS, QUABOS, Product, RunName
from skywright.instruments.panoseti.sources.run_writer import RunTaker, RunWriter
from skywright.instruments.panoseti.sources.rundir import RunDirectorySource

logger = logging.getLogger(__name__)

SCIENCE_PORT = 60_001
HOLD_S = 0.05
"""Longest time that a frame waits for packets that are missing."""
WRITE_S = 0.05
"""Frames of this time are written together."""
LISTEN_S = 0.02
DRAIN_S = 1.0
"""When a run ends, packets that wait in the socket are taken for this time at most."""
RECEIVE_BYTES = 16 << 20
"""Buffer of the socket that is asked for: 8,000 packets a second for seconds."""
WAITING_MAX = 20_000
"""Packets between two writes."""
MODULE_ERRORS = (SkywrightError, PermissionError, FileExistsError, NotADirectoryError)
"""Errors of the files of one module; others, such as a full disk, end the run."""


def product_of_packet(data: bytes, grouped: bool) -> Product | None:
    """Return the product of a packet by its mode and length; None if it is no science packet.

    Parameters
    ----------
    data
        The packet.
    grouped
        Whether pulse heights of the boards of a module are one frame.
    """
    if not data:
        return None
    name = {1: "ph1024" if grouped else "ph256", 2: "img16", 3: "img16", 6: "img8", 7: "img8"}
    product = PRODUCTS.get(name.get(data[0], ""))
    if product is None or len(data) != packet_dtype(product).itemsize:
        return None
    return product


class FrameGrouper:
    """Group the packets of one module and product into frames.

    Parameters
    ----------
    product
        What is made.
    hold_s
        Longest time that a frame waits for packets that are missing.
    """

    def __init__(self, product: Product, hold_s: float = HOLD_S) -> None:
        self.product = product
        self._hold_ns = hold_s * NS
        self._packets = np.empty(0, packet_dtype(product))
        self._arrival_ns = np.empty(0, np.int64)

    def add(
        self, packets: NDArray[np.void], arrival_ns: NDArray[np.int64], now_ns: int | None = None
    ) -> Frames:
        """Take packets in the order of arrival, and return the frames that are complete.

        Parameters
        ----------
        packets
            (N,) of `packet_dtype`.
        arrival_ns
            (N,) by the computer's clock, ns since 1970 UTC.
        now_ns
            Frames whose first packet is older than `hold_s` at this time are returned as they are;
            None: all frames are.
        """
        waiting = np.concatenate([self._packets, packets])
        arrival = np.concatenate([self._arrival_ns, arrival_ns])
        if self.product.quabos == 1:
            return frames_of_packets(self.product, waiting, arrival)
        # Networks change the order of packets: those of one moment come together again.
        order = np.argsort(_board_ns(waiting), kind="stable")
        waiting, arrival = waiting[order], arrival[order]
        taken = len(waiting)
        if now_ns is not None and taken:
            group = packet_groups(self.product, waiting)
            _, first, count = np.unique(group, return_index=True, return_counts=True)
            begun = np.minimum.reduceat(arrival, first)
            # A packet of the future came before the computer's clock was set back.
            open_ones = (count < QUABOS) & (np.abs(now_ns - begun) < self._hold_ns)
            if open_ones.any():  # frames after an open one wait too: they are written in order
                taken = int(first[np.argmax(open_ones)])
        self._packets, self._arrival_ns = waiting[taken:], arrival[taken:]
        return frames_of_packets(self.product, waiting[:taken], arrival[:taken])


class ReceivedRuns(RunTaker):
    """Receives the packets that boards send over UDP, and writes them as runs.

    A packet that comes twice, with no other one of its board in between, is taken once.

    Any thread may call a method, but not two threads `start` and `stop` at the same time.

    Parameters
    ----------
    data_dir
        Data directory of a node; it is made.
    host, port
        Where to listen; port 0 takes a free one.
    grouped
        Write pulse heights as ph1024, else as ph256.
    modules
        Modules to take; empty for all.
    hold_s
        As of `FrameGrouper`.

    Raises
    ------
    ConfigError
        If the port cannot be used.

    Attributes
    ----------
    address
        The address in use.
    error
        Why the newest run could not be written; empty when it could.
    received
        Packets taken from the socket in runs.
    """

    def __init__(
        self,
        data_dir: Path,
        host: str = "0.0.0.0",
        port: int = SCIENCE_PORT,
        grouped: bool = False,
        modules: frozenset[int] = frozenset(),
        hold_s: float = HOLD_S,
    ) -> None:
        super().__init__(RunWriter(data_dir, RunName("Packets", "", "sci-data")), "packets")
        self.received = 0
        self._hold_s = hold_s
        self._grouped = grouped
        self._modules = modules
        self._counters = Counters()
        self._waiting: dict[tuple[int, str], tuple[list[bytes], list[int]]] = {}
        self._newest: dict[tuple[str, bytes], bytes] = {}
        """Newest packet of each product and board."""
        self._groupers: dict[tuple[int, str], FrameGrouper] = {}
        self._gaps: dict[tuple[int, str], Gaps] = {}
        self._refused: set[tuple[tuple[int, str], type[Exception]]] = set()
        """Errors of modules and products that were logged in the run."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        _set_receive_buffer(self._socket)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"UDP {host}:{port}: {error.strerror or error}") from error
        self._socket.settimeout(LISTEN_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    @property
    def run(self) -> str:
        """Name of the newest run directory; empty before the first one."""
        return self._writer.run

    @property
    def lost(self) -> Mapping[str, int]:
        """Packets that are in no frame, by cause."""
        return self._counters.as_dict()

    def _begin(self) -> str:
        host, port = self.address
        run = self._writer.begin((), {"packets_config": {"host": host, "port": port}})
        self._newest.clear()
        self._groupers.clear()
        self._gaps.clear()
        self._refused.clear()
        self._drop_old()
        return run

    def close(self) -> None:
        """Stop for good and close the socket."""
        try:
            self.stop()
        finally:
            self._socket.close()

    def _drop_old(self) -> None:
        """Forget packets that came before the run."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(2048)
        except BlockingIOError:
            self._socket.settimeout(LISTEN_S)

    def _work(self) -> None:
        trouble = ""
        try:
            while not self._stopping.is_set():
                self._receive(WRITE_S)
                self._write(time.time_ns())
        except Exception as error:
            trouble = f"{self.data_dir}: {error}"
            logger.error("%s", trouble, exc_info=not isinstance(error, OSError))
        try:
            self._receive(DRAIN_S)
            self._write(None)
        except Exception as error:
            trouble = trouble or f"{self.data_dir}: {error}"
        self._waiting.clear()
        self.error = self._writer.end() or trouble

    def _receive(self, limit_s: float) -> None:
        """Take the packets of this time, or less when they are many, or none comes at the end."""
        end = time.monotonic() + limit_s
        for _ in range(WAITING_MAX):
            try:
                data = self._socket.recv(2048)
            except TimeoutError:
                if self._stopping.is_set():
                    return
            else:
                self._sort_in(data, time.time_ns())
            if time.monotonic() > end:
                return

    def _sort_in(self, data: bytes, arrival_ns: int) -> None:
        self.received += 1
        product = product_of_packet(data, self._grouped)
        if product is None:
            self._counters.add("no science packet")
            return
        module = int.from_bytes(data[4:6], "little") // QUABOS
        if module > 255:
            self._counters.add("module number above 255")
        elif not self._modules or module in self._modules:
            board = product.name, data[4:6]
            if self._newest.get(board) == data:
                return
            self._newest[board] = data
            packets, arrivals = self._waiting.setdefault((module, product.name), ([], []))
            packets.append(data)
            arrivals.append(arrival_ns)

    def _write(self, now_ns: int | None) -> None:
        """Write the frames that are complete at this time; None: all."""
        waiting, self._waiting = self._waiting, {}
        for key in dict.fromkeys([*waiting, *self._groupers]):
            product = PRODUCTS[key[1]]
            data, arrivals = waiting.get(key, ([], []))
            packets = np.frombuffer(b"".join(data), packet_dtype(product))
            try:
                self._count_missing(key, packets)
                grouper = self._groupers.setdefault(key, FrameGrouper(product, self._hold_s))
                self._writer.append(grouper.add(packets, np.array(arrivals, np.int64), now_ns))
            except MODULE_ERRORS as error:  # the other modules and products go on
                self._counters.add("packet not writable", len(packets))
                if (key, type(error)) not in self._refused:
                    self._refused.add((key, type(error)))
                    logger.error("module %d, %s: %s", *key, error)

    def _count_missing(self, key: tuple[int, str], packets: NDArray[np.void]) -> None:
        """Count the packets that are missing by the boards' counters."""
        numbers, board = packets["pkt_num"].astype(np.int64), packets["boardloc"] % QUABOS
        before = self._gaps.get(key, NO_GAPS)
        gaps = before.with_next(gaps_of(numbers[board == each] for each in range(QUABOS)))
        self._gaps[key] = gaps
        self._counters.add("packet missing", int(gaps.lost.sum() - before.lost.sum()))


class PacketSource(RunDirectorySource):
    """Deliver the frames of runs of UDP packets, as they are in their PFF files.

    Parameters
    ----------
    runs
        What takes the packets; closed with the source.
    modules
        Modules to follow; empty for all.
    """

    def __init__(self, runs: ReceivedRuns, modules: frozenset[int] = frozenset()) -> None:
        super().__init__(runs.data_dir, modules)
        self.name = "sockets"
        self.runs = runs

    @property
    def newest(self) -> str:
        """Name of the newest run; before the first one of this process, of those that are there."""
        return self.runs.run or super().newest

    @property
    def lost(self) -> Mapping[str, int]:
        """Packets and frames that are missing, by cause."""
        return sum_counts(super().lost, self.runs.lost)

    def close(self) -> None:
        """Stop for good; the run under way ends."""
        try:
            self.runs.close()
        finally:
            super().close()


def _set_receive_buffer(receiver: socket.socket) -> None:
    """Ask for a buffer of `RECEIVE_BYTES`; log a warning if the kernel gives a smaller one."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    size = receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # Linux answers twice it
    if size < RECEIVE_BYTES:
        logger.warning(
            "the buffer for packets has %d bytes, not %d: packets may be lost while the computer "
            "is busy; raise the limit with sysctl -w net.core.rmem_max=%d",
            size,
            RECEIVE_BYTES,
            RECEIVE_BYTES,
        )


def _board_ns(packets: NDArray[np.void]) -> NDArray[np.int64]:
    """Return (N,) the boards' own times, ns, over the wrap of their seconds at 1024."""
    seconds = packets["pkt_tai"].astype(np.int64) % 1024
    if len(seconds) and seconds.max() - seconds.min() > 512:
        seconds = np.where(seconds < 512, seconds + 1024, seconds)
    return seconds * NS + packets["pkt_nsec"]
