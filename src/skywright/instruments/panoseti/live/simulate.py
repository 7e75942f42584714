"""A simulated data acquisition: archived frames, again and again."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from skywright.errors import ConfigError, DataError
from skywright.instruments.panoseti.clock import NS, SEC, TAI, TAI_MINUS_UTC_S, TAI_PERIOD_S
from skywright.instruments.panoseti.frames import Frames, make_frames
from skywright.instruments.panoseti.live.config import ServerConfig, Simulation, Strategy
from skywright.instruments.panoseti.live.follow import NAME_BYTES, FileFollower
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.sockets import MODULE_BYTES, serve_socket
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import PRODUCTS, Product
from skywright.processes.scratch import scratch

logger = logging.getLogger(__name__)

PERIOD_S = 0.1
"""Time between two frames of a product, as Hashpipe's snapshots have."""
MADE_FRAMES = 100
LONGEST_ARCHIVE = 4096
"""Frames of an archived file that are replayed."""
FILE_PREFIX = "sim.dp_"
"""Names of simulated files begin with it, those of an acquisition never do."""


def simulated_frames(settings: Simulation) -> list[Frames]:
    """Return the movie frames and the pulse-height frames of a simulation.

    Raises
    ------
    ConfigError
        If a file of the configuration cannot be used.
    """
    return [
        archived_frames(PRODUCTS[settings.movie_type], settings.source_data.movie_pff_path),
        archived_frames(PRODUCTS[settings.ph_type], settings.source_data.ph_pff_path),
    ]


async def simulate(server: ServerConfig, publisher: Publisher, sources: Sequence[Frames]) -> None:
    """Replay frames until cancelled, or until the limit of the configuration.

    Raises
    ------
    ConfigError
        If a directory of the configuration cannot be used.
    """
    settings = server.simulate_daq_cfg
    mode = settings.simulation_mode
    strategy = settings.strategies.get(mode, Strategy())
    ways = {"uds": _sockets, "rpc": _at_once}
    async with ways.get(mode, _files)(server, publisher, strategy) as (put, raise_failure):
        number = 0
        limit = strategy.frame_limit
        while limit < 0 or number < limit:
            for source in sources:
                row = number % len(source)
                for module in settings.sim_module_ids:
                    await put(_now(source[row : row + 1], module), number)
            number += 1
            await asyncio.sleep(PERIOD_S)
            raise_failure()
        logger.info("the simulation has sent its %d frames", limit)
        await asyncio.get_running_loop().create_future()


def archived_frames(product: Product, path: str) -> Frames:
    """Return the frames of an archived file, or made ones if `path` is empty.

    Raises
    ------
    ConfigError
        If the file cannot be read or has no frame of `product`.
    """
    if not path:
        return _made_frames(product)
    try:
        with PffFile(path) as file:
            frames = file.read(0, LONGEST_ARCHIVE)
    except DataError as error:
        raise ConfigError(f"simulate_daq_cfg.source_data: {error}") from error
    if frames.product != product or not len(frames):
        raise ConfigError(f"simulate_daq_cfg.source_data: {path} has no {product.name} frames")
    return frames


def _made_frames(product: Product) -> Frames:
    """Return frames of a dark sky with a spot that wanders along the diagonal."""
    rng = np.random.default_rng(0)
    side, count = product.side, MADE_FRAMES
    rows, columns = np.mgrid[:side, :side]
    image = rng.normal(0, 15, (count, side, side))
    if product.movie:
        image = rng.poisson(8, (count, side, side)).astype(float)
    for number in range(count):
        center = side * number / count
        distance = (rows - center) ** 2 + (columns - center) ** 2
        image[number] += (60 if product.movie else 800) * np.exp(-distance / 4)
    limits = np.iinfo(product.dtype)
    zeros = np.zeros(count, np.int64)
    numbers = np.zeros((count, product.quabos, len(FIELDS)), np.int64)
    numbers[:, :, SEC] = 1  # all boards are there; `_now` gives them the time
    return make_frames(
        product,
        0,
        "",
        np.arange(count),
        zeros,
        np.arange(count) % 4 if product.quabos == 1 else zeros,
        numbers,
        np.clip(image, limits.min, limits.max).astype(product.dtype),
    )


def _now(frame: Frames, module: int) -> Frames:
    """Return a frame of `module` whose packets have arrived now; missing boards stay missing."""
    now = time.time_ns()
    numbers = frame.numbers.copy()
    seconds = now // NS
    tai = (seconds + TAI_MINUS_UTC_S) % TAI_PERIOD_S
    numbers[frame.present, TAI:] = tai, now % NS, seconds, now % NS // 1000
    return make_frames(
        frame.product, module, "simulated", frame.number, frame.offset, frame.quabo, numbers,
        frame.image,
    )  # fmt: skip


Way = AsyncIterator[tuple[Callable[[Frames, int], Awaitable[None]], Callable[[], None]]]
"""What hands on a frame with its number, and what raises the error of who takes them."""


