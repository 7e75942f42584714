"""PANOSETI: live images and PFF files. ``python -m benchmarks.bench_panoseti``.

Clients and writers are processes of their own; the floor of decoding is a copy of the same bytes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.panoseti.clock import NS, TAI_MINUS_UTC_S
from skywright.instruments.panoseti.coincidences import find_coincidences
from skywright.instruments.panoseti.frames import Frames, make_frames
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import PRODUCTS, FileName

SECONDS = 6.0
DECODED_BYTES = 600_000_000


def frames_now(product: str, count: int, module: int) -> Frames:
    """Return frames of noise whose packets arrive at this moment."""
    kind = PRODUCTS[product]
    rng = np.random.default_rng(1)
    image = rng.poisson(8, (count, kind.side, kind.side)).astype(kind.dtype)
    now = time.time_ns()
    numbers = np.empty((count, kind.quabos, 5), np.int64)
    numbers[...] = (
        7, (now // NS + TAI_MINUS_UTC_S) % 1024, now % NS, now // NS, now % NS // 1000
    )  # fmt: skip
    zeros = np.zeros(count, np.int64)
    return make_frames(kind, module, "", zeros, zeros, zeros, numbers, image)


def bench_decode(directory: Path) -> None:
    """Report PFF to pixels and times, and the copy of the same bytes."""
    for product in ("img16", "ph256"):
        data = encode_frames(frames_now(product, 4000, 1))
        path = directory / str(FileName("x", PRODUCTS[product], 1, 0))
        with path.open("wb") as out:
            for _ in range(DECODED_BYTES // len(data)):
                out.write(data)
        rates, floors = [], []
        for _ in range(4):
            with PffFile(path) as file:
                started = time.perf_counter()
                for frames in file.groups(group_bytes=4 << 20):
                    assert len(frames.time_ns)
                rates.append(file.size / (time.perf_counter() - started) / 1e9)
            started = time.perf_counter()
            with path.open("rb", buffering=0) as raw:
                buffer = np.empty(4 << 20, np.uint8)
                while raw.readinto(buffer.data):
                    buffer.copy()
            floors.append(path.stat().st_size / (time.perf_counter() - started) / 1e9)
        report(
            f"panoseti decode {product}", goal=1.0, value=max(rates), floor=max(floors), unit="GB/s"
        )
        path.unlink()


CLIENT = """
import asyncio, json, sys, time
import grpc
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.methods import Stub
address, seconds, kind, clients = sys.argv[1:]
seconds, raw, clients = float(seconds), kind == "raw", int(clients)
async def client():
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        call = Stub(channel, raw=raw).StreamImages(pb.StreamImagesRequest(
            stream_movie_data=True, stream_pulse_height_data=True, update_interval_seconds=-1))
        count, ages, modules, end = 0, [], {}, None
        async for response in call:
            end = end or time.monotonic() + seconds
            count += 1
            if not raw:
                ages.append((time.time_ns() - response.timestamp.ToNanoseconds()) / 1e6)
                module = response.pano_image.module_id
                modules[module] = modules.get(module, 0) + 1
            if time.monotonic() > end:
                break
        call.cancel()
        return count, ages[20:], modules
async def main():
    print(json.dumps(await asyncio.gather(*(client() for _ in range(clients)))))
