"""`skywright panoseti serve` as a process, and clients of it."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from support.ready_process import ReadyProcess, ended_after

from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.server import DaqDataServer
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import LiveImage, decode
from skywright.wire.daqdata.methods import Stub


@contextmanager
def served(tmp_path: Path, *arguments: object, config: dict | None = None) -> Iterator["Server"]:
    """Run a server on a free port and a Unix socket below `tmp_path`."""
    settings = {"unix_domain_socket": f"unix://{tmp_path}/daq.sock", **(config or {})}
    path = tmp_path / "server_config.json"
    path.write_text(json.dumps(settings))
    command = ["serve", "--port", "0", "--config", str(path), *map(str, arguments)]
    with ended_after(ReadyProcess("-m", "skywright.cli", "panoseti", *command)) as process:
        server = Server(process.ready["port"])
        server.process = process
        yield server
        server.channel.close()


@contextmanager
def served_here(
    tmp_path: Path, data_dir: Path | None = None, config: dict | None = None
) -> Iterator["Server"]:
    """Run a server in a thread of this process: as `served`, but at once."""
    settings = ServerConfig.model_validate(
        {"unix_domain_socket": f"unix://{tmp_path}/daq.sock", **(config or {})}
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def start() -> DaqDataServer:
        running = DaqDataServer(settings, "127.0.0.1", 0)
        await running.start(data_dir and HpIoConfig(data_dir=str(data_dir)))
        return running

    try:
        running = call(start())
        server = Server(running.port)
        server.socket, server.loop = running.socket, loop
        try:
            yield server
        finally:
            call(running.stop())
            server.channel.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Server:
    """A running server."""

    process: ReadyProcess
    socket: Path | None
    loop: asyncio.AbstractEventLoop

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.channel = grpc.insecure_channel(self.address)
        self.stub = Stub(self.channel)

    def stream(
        self, movie: bool = True, ph: bool = True, interval: float = -1.0,
        modules: tuple[int, ...] = (), timeout: float = 30.0, stub: Stub | None = None,
    ) -> Any:  # fmt: skip
        """Open a stream."""
        request = pb.StreamImagesRequest(
            stream_movie_data=movie,
            stream_pulse_height_data=ph,
            update_interval_seconds=interval,
            module_ids=modules,
        )
        return (stub or self.stub).StreamImages(request, timeout=timeout)

    def images(self, count: int, **options: Any) -> list[LiveImage]:
        """Return the first images of a stream."""
        call = self.stream(**options)
        found = [decode(next(call)) for _ in range(count)]
        call.cancel()
        return found

    def init(self, timeout: float = 30.0, **fields: Any) -> pb.InitHpIoResponse:
        """Call InitHpIo."""
        fields = {"update_interval_seconds": 0.001, **fields}
        return self.stub.InitHpIo(pb.InitHpIoRequest(**fields), timeout=timeout)

    def ping(self, timeout: float = 0.3) -> None:
        """Call Ping as the observatory's clients do."""
        self.stub.Ping(Empty(), timeout=timeout, wait_for_ready=True)

    @property
    def descriptors(self) -> int:
        """Number of open file descriptors of the process."""
        return len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        """Number of threads of the process."""
        return len(list(Path(f"/proc/{self.process.process.pid}/task").iterdir()))


def end_of(call: Any) -> grpc.StatusCode:
    """Read a stream to its end and return its status."""
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass
    return call.code()


def status(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Return the status and the details with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()