@asynccontextmanager
async def _at_once(server: ServerConfig, publisher: Publisher, strategy: Strategy) -> Way:
    """Publish as an upload does."""

    async def put(frame: Frames, number: int) -> None:
        publisher.publish(replace(frame, number=np.array([number])), 0)

    yield put, lambda: None


@asynccontextmanager
async def _sockets(server: ServerConfig, publisher: Publisher, strategy: Strategy) -> Way:
    """Listen as for Hashpipe, and connect to it."""
    settings = server.simulate_daq_cfg
    uds = server.acquisition_methods.uds
    names = (settings.movie_type, settings.ph_type)
    paths = {name: Path(uds.socket_path_template.format(dp_name=name)) for name in names}
    writers: dict[str, asyncio.StreamWriter] = {}

    async def put(frame: Frames, number: int) -> None:
        writer = writers[frame.product.name]
        writer.write(frame.module.to_bytes(MODULE_BYTES, "big") + encode_frames(frame))
        await writer.drain()

    async with _running(
        *(
            serve_socket(path, PRODUCTS[name], publisher, uds.read_timeout)
            for name, path in paths.items()
        )
    ) as failed:
        try:
            for name, path in paths.items():
                while name not in writers:
                    failed()
                    with suppress(FileNotFoundError, ConnectionRefusedError):
                        _, writers[name] = await asyncio.open_unix_connection(str(path))
                    await asyncio.sleep(0.001)
            yield put, failed
        finally:
            for writer in writers.values():
                writer.close()


@asynccontextmanager
async def _files(server: ServerConfig, publisher: Publisher, strategy: Strategy) -> Way:
    """Write files in a directory of our own or of the configuration, and follow them."""
    settings = server.simulate_daq_cfg
    named = settings.filesystem_cfg.sim_data_dir
    by_pipe = settings.simulation_mode == "filesystem_pipe"
    pipe = server.read_status_pipe_name if by_pipe else ""
    template = settings.filesystem_cfg.sim_run_dir_template
    marker = settings.filesystem_cfg.daq_active_file
    markers = {module: marker.format(module_id=module) for module in settings.sim_module_ids}
    remove = partial(
        _remove_simulation, markers=markers.values(), pipe=server.read_status_pipe_name
    )
    made: dict[int, Path] = {}

    async def put(frame: Frames, number: int) -> None:
        directory, product = made[frame.module], frame.product.name
        name = f"{FILE_PREFIX}{product}.module_{frame.module}.seqno_{{}}.pff"
        seqno = number // strategy.frames_per_pff
        with (directory / name.format(seqno)).open("ab", buffering=0) as out:
            out.write(encode_frames(frame))
        (directory / name.format(seqno - 2)).unlink(missing_ok=True)  # the disk must not fill
        if pipe:
            with suppress(OSError):  # no reader yet
                fd = os.open(directory / pipe, os.O_WRONLY | os.O_NONBLOCK)
                try:
                    os.write(fd, product.ljust(NAME_BYTES).encode())
                finally:
                    os.close(fd)

    try:
        with nullcontext(Path(named)) if named else scratch("panoseti-sim") as root:
            for module, name in markers.items():
                directory = root / template.format(module_id=module)
                remove(directory)  # the last one, if it was killed
                directory.mkdir(parents=True)
                made[module] = directory
                (directory / name).touch()
                if pipe:
                    os.mkfifo(directory / pipe)
            async with _running(FileFollower(root, publisher, PERIOD_S / 10, pipe).run()) as failed:
                yield put, failed
    except OSError as error:
        raise ConfigError(f"simulate_daq_cfg: {error}") from error
    finally:
        for directory in made.values():
            try:
                remove(directory)
            except (ConfigError, OSError) as error:
                logger.warning("%s", error)


def _remove_simulation(directory: Path, markers: Collection[str], pipe: str) -> None:
    """Remove the directory of a simulation, if there is one.

    Parameters
    ----------
    directory
        It has a marker. One whose simulation was killed may have only some of the files.
    markers
        Names of the empty files that mark such directories.
    pipe
        Name of the pipe that it may have.

    Raises
    ------
    ConfigError
        If it is the directory of something else; nothing is removed then.
    OSError
        If it cannot be removed.
    """
    if not directory.exists():
        return
    paths = list(directory.iterdir())
    is_marked = any(path.name in markers for path in paths)
    for path in paths:
        is_simulated = is_marked or path.name == pipe or path.name.startswith(FILE_PREFIX)
        if path.is_dir() or not is_simulated:
            raise ConfigError(
                f"simulate_daq_cfg.filesystem_cfg: {directory} is kept, because {path.name} in it "
                "is not of a simulation; choose another sim_data_dir or sim_run_dir_template"
            )
    shutil.rmtree(directory)


@asynccontextmanager
async def _running(*methods):  # type: ignore[no-untyped-def]
    """Run coroutines beside a block; yield a function that raises the failure of one."""
    tasks = [asyncio.create_task(method) for method in methods]

    def failed() -> None:
        for task in tasks:
            if task.done():
                task.result()

    try:
        yield failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