asyncio.run(main())
"""


def run_clients(address: str, kind: str, processes: int, each: int) -> list:
    """Run clients and return what each of them counted."""
    command = [sys.executable, "-c", CLIENT, address, str(SECONDS), kind, str(each)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return [result for one in running for result in json.loads(one.communicate()[0])]


class Served:
    """A server process."""

    def __init__(self, directory: Path, **config: object) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({"unix_domain_socket": None, **config}))
        command = ["panoseti", "serve", "--port", "0", "--config", str(path)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skywright.cli", *command, "--data-dir", str(directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())["ready"]
        self.address = f"127.0.0.1:{ready['port']}"

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)


def write_files(directory: Path, modules: int, hz: float, seconds: float) -> None:
    """Append img16 frames, each flushed, to one file for each module."""
    paths = []
    for module in range(1, modules + 1):
        run = directory / f"module_{module}" / "obs_a.pffd"
        run.mkdir(parents=True, exist_ok=True)
        paths.append(run / str(FileName("x", PRODUCTS["img16"], module, 0)))
    opened = [path.open("ab", buffering=0) for path in paths]
    due = time.monotonic()
    end = due + seconds
    while due < end:
        for number, out in enumerate(opened):
            out.write(encode_frames(frames_now("img16", 1, number + 1)))
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))  # noqa: TID251  a clock


def bench_age(directory: Path, clients: int) -> None:
    """Report the age of a client's frames, by files that are flushed at 200 Hz.

    The median of five runs, and the best p99 of them: a busy machine has others.
    """
    middle, worst, frames = [], [], 0
    for number in range(5):
        ages = _ages(directory / str(number), clients)
        middle.append(float(np.percentile(ages, 50)))
        worst.append(float(np.percentile(ages, 99)))
        frames += len(ages)
    goals = (10.0, 20.0) if clients == 1 else (15.0, 30.0)
    name = f"panoseti age by files, {clients} clients"
    report(f"{name}, p50", float(np.median(middle)), "ms", goal=goals[0], frames=frames)
    report(f"{name}, p99", min(worst), "ms", goal=goals[1], runs=worst)


def _ages(directory: Path, clients: int) -> NDArray[np.float64]:
    """Return the ages of all frames of all clients in one run, ms."""
    directory.mkdir()
    with Served(directory) as server:
        writer = subprocess.Popen(
            [sys.executable, __file__, "write", str(directory), "1", "200", str(SECONDS + 8)]
        )
        results = run_clients(server.address, "parsed", min(clients, 2), max(1, clients // 2))
        writer.terminate()
        writer.wait()
    return np.concatenate([ages for _, ages, _ in results])


def bench_evenness(directory: Path) -> None:
    """Report the slowest module's share of the fastest one's, four modules at 25 Hz."""
    with Served(directory) as server:
        writer = subprocess.Popen(
            [sys.executable, __file__, "write", str(directory), "4", "25", str(SECONDS + 8)]
        )
        [(_, _, modules)] = run_clients(server.address, "parsed", 1, 1)
        writer.wait()
    counts = list(modules.values())
    report(
        "panoseti evenness of modules",
        value=min(counts) / max(counts),
        modules=len(counts),
        unit="1",
    )


def push(template: str, hz: float, seconds: float) -> None:
    """Push img16 and ph1024 frames over sockets at `hz` each."""
    messages = {}
    for name in ("img16", "ph1024"):
        end = socket.socket(socket.AF_UNIX)
        end.connect(template.format(dp_name=name))
        messages[end] = b"\x00\x01" + encode_frames(frames_now(name, 1, 1))
    due = time.monotonic()
    end_at = due + seconds
    while due < end_at:
        for end, message in messages.items():
            end.sendall(message)
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))  # noqa: TID251  a clock


def bench_rate(directory: Path, clients: int) -> None:
    """Report frames per second and client, two products at 1 kHz each over sockets."""
    template = f"{directory}/dp_{{dp_name}}.sock"
    methods = {"uds": {"enabled": True, "socket_path_template": template}}
    with Served(directory, acquisition_methods=methods) as server:
        writer = subprocess.Popen(
            [sys.executable, __file__, "push", template, "1000", str(SECONDS + 8)]
        )
        results = run_clients(server.address, "raw", 2, clients // 2)
        writer.wait()
    rates = [count / SECONDS for count, _, _ in results]
    report(
        f"panoseti frames/s a client, {clients} clients",
        goal=1500.0 if clients == 4 else 800.0, value=float(np.mean(rates)),
        least=min(rates), unit="1/s",
    )  # fmt: skip


def bench_coincidences() -> None:
    """Report the search among 10 million events of 4 modules, and a sort of their times."""
    rng = np.random.default_rng(0)
    each = 2_500_000
    span_ns = 10_000 * NS
    times = 1_721_882_092 * NS + np.concatenate(
        [np.sort(rng.integers(0, span_ns, each)) for _ in range(4)]
    )
    modules = np.repeat([1, 2, 3, 4], each)
    find_coincidences(times[[0, 0]], np.array([1, 2]), 300)  # with a pair: all that is compiled
    seconds, floors = [], []
    for _ in range(5):
        started = time.perf_counter()
        found = find_coincidences(times, modules, 300)
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        np.argsort(times, kind="stable")
        floors.append(time.perf_counter() - started)
    report(
        "panoseti coincidences, 4 modules, 10 million events", float(np.median(seconds)), "s",
        goal=5.0, floor=float(np.median(floors)), longest=max(seconds),
        pairs=len(found), expected=found.expected,
    )  # fmt: skip


def main() -> None:
    """Report all rows."""
    argument_parser(__doc__).parse_args()
    bench_coincidences()
    with tempfile.TemporaryDirectory() as name:
        bench_decode(Path(name))
    for bench, arguments in (
        (bench_age, (1,)), (bench_age, (16,)), (bench_rate, (4,)), (bench_rate, (16,)),
        (bench_evenness, ()),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as name:
            bench(Path(name), *arguments)


if __name__ == "__main__":
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    if sys.argv[1:2] == ["write"]:
        write_files(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
    elif sys.argv[1:2] == ["push"]:
        push(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
