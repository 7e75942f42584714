"""InitHpIo of the DaqData contract, over real gRPC."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest
from support.pano_files import announce, append, file_name, made_frames, run_directory
from support.pano_server import end_of, served_here, status
from support.waiting import until

from skywright.errors import ConfigError
from skywright.instruments.panoseti.live import activity, follow, service, simulate
from skywright.instruments.panoseti.live.config import (
    HpIoConfig,
    ServerConfig,
    load_server_config,
)
from skywright.instruments.panoseti.live.hp_io import HpIo
from skywright.instruments.panoseti.live.server import DaqDataServer
from skywright.instruments.panoseti.live.service import DaqDataService
from skywright.instruments.panoseti.pff import PffFile, read_pff
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import decode
from skywright.wire.daqdata.methods import Stub

Code = grpc.StatusCode


class hashpipe:  # noqa: N801
    """A process named hashpipe."""

    def __init__(self, directory):
        self.path = directory / "hashpipe"

    def __enter__(self):
        shutil.copy(shutil.which("sleep"), self.path)
        self.process = subprocess.Popen([str(self.path), "600"])

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def test_init_checks_its_arguments(server, tmp_path):
    code, text = status(lambda: server.init(data_dir="/nowhere/at/all", force=True))
    assert code == Code.INVALID_ARGUMENT
    assert "'/nowhere/at/all' does not exist" in text
    for data_dir in ("x" * 5000, "/\0"):
        code, text = status(lambda name=data_dir: server.init(data_dir=name, force=True))
        assert (code, text[-28:]) == (Code.INVALID_ARGUMENT, "no directory of this machine")
    for seconds in (0.0001, float("nan"), float("inf")):
        code, text = status(
            lambda value=seconds: server.init(simulate_daq=True, update_interval_seconds=value)
        )
        assert code == Code.INVALID_ARGUMENT
        assert "finite and at least 0.001" in text
    code, text = status(lambda: server.init(simulate_daq=True, module_ids=[3, 999]))
    assert (code, text) == (Code.INVALID_ARGUMENT, "module_ids must be 0 to 255, one is 999")
    (tmp_path / "old").mkdir()
    code, text = status(lambda: server.init(data_dir=str(tmp_path / "old"), force=True))
    assert code == Code.FAILED_PRECONDITION
    assert "hashpipe" in text


@pytest.mark.parametrize("seconds", [120.0, 1e300])
def test_a_longer_interval_than_streams_may_have_is_served_as_the_observatory_does(
    server, data_dir, seconds
):
    assert server.init(data_dir=str(data_dir), update_interval_seconds=seconds).success
    assert server.images(1)


def test_a_module_on_another_disk_is_active_while_directories_are_removed(tmp_path, monkeypatch):
    data_dir, disk = tmp_path / "data", tmp_path / "disk"
    run = run_directory(disk, 1)
    (data_dir / "gone").mkdir(parents=True)
    (data_dir / "module_1").symlink_to(run.parent)
    scandir = os.scandir

    def remove_before(path="."):
        if str(path).endswith("gone"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", remove_before)
    assert not activity.grew_recently(data_dir)
    append(run / file_name("img16", 1), made_frames("img16", 1), 0, 1)
    assert activity.grew_recently(data_dir)


@pytest.mark.parametrize(("ahead_s", "is_active"), [(30, True), (86_400, False)])
def test_a_file_with_a_time_to_come_does_not_count_as_growing_for_ever(
    tmp_path, ahead_s, is_active
):
    path = run_directory(tmp_path) / file_name("img16")
    append(path, made_frames("img16", 1), 0, 1)
    os.utime(path, (time.time() + ahead_s,) * 2)
    assert activity.grew_recently(tmp_path) == is_active


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
        assert began.wait(90)
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


BY_PIPE = {
    "acquisition_methods": {
        "filesystem_poll": {"enabled": False},
        "filesystem_pipe": {"enabled": True},
    }
}


class Held:
    """A method of the server that waits until `release` is set; calls are answered meanwhile."""

    def __init__(self, monkeypatch, owner, name):
        self.began, self.release = threading.Event(), threading.Event()
        method = getattr(owner, name)

        def held(*arguments):
            self.began.set()
            assert self.release.wait(90)
            return method(*arguments)

        monkeypatch.setattr(owner, name, held)

    def let_go_after_a_ping(self, server):
        assert self.began.wait(90)
        server.ping(timeout=90)
        self.release.set()


def test_calls_are_answered_while_notification_is_closed(server, data_dir, monkeypatch):
    closing = Held(monkeypatch, follow.INotify, "close")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.init, data_dir=str(data_dir), force=True)
        closing.let_go_after_a_ping(server)
        assert answer.result(30).success


def test_calls_are_answered_while_a_file_is_opened(server, data_dir, monkeypatch):
    reading = Held(monkeypatch, follow.Followed, "read_new")
    append(run_directory(data_dir, 3) / file_name("img16", 3), made_frames("img16", 5), 0, 5)
    call = server.stream(modules=(3,))
    reading.let_go_after_a_ping(server)
    assert decode(next(call)).frame_number == 4
    call.cancel()


def test_calls_are_answered_while_a_growing_file_is_read(server, data_dir, monkeypatch):
    """A large file whose frames turn out to differ in length is scanned for seconds."""
    call = server.stream(ph=False, modules=(1,))
    next(call)
    reading = Held(monkeypatch, follow.Followed, "read_new")
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    append(path, made_frames("img16", 9, seed=1), 8, 9)
    reading.let_go_after_a_ping(server)
    assert decode(next(call)).frame_number == 8
    call.cancel()


@pytest.mark.parametrize(
    ("owner", "name"), [(follow, "newest_files"), (follow.Followed, "read_new")], ids=str
)
def test_calls_are_answered_while_an_announced_file_is_read(tmp_path, monkeypatch, owner, name):
    run = run_directory(tmp_path / "data", 9)
    os.mkfifo(run / "read_status_2")
    frames = made_frames("img8", 1)
    with served_here(tmp_path, tmp_path / "data", config=BY_PIPE) as server:
        call = server.stream()
        append(run / file_name("img8", 9), frames, 0, 1)
        reading = Held(monkeypatch, owner, name)
        announce(run, "img8")
        reading.let_go_after_a_ping(server)
        np.testing.assert_array_equal(decode(next(call)).image, frames.image[0])
        call.cancel()


def test_a_run_is_announced_after_the_clock_was_set_back(tmp_path):
    runs = [run_directory(tmp_path / "data", 9, name) for name in ("a", "b")]
    for run in runs:
        os.mkfifo(run / "read_status_2")
    runs[1].rename(tmp_path / "later")
    append(runs[0] / file_name("img8", 9), made_frames("img8", 1), 0, 1)
    os.utime(runs[0], (4e9, 4e9))
    with served_here(tmp_path, tmp_path / "data", config=BY_PIPE) as server:
        call = server.stream()
        announce(runs[0], "img8")
        next(call)
        append(tmp_path / "later" / file_name("img8", 9), made_frames("img8", 2), 0, 2)
        (tmp_path / "later").rename(runs[1])
        announce(runs[1], "img8")
        assert decode(next(call)).frame_number == 1
        call.cancel()


def test_files_that_a_killed_simulation_has_left_are_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "skywright-panoseti-sim-left" / "module_224"
    left.mkdir(parents=True)
    with served_here(tmp_path) as server:
        assert server.init(simulate_daq=True).success
        assert not left.exists()
        server.images(1)
        assert len(list(tmp_path.glob("*panoseti-sim*"))) == 1
    assert not list(tmp_path.glob("*panoseti-sim*"))


def simulation_in(directory, **filesystem):
    """Return the configuration of a server that simulates in a directory of the configuration."""
    settings = {"sim_data_dir": str(directory), **filesystem}
    return {"simulate_daq_cfg": {"filesystem_cfg": settings}}


@pytest.mark.parametrize("template", ["module_{module_id}", "", "module_224/run"])
def test_a_simulation_leaves_the_files_of_an_acquisition_alone(tmp_path, template):
    data_dir = tmp_path / "data"
    path = run_directory(data_dir, 224) / file_name("img16", 224)
    append(path, made_frames("img16", 1), 0, 1)
    if template.endswith("run"):
        path = path.parent.rename(data_dir / template) / path.name
    config = simulation_in(data_dir, sim_run_dir_template=template)
    with served_here(tmp_path, config=config) as server:
        answer = server.init(simulate_daq=True)
        assert not answer.success
        assert f"{data_dir / template.format(module_id=224)} is kept" in answer.error_message
        assert path.exists()


@pytest.mark.parametrize(
    "left",
    [
        [],
        ["sim.dp_img16.module_224.seqno_3.pff"],
        ["read_status_2", "sim.dp_ph256.module_224.seqno_3.pff"],
        ["module_224.daq-active", "start_2024-07-25T04_34_46Z.dp_img16.module_224.pff"],
    ],
)
def test_a_simulation_replaces_what_a_killed_one_has_left(tmp_path, left):
    run = tmp_path / "data" / "module_224" / "obs_SIMULATE"
    run.mkdir(parents=True)
    for name in left:
        (run / name).touch()
    with served_here(tmp_path, config=simulation_in(tmp_path / "data")) as server:
        assert server.init(simulate_daq=True).success
        server.images(2)
        assert (run / "module_224.daq-active").exists()
        assert not any((run / name).exists() for name in left if name.endswith(".pff"))
        assert all(name.startswith("module_224") or not (run / name).exists() for name in left[1:])
    assert not run.exists()


def test_a_run_that_begins_in_the_directory_of_a_simulation_is_kept(tmp_path, caplog):
    config = simulation_in(tmp_path / "data", sim_run_dir_template="module_{module_id}")
    with served_here(tmp_path, config=config) as server:
        assert server.init(simulate_daq=True).success
        run = run_directory(tmp_path / "data", 224)
    assert run.exists()
    assert f"{run.parent} is kept" in caplog.text


def test_a_stream_that_is_not_read_is_ended_too(server, data_dir, caplog):
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    options = [("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(server.address, options) as channel:
        call = server.stream(stub=Stub(channel), timeout=60)
        next(call)
        for number in range(8, 400):
            append(path, made_frames("img16", number + 1, seed=1), number, number + 1)
        assert server.init(data_dir=str(data_dir), force=True).success
        assert end_of(call) == Code.CANCELLED
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_init_of_an_empty_directory_succeeds_while_hashpipe_runs(server, tmp_path):
    empty = tmp_path / "empty"
    run = run_directory(empty, 5)
    with hashpipe(tmp_path):
        assert server.init(data_dir=str(empty), force=True).success
    call = server.stream()
    append(run / file_name("img16", 5), made_frames("img16", 1), 0, 1)
    assert decode(next(call)).module == 5
    call.cancel()


@pytest.mark.parametrize("directory", ["gone", ""])
def test_a_configuration_without_its_directory_is_refused(tmp_path, directory):
    path = directory and str(tmp_path / directory)

    async def start():
        server = DaqDataServer(ServerConfig(unix_domain_socket=None), "127.0.0.1", 0)
        try:
            await server.start(HpIoConfig(data_dir=path))
        finally:
            await server.stop()

    with pytest.raises(ConfigError, match=f"hp_io_config: data_dir '{path}' is no directory"):
        asyncio.run(start())


def test_a_long_archived_file_is_decoded_in_part_beside_the_event_loop(tmp_path, monkeypatch):
    archive = tmp_path / file_name("img16")
    append(archive, made_frames("img16", 50), 0, 50)
    monkeypatch.setattr(simulate, "LONGEST_ARCHIVE", 20)
    read, threads, frames = PffFile.read, [], []

    def noted(file, *more):
        threads.append(threading.current_thread())
        frames.append(read(file, *more))
        return frames[-1]

    monkeypatch.setattr(PffFile, "read", noted)
    source = {"movie_pff_path": str(archive)}
    simulation = {"simulation_mode": "rpc", "source_data": source}
    with served_here(tmp_path, config={"simulate_daq_cfg": simulation}) as server:
        loop = asyncio.run_coroutine_threadsafe(_thread(), server.loop).result(30)
        assert server.init(simulate_daq=True).success
        (image,) = server.images(1, ph=False)
    assert (image.image == frames[0].image[image.frame_number % 20]).all()
    assert [len(each) for each in frames] == [20]
    assert loop not in threads


async def _thread():
    return threading.current_thread()


def test_a_board_that_is_missing_in_an_archived_frame_is_missing_in_the_simulation(
    tmp_path, test_data
):
    (archived,) = test_data.glob("panoseti/data_dir/module_254/*/*dp_ph1024.*.pff")
    first = read_pff(archived)[:1]
    assert first.present[0].tolist() == [True, True, False, False]
    source = {"ph_pff_path": str(archived)}
    simulation = {
        "simulation_mode": "rpc", "ph_type": "ph1024", "source_data": source,
        "strategies": {"rpc": {"frame_limit": 1}},
    }  # fmt: skip
    with served_here(tmp_path, config={"simulate_daq_cfg": simulation}) as server:
        began = time.time()
        assert server.init(simulate_daq=True).success
        (image,) = server.images(1, movie=False)
    seconds = [image.header[f"quabo_{number}"]["tv_sec"] for number in range(4)]
    assert seconds[2:] == [0, 0]
    assert min(seconds[:2]) >= int(began)


@pytest.mark.parametrize("strategies", [{}, {"rpc": {"data_products": ["ph256", "img16"]}}])
def test_a_simulation_without_a_limit_has_no_end(tmp_path, monkeypatch, strategies):
    monkeypatch.setattr(simulate, "PERIOD_S", 0.0)
    config = {"simulate_daq_cfg": {"simulation_mode": "rpc", "strategies": strategies}}
    with served_here(tmp_path, config=config) as server:
        assert server.init(simulate_daq=True).success
        stream = server.stream(ph=False)
        until(lambda: decode(next(stream)).frame_number > 1000, 60, "more than 1000 frames come")
        stream.cancel()


def test_a_failed_init_restores_what_ran(tmp_path, data_dir):
    config = {
        "simulate_daq_cfg": {"source_data": {"movie_pff_path": "/nowhere.dp_img16.module_1.pff"}}
    }
    with served_here(tmp_path, data_dir, config=config) as server:
        answer = server.init(simulate_daq=True)
        assert not answer.success
        assert "/nowhere" in answer.error_message
        assert {image.module for image in server.images(10)} == {1, 2}


def test_a_data_source_that_does_not_end_is_left_behind(tmp_path, data_dir, monkeypatch, caplog):
    release = asyncio.Event()

    async def stubborn(follower):
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    with monkeypatch.context() as patched:
        patched.setattr(follow.FileFollower, "run", stubborn)
        with served_here(tmp_path, data_dir, config={"hp_io_stop_timeout": 0.05}) as server:
            patched.undo()
            assert server.init(data_dir=str(data_dir)).success
            assert "files has not ended within 0.05 s" in caplog.text
            server.images(10)
            server.loop.call_soon_threadsafe(release.set)


@pytest.mark.parametrize("restored", [True, False])
def test_a_failed_init_is_no_failed_call(server, data_dir, monkeypatch, restored):
    """An error that nobody expects is an answer too, also where what ran cannot start again."""
    start = HpIo._methods

    def failing(hp_io, config):
        if config.module_ids or not restored:
            raise KeyError("module")
        return start(hp_io, config)

    monkeypatch.setattr(HpIo, "_methods", failing)
    answer = server.init(data_dir=str(data_dir), module_ids=[2])
    assert not answer.success
    assert "KeyError: 'module'" in answer.error_message
    assert ("cannot be started again" in answer.error_message) != restored
    if restored:
        assert {image.module for image in server.images(10)} == {1, 2}
    else:
        code, text = status(lambda: next(server.stream()))
        assert code == Code.FAILED_PRECONDITION
        assert "cannot be started again" in text
        monkeypatch.undo()
        assert server.init(data_dir=str(data_dir)).success


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (
            {"acquisition_methods": {"uds": {"socket_path_template": "/tmp/{product}.sock"}}},
            "acquisition_methods.uds.socket_path_template",
        ),
        *(
            ({"simulate_daq_cfg": {"filesystem_cfg": {key: text}}}, f"filesystem_cfg.{key}")
            for key in ("sim_run_dir_template", "daq_active_file")
            for text in ("module_{module}/x", "{", "{}", "{module_id.x}", "{module_id[0]}")
        ),
    ],
)
def test_a_template_with_an_unknown_name_is_told_by_its_key(tmp_path, config, key):
    path = tmp_path / "server.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"{key}: .* only"):
        load_server_config(path)


PINGS = """
import sys, threading, time
import grpc
from google.protobuf.empty_pb2 import Empty
from skywright.wire.daqdata.methods import Stub

end = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
times = []
with grpc.insecure_channel(sys.argv[1]) as channel:
    ping = Stub(channel).Ping
    while not end.wait(0.02):
        started = time.monotonic()
        ping(Empty(), timeout=90, wait_for_ready=True)
        times.append(time.monotonic() - started)
print(len(times), max(times))
"""
"""Pings until its input ends, in a process of its own: this one has 16 clients to run."""


@pytest.mark.parametrize(
    ("times", "is_timed"),
    [(10, False), pytest.param(100, True, marks=pytest.mark.soak)],
    ids=["ten", "hundred"],
)
def test_forced_inits_leak_nothing(process, data_dir, tmp_path, times, is_timed):
    server, stop = process, threading.Event()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.address, options) for _ in range(16)]
    pinger = subprocess.Popen(
        [sys.executable, "-c", PINGS, server.address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def watch(stub):
        while not stop.is_set():
            end_of(server.stream(stub=stub, timeout=90))

    def counts():
        assert server.init(data_dir=str(data_dir), force=True).success
        return server.descriptors, server.threads

    threads = [threading.Thread(target=watch, args=(Stub(channel),)) for channel in channels]
    for thread in threads:
        thread.start()
    with hashpipe(tmp_path):
        for _ in range(5):
            before = counts()
        for _ in range(times):
            assert server.init(data_dir=str(data_dir), force=True).success
        after = counts()
    pings, slowest = pinger.communicate()[0].split()
    stop.set()
    for channel in channels:
        channel.close()
    for thread in threads:
        thread.join()
    print(f"{times} inits, {pings} pings, the slowest {float(slowest) * 1e3:.0f} ms")
    assert not is_timed or float(slowest) < 0.3
    assert after[0] <= before[0] + 3
    assert after[1] <= before[1] + 2


def test_a_call_that_ends_while_the_source_is_started_restores_the_former_one(
    tmp_path, monkeypatch
):
    directories = [tmp_path / name for name in ("former", "new")]
    for directory in directories:
        directory.mkdir()
    former, new = (
        HpIoConfig(data_dir=str(each), update_interval_seconds=0.5) for each in directories
    )
    health = []
    monkeypatch.setattr(service, "is_active", lambda directory: True)

    async def set_health(serving):
        health.append(serving)

    async def end_while_it_starts():
        made = DaqDataService(ServerConfig(), set_health)
        await made.hp_io.start(former)
        start, starting = made.hp_io._start, asyncio.Event()

        async def start_slowly(config):
            if config == new:
                starting.set()
                await asyncio.Event().wait()
            await start(config)

        monkeypatch.setattr(made.hp_io, "_start", start_slowly)
        request = pb.InitHpIoRequest(data_dir=new.data_dir, update_interval_seconds=0.5)
        call = asyncio.create_task(made.init_hp_io(request, None))
        await starting.wait()
        call.cancel()  # as a deadline does
        with pytest.raises(asyncio.CancelledError):
            await call
        state = made.hp_io.config, made.hp_io.valid, not made._init_lock.locked()
        await made.stop()
        return state

    assert asyncio.run(end_while_it_starts()) == (former, True, True)
    assert health == [True]
