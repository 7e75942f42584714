"""InitHpIo of the DaqData contract, over real gRPC."""

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from support.pano_files import append, file_name, made_frames, run_directory
from support.pano_server import end_of, served_here, status

from skywright.instruments.panoseti.live import service
from skywright.instruments.panoseti.live.hp_io import HpIo
from skywright.wire.daqdata.encode import decode
from skywright.wire.daqdata.methods import Stub

Code = grpc.StatusCode


class hashpipe:  # noqa: N801
    """A process named hashpipe."""

    def __init__(self, directory):
        self.path = directory / "hashpipe"

    def __enter__(self):
        import subprocess

        shutil.copy(shutil.which("sleep"), self.path)
        self.process = subprocess.Popen([str(self.path), "600"])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def test_init_checks_its_arguments(server, tmp_path):
    code, text = status(lambda: server.init(data_dir="/nowhere/at/all", force=True))
    assert code == Code.INVALID_ARGUMENT
    assert "/nowhere/at/all" in text
    code, _ = status(lambda: server.init(simulate_daq=True, update_interval_seconds=0.0001))
    assert code == Code.INVALID_ARGUMENT
    (tmp_path / "old").mkdir()
    code, text = status(lambda: server.init(data_dir=str(tmp_path / "old"), force=True))
    assert code == Code.FAILED_PRECONDITION
    assert "hashpipe" in text


def test_init_of_an_active_directory_honors_module_ids(server, data_dir):
    assert server.init(data_dir=str(data_dir), module_ids=[2]).success
    assert {image.module for image in server.images(5)} == {2}


def test_init_without_force_leaves_streams_alone(server, data_dir):
    call = server.stream()
    next(call)
    code, text = status(lambda: server.init(data_dir=str(data_dir)))
    assert code == Code.FAILED_PRECONDITION
    assert "1 stream" in text
    assert "127.0.0.1" in text
    for _ in range(9):
        next(call)
    call.cancel()


def test_init_with_force_cancels_streams(server, data_dir):
    calls = [server.stream() for _ in range(3)]
    for call in calls:
        next(call)
    assert server.init(data_dir=str(data_dir), force=True).success
    assert [end_of(call) for call in calls] == [Code.CANCELLED] * 3
    server.images(10)


def test_clients_wait_for_an_init_and_are_then_unavailable(server, data_dir, tmp_path, monkeypatch):
    began, release, start = threading.Event(), threading.Event(), HpIo.start

    async def slow(hp_io, config):
        began.set()
        await asyncio.shield(asyncio.to_thread(release.wait, 60))
        await start(hp_io, config)

    monkeypatch.setattr(HpIo, "start", slow)
    with hashpipe(tmp_path), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.init, data_dir=str(data_dir), timeout=60, module_ids=[2])
        assert began.wait(30)
        # The limit of the first one's own work was read before; these two wait this long.
        monkeypatch.setattr(service, "INIT_WAIT_S", 0.3)
        assert end_of(server.stream()) == Code.UNAVAILABLE
        code, text = status(lambda: server.init(data_dir=str(data_dir)))
        assert (code, text) == (Code.UNAVAILABLE, "another InitHpIo lasts longer than 0.3 s")
        monkeypatch.setattr(service, "INIT_WAIT_S", 60.0)
        image = pool.submit(lambda: server.images(1)[0])
        assert not image.done()
        release.set()
        assert first.result(30).success
        assert image.result(30).module == 2


def test_init_of_an_empty_directory_succeeds_while_hashpipe_runs(server, tmp_path):
    empty = tmp_path / "empty"
    run = run_directory(empty, 5)
    with hashpipe(tmp_path):
        assert server.init(data_dir=str(empty), force=True).success
    call = server.stream()
    append(run / file_name("img16", 5), made_frames("img16", 1), 0, 1)
    assert decode(next(call)).module == 5
    call.cancel()


def test_a_failed_init_restores_what_ran(tmp_path, data_dir):
    config = {
        "simulate_daq_cfg": {"source_data": {"movie_pff_path": "/nowhere.dp_img16.module_1.pff"}}
    }
    with served_here(tmp_path, data_dir, config=config) as server:
        answer = server.init(simulate_daq=True)
        assert not answer.success
        assert "/nowhere" in answer.error_message
        assert {image.module for image in server.images(10)} == {1, 2}


@pytest.mark.parametrize(
    ("times", "is_timed"),
    [(10, False), pytest.param(100, True, marks=pytest.mark.soak)],
    ids=["ten", "hundred"],
)
def test_forced_inits_leak_nothing(process, data_dir, tmp_path, times, is_timed):
    server, stop = process, threading.Event()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.address, options) for _ in range(16)]
    pings = []

    def watch(stub):
        while not stop.is_set():
            end_of(server.stream(stub=stub, timeout=20))

    def ping(stub):
        while not stop.wait(0.02):
            started = time.monotonic()
            stub.Ping(Empty(), timeout=20)
            pings.append(time.monotonic() - started)

    def counts():
        assert server.init(data_dir=str(data_dir), force=True).success
        return server.descriptors, server.threads

    with grpc.insecure_channel(server.address, options) as own:
        threads = [threading.Thread(target=watch, args=(Stub(channel),)) for channel in channels]
        threads.append(threading.Thread(target=ping, args=(Stub(own),)))
        for thread in threads:
            thread.start()
        with hashpipe(tmp_path):
            for _ in range(5):
                before = counts()
            for _ in range(times):
                assert server.init(data_dir=str(data_dir), force=True).success
            after = counts()
        stop.set()
        for channel in channels:
            channel.close()
        for thread in threads:
            thread.join()
    print(f"{times} inits, {len(pings)} pings, the slowest {max(pings) * 1e3:.0f} ms")
    assert not is_timed or max(pings) < 0.3
    assert after[0] <= before[0] + 3
    assert after[1] <= before[1] + 2
