"""Live images as a client gets them: ``async for image in stream("localhost")``."""

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from google.protobuf.empty_pb2 import Empty
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.clock import NS, date_frames
from skywright.instruments.panoseti.live.config import HpIoConfig
from skywright.instruments.panoseti.live.publish import flag_text
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import HIGHEST_MODULE, QUABOS
from skywright.wire.daqdata import DEFAULT_PORT
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import LiveImage, decode
from skywright.wire.daqdata.methods import Stub

PING_S = 2.0
INIT_S = 30.0


def target_of(host: str) -> str:
    """Return gRPC's target of ``HOST``, ``HOST:PORT`` or ``unix:PATH``."""
    if host.startswith("unix:"):
        return host
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"  # an IPv6 address, without a port
    if host.rpartition(":")[2].isdigit():
        return host
    return f"{host}:{DEFAULT_PORT}"


async def stream(
    host: str = "localhost",
    *,
    movie: bool = True,
    pulse_height: bool = True,
    interval_s: float = -1.0,
    modules: Collection[int] = (),
) -> AsyncIterator[LiveImage]:
    """Yield images as the server sends them, until it ends the stream.

    An image for which the server sends no time has the time of its header. Newer servers of the
    observatory end a stream over which no image came for some seconds; it is opened again.

    Parameters
    ----------
    host
        ``HOST``, ``HOST:PORT`` or ``unix:PATH``.
    movie, pulse_height
        Which kinds; at least one.
    interval_s
        Shortest mean time between two images of a kind and module; after a pause two come at once.
        0 or less: as the server has them.
    modules
        Module numbers; empty for all, also for those that appear later.

    Raises
    ------
    ConfigError
        If there cannot be such a module.
    HardwareError
        If the server does not answer, or refuses the stream; the message says why.
    """
    if not all(0 <= module <= HIGHEST_MODULE for module in modules):
        named = ", ".join(map(str, modules))
        raise ConfigError(f"modules {named}: expected 0 to {HIGHEST_MODULE}")
    request = pb.StreamImagesRequest(
        stream_movie_data=movie,
        stream_pulse_height_data=pulse_height,
        update_interval_seconds=interval_s,
        module_ids=sorted(modules),
    )
    newest: dict[tuple[int, bool, int | None], tuple[Any, ...]] = {}
    quiet = True
    async with grpc.aio.insecure_channel(target_of(host)) as channel:
        while quiet:
            quiet = False
            known = dict(newest)  # a new stream begins with the newest images again
            try:
                async for response in Stub(channel).StreamImages(request):
                    image = decode(response)
                    key = image.module, image.movie, image.quabo
                    newest[key] = image.file, image.frame_number, image.header
                    if known.pop(key, None) != newest[key]:
                        yield _dated(image)
            except grpc.aio.AioRpcError as error:
                quiet = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                if not quiet and error.code() != grpc.StatusCode.CANCELLED:
                    raise HardwareError(f"{host}: {_reason(error)}") from error


def _dated(image: LiveImage) -> LiveImage:
    """Return an image with the time and the message of its header if the server sends no time.

    The observatory's own server sends neither, and nobody does for an uploaded image.
    """
    if image.time_ns:
        return image
    boards: list[Any] = [image.header]
    if image.quabo is None:
        boards = [image.header.get(f"quabo_{board}") for board in range(QUABOS)]
    numbers = np.array([[[_number(board, name) for name in FIELDS] for board in boards]], np.int64)
    time_ns, flags = np.zeros(1, np.int64), np.zeros(1, np.uint8)
    date_frames(numbers, time_ns, flags)
    message = image.message or flag_text(int(flags[0]))
    return replace(image, time_ns=int(time_ns[0]), message=message)


def _number(board: Any, name: str) -> int:
    """Return a number of a board's header; 0 if there is none that can be."""
    value = board.get(name) if isinstance(board, dict) else None
    return value if isinstance(value, int) and 0 <= value < NS * NS else 0


def ping(host: str, timeout_s: float = PING_S) -> None:
    """Check that a server answers.

    Raises
    ------
    HardwareError
        If it does not within `timeout_s`.
    """
    with _stub(host) as (_, stub):
        stub.Ping(Empty(), timeout=timeout_s, wait_for_ready=True)


def services(host: str) -> dict[str, list[str]]:
    """Return the methods of each service of a server, by reflection.

    Raises
    ------
    HardwareError
        If it does not answer.
    """
    from google.protobuf.descriptor_pool import DescriptorPool

    ping(host)
    with _stub(host) as (channel, _):
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        return {
            name: [method.name for method in pool.FindServiceByName(name).methods]
            for name in database.get_services()
        }


def init(host: str, config: HpIoConfig) -> None:
    """Choose what a server reads.

    Raises
    ------
    HardwareError
        If it does not answer or cannot read that.
    """
    with _stub(host) as (_, stub):
        answer = stub.InitHpIo(pb.InitHpIoRequest(**config.model_dump()), timeout=INIT_S)
    if not answer.success:
        raise HardwareError(f"{host}: {answer.error_message or 'InitHpIo failed'}")


@contextmanager
def _stub(host: str) -> Iterator[tuple[grpc.Channel, Stub]]:
    if not host:
        raise ConfigError("the host is empty; expected HOST, HOST:PORT or unix:PATH")
    with grpc.insecure_channel(target_of(host)) as channel:
        try:
            yield channel, Stub(channel)
        except grpc.RpcError as error:
            raise HardwareError(f"{host}: {_reason(error)}") from error


def _reason(error: grpc.RpcError) -> str:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time; is a server running there, and is the port right?"
    return f"{error.code().name}: {error.details()}"
