"""Pulses a second from a sender process to ours: ``python -m benchmarks.bench_psss_wire``.

The sender shows 16 pictures in turn as fast as they are read, so neither rendering nor compressing
counts. The floor is plain zmq on the same bytes: a process that sends them, one that receives.
Rounds of ours and of the floor take turns; ``ratio_of_pairs`` is the median of theirs.
``forwarded`` goes on to a third process, the picture as received, beside a small result. One
picture's rendering at the twin is timed too.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import zmq

from benchmarks.options import argument_parser
from benchmarks.processes import running
from benchmarks.rows import report
from skywright.instruments.psss.sources.bsread import BsreadSource
from skywright.instruments.psss.twin import Instrument, InstrumentSettings
from skywright.processes.lifecycle import announce_ready
from skywright.wire.bsread_compression import Compression
from skywright.wire.bsread_encoder import Encoder
from skywright.wire.bsread_sockets import SYSTEM_BUFFER_BYTES, Sender

ROUNDS = 3
REEL = 16
LIMIT_S = 30.0
TWIN_GOAL_HZ = 100.0


def pictures(columns: int, rows: int) -> list[np.ndarray]:
    """Return the pictures that the sender process shows too."""
    instrument = Instrument(InstrumentSettings(columns=columns, rows=rows, pool_bytes=100_000_000))
    return [instrument.take(number)[0] for number in range(REEL)]


def send_plainly(columns: int, rows: int, compression: Compression) -> None:
    """Be the floor's sender: the same bytes by plain zmq, until ended."""
    encoder = Encoder(compression)
    messages = [encoder.encode(1, 1, {"P:FPICTURE": one}) for one in pictures(columns, rows)]
    socket = zmq.Context().socket(zmq.PUSH)
    socket.set_hwm(10)
    socket.set(zmq.SNDBUF, SYSTEM_BUFFER_BYTES)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    announce_ready(port=port)
    number = 0
    while True:
        socket.send_multipart(messages[number % REEL], copy=False)
        number += 1


def sink(port: int) -> None:
    """Be the reader of what is forwarded, by plain zmq, until ended."""
    socket = zmq.Context().socket(zmq.PULL)
    socket.connect(f"tcp://127.0.0.1:{port}")
    announce_ready()
    while True:
        socket.recv_multipart(copy=False)


def rate(take: Callable[[], bool], count: int) -> float:
    """Return how many a second `take` takes, after those that were waiting."""
    for _ in range(count // 4 + 1):
        assert take()
    start = time.perf_counter()
    for _ in range(count):
        assert take()
    return count / (time.perf_counter() - start)


def measure(columns: int, rows: int, compression: Compression, count: int) -> None:
    """Print the row of ours against the floor."""
    size = ("--size", f"{columns}x{rows}", "--compression", compression, "--reel", str(REEL))
    ours, forwarded, floor = [], [], []
    with (
        running(
            "skywright.instruments.psss.sender", "--port", "0", "--rate", "0", *size
        ) as sending,
        running(__spec__.name, "send", str(columns), str(rows), compression) as plain,
    ):
        socket = zmq.Context().socket(zmq.PULL)
        socket.set_hwm(10)
        for _ in range(ROUNDS):
            source = BsreadSource(
                f"tcp://127.0.0.1:{sending['port']}", sending["channel"], queue_bytes=100_000_000
            )
            source.open()
            ours.append(rate(lambda: source.next(LIMIT_S).image is not None, count))  # noqa: B023
            forwarded.append(forward(source, sending["channel"], count))
            lost = dict(source.lost)
            source.halt()
            socket.connect(f"tcp://127.0.0.1:{plain['port']}")
            floor.append(rate(lambda: len(socket.recv_multipart(copy=False)) > 0, count))
            socket.disconnect(f"tcp://127.0.0.1:{plain['port']}")
    report(
        f"bsread in, picture decoded, {columns}x{rows} {compression}",
        statistics.median(ours),
        "1/s",
        floor=statistics.median(floor),
        ratio_of_pairs=statistics.median(a / b for a, b in zip(ours, floor, strict=True)),
        forwarded=statistics.median(forwarded),
        lost=lost,
    )


def forward(source: BsreadSource, channel: str, count: int) -> float:
    """Return the pulses a second that go on to a third process as they came."""
    encoder, sender = Encoder(), Sender("tcp://127.0.0.1:0", queue_bytes=100_000_000)
    spectrum = np.zeros(2560, "u4")
    try:
        with running(__spec__.name, "sink", str(sender.port)):
            assert sender.wait_for_reader(LIMIT_S)

            def take() -> bool:
                pulse = source.next(LIMIT_S)
                assert pulse is not None
                channels = {channel: pulse.message.raw(channel), f"{channel}.spectrum": spectrum}
                frames = encoder.encode(pulse.pulse_id, pulse.time_ns, channels)
                return sender.send(frames, LIMIT_S)

            return rate(take, count)
    finally:
        sender.close()


def render() -> None:
    """Print the row of the time that the twin takes for a full picture."""
    instrument = Instrument()
    instrument.take(0)
    times = []
    for number in range(1, 101):
        start = time.perf_counter()
        instrument.take(number)
        times.append(time.perf_counter() - start)
    rate_hz, p99_ms = 1.0 / statistics.median(times), 1e3 * float(np.percentile(times, 99))
    report("psss twin, 2560x2160, one core", rate_hz, "1/s", goal=TWIN_GOAL_HZ, p99_ms=p99_ms)


def main(arguments: list[str]) -> int:
    """Print the rows, or be one of the helpers; return 0."""
    match arguments:
        case ["send", columns, rows, compression]:
            send_plainly(int(columns), int(rows), compression)  # type: ignore[arg-type]
        case ["sink", port]:
            sink(int(port))
        case _:
            argument_parser(__doc__).parse_args(arguments)
            render()
            measure(2560, 600, "none", 400)
            measure(2560, 2160, "none", 150)
            measure(2560, 600, "bitshuffle_lz4", 200)
            measure(2560, 2160, "bitshuffle_lz4", 80)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
