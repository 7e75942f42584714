"""Pulses through `skywright psss serve`: ``python -m benchmarks.bench_psss_service``.

Three processes as at a beamline: a camera (`skywright.instruments.psss.sender`, which sends
rendered pictures in turn), the service, and a reader of its output, which is this one. Nothing is
stored and no PVs are served. The floor of the rate is the same pictures from the camera to a
reader, without the service; the delay is what the service itself measures, from the picture taken
over to the result at the socket.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import numpy as np

from benchmarks.options import argument_parser
from benchmarks.processes import running
from benchmarks.rows import report
from skywright.processes.ports import free_port
from skywright.wire.bsread import Decoder
from skywright.wire.bsread_sockets import Receiver

PREFIX = "BENCH-PSSS"
REEL = 16
RATE_S = 5.0
ROUNDS = 3
LIMIT_S = 60.0


@contextmanager
def camera(size: str, rate: float) -> Iterator[int]:
    """Run a camera; yields its port."""
    arguments = ("--port", "0", "--prefix", PREFIX, "--size", size, "--rate", f"{rate:g}")
    more = ("--reel", str(REEL), "--wait-for-reader", f"{LIMIT_S:g}", "--queue-bytes", "1000000000")
    with running("skywright.instruments.psss.sender", *arguments, *more) as ready:
        yield ready["port"]


@contextmanager
def service(port: int) -> Iterator[dict[str, Any]]:
    """Run the service on a camera; yields its ports."""
    output, rest = free_port(), free_port()
    arguments = ("--prefix", PREFIX, "--input", f"tcp://127.0.0.1:{port}", "--no-ca")
    ports = ("--output-port", str(output), "--rest-port", str(rest))
    with running("skywright.cli", "psss", "serve", *arguments, *ports, "--auto-start"):
        yield {"output": output, "rest": rest}


def count(port: int, seconds: float) -> tuple[float, list[int]]:
    """Read for some time after the first pulses; return pulses a second, and their ids."""
    with closing(Receiver(f"tcp://127.0.0.1:{port}")) as receiver:
        decoder, ids = Decoder(), []
        for _ in range(REEL):
            assert receiver.receive(LIMIT_S) is not None, "no pulse"
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            frames = receiver.receive(1.0)
            if frames is not None:
                ids.append(decoder.decode(frames).pulse_id)
        return len(ids) / (time.perf_counter() - begun), ids


def through(size: str) -> float:
    """Return pulses a second from camera to reader through the service."""
    with camera(size, 0.0) as port, service(port) as ports:
        return count(ports["output"], RATE_S)[0]


def directly(size: str) -> float:
    """Return pulses a second from camera to reader."""
    with camera(size, 0.0) as port:
        return count(port, RATE_S)[0]


def at_machine_rate(seconds: float) -> dict[str, Any]:
    """Let full pictures come at 100 Hz; return what was lost, and the delays."""
    with camera("2560x2160", 100.0) as port, service(port) as ports:
        _, ids = count(ports["output"], seconds)
        health = httpx.get(f"http://127.0.0.1:{ports['rest']}/health", timeout=10).json()
    missing = int(ids[-1] - ids[0] + 1 - len(ids))
    return {"pulses": len(ids), "missing": missing, "in_order": ids == sorted(ids)} | {
        key: health[key] for key in ("delay_ms", "lost", "unsent") if key in health
    }


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="at 100 Hz")
    seconds = parser.parse_args().seconds
    for size, goal in (("2560x600", 400.0), ("2560x2160", 100.0)):
        pairs = [(through(size), directly(size)) for _ in range(ROUNDS)]
        ours, floor = (float(np.median(column)) for column in zip(*pairs, strict=True))
        of_pairs = float(np.median([a / b for a, b in pairs]))
        name = f"wire in, spectrum and fit, wire out, {size}, uncompressed"
        report(name, ours, "1/s", floor=floor, goal=goal, ratio_of_pairs=of_pairs)
    found = at_machine_rate(seconds)
    name = f"full size at 100 Hz for {seconds:g} s, missing at the reader"
    report(name, found.pop("missing"), "pulses", goal=0, **found)


if __name__ == "__main__":
    main()
