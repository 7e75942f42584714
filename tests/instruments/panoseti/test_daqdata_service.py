"""Each clause of the DaqData contract, over real gRPC."""

import asyncio
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support import forked
from support.pano_files import append, file_name, made_frames, run_directory
from support.pano_server import Server, end_of, served, served_here, status
from support.waiting import until

from skywright.errors import ConfigError
from skywright.instruments.panoseti.grpc_serving import GrpcServer
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.follow import Followed, RunFinder
from skywright.instruments.panoseti.live.service import DaqDataService
from skywright.instruments.panoseti.live.slots import SlotKey, Slots
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import parse_file_name
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import ImageEncoder, decode
from skywright.wire.daqdata.methods import Stub

Code = grpc.StatusCode


def test_real_files_are_streamed_whole(test_data, tmp_path):
    with served_here(tmp_path, test_data / "panoseti/data_dir") as server:
        images = server.images(9)
    movie = next(image for image in images if image.movie)
    assert movie.file == "start_2024-07-25T04:34:46Z.dp_img16.bpp_2.module_1.seqno_0.pff"
    assert (movie.module, movie.frame_number, movie.image.dtype) == (1, 249, np.uint16)
    assert movie.header["quabo_0"]["pkt_nsec"] == 940007488
    assert movie.time_ns == 1721882092940007488
    boards = {(image.module, image.quabo) for image in images if image.quabo is not None}
    assert len(boards) == 7
    assert min(image.image.min() for image in images if not image.movie) < 0


def test_newest_frames_of_finished_runs_come_at_once(server):
    images = server.images(10)
    assert {(i.module, i.movie, i.quabo) for i in images} == {
        *((module, True, None) for module in (1, 2)),
        *((module, False, quabo) for module in (1, 2) for quabo in range(4)),
    }
    for image in images:
        product = "img16" if image.movie else "ph256"
        expected = made_frames(product, 8, seed=image.module)
        np.testing.assert_array_equal(image.image, expected.image[image.frame_number])


def test_signed_pixels_go_out_as_unsigned(server):
    response = next(server.stream(movie=False))
    image = response.pano_image
    expected = made_frames("ph256", 8, seed=image.module_id).image[image.frame_number]
    assert list(image.image_array) == expected.view(np.uint16).ravel().tolist()
    assert expected.min() < 0
    assert (list(image.shape), image.bytes_per_pixel) == ([16, 16], 2)
    assert image.header["pkt_tai"] > 0


def test_no_kind_asked_for_is_an_invalid_argument(server):
    assert end_of(server.stream(movie=False, ph=False)) == Code.INVALID_ARGUMENT


def test_an_interval_that_is_no_number_is_an_invalid_argument(server):
    assert end_of(server.stream(interval=float("nan"))) == Code.INVALID_ARGUMENT


def test_a_module_that_there_cannot_be_is_an_invalid_argument(server):
    code, text = status(lambda: next(server.stream(modules=(1, 256), timeout=5.0)))
    assert code == Code.INVALID_ARGUMENT
    assert "module_ids must be 0 to 255, one is 256" in text


@pytest.mark.parametrize("interval", [float("inf"), 61.0])
def test_a_client_that_wants_an_image_a_minute_or_fewer_is_served(server, interval):
    assert next(server.stream(interval=interval)).pano_image.module_id in (1, 2)


def test_other_directories_do_not_hide_a_run(server, data_dir):
    (data_dir / "module_1" / "lost+found").mkdir()
    (data_dir / "notes").mkdir()
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    call = server.stream(ph=False, modules=(1,))
    next(call)
    threading.Event().wait(1.5)  # the directories are listed again
    append(path, made_frames("img16", 9, seed=1), 8, 9)
    assert decode(next(call)).frame_number == 8
    call.cancel()


def test_kinds_and_modules_are_honored(server):
    assert all(image.movie for image in server.images(2, ph=False))
    images = server.images(5, modules=(2,))
    assert {image.module for image in images} == {2}


def test_each_image_is_sent_once_and_a_quiet_stream_stays_open(tmp_path, data_dir):
    # Other servers end a stream that is quiet for their reader_timeout.
    with served_here(tmp_path, data_dir, config={"reader_timeout": 0.2}) as server:
        call = server.stream(ph=False, timeout=60)
        seen = [decode(next(call)) for _ in range(2)]
        path = run_directory(data_dir, 2) / file_name("img16", 2)
        threading.Timer(1.5, append, (path, made_frames("img16", 9, seed=2), 8, 9)).start()
        seen.append(decode(next(call)))
        call.cancel()
    found = [(image.module, image.frame_number) for image in seen]
    assert (sorted(found[:2]), found[2]) == ([(1, 7), (2, 7)], (2, 8))


def test_a_client_may_ping_as_often_as_it_likes_while_a_telescope_is_idle(server):
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 1000),  # the shortest
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(server.address, options) as channel:
        assert end_of(server.stream(stub=Stub(channel), timeout=4.5)) == Code.DEADLINE_EXCEEDED


def test_an_interval_limits_the_images_of_a_slot(server, data_dir):
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    frames = made_frames("img16", 400, seed=1)
    stop = threading.Event()

    def write():
        for number in range(8, 400):
            append(path, frames, number, number + 1)
            if stop.wait(0.005):
                break

    call = server.stream(ph=False, interval=0.25, modules=(1,))
    next(call)
    writer = threading.Thread(target=write)
    writer.start()
    times = []
    for _ in range(5):
        next(call)
        times.append(time.monotonic())
    stop.set()
    writer.join()
    call.cancel()
    # On average: an image that is late is not followed by a longer pause.
    assert times[-1] - times[0] > 4 * 0.25 - 0.2


def test_a_module_that_writes_slowly_does_not_starve(server, data_dir):
    stop = threading.Event()

    def write(module, pause):
        path = run_directory(data_dir, module) / file_name("img16", module)
        frames = made_frames("img16", 2000, seed=module)
        for number in range(8, 2000):
            append(path, frames, number, number + 1)
            if stop.wait(pause):
                return

    call = server.stream(ph=False, interval=0.05)
    for _ in range(2):
        next(call)
    writers = [threading.Thread(target=write, args=pair) for pair in ((1, 0.002), (2, 0.02))]
    for writer in writers:
        writer.start()
    found = [decode(next(call)).module for _ in range(40)]
    stop.set()
    for writer in writers:
        writer.join()
    assert min(found.count(1), found.count(2)) >= 18


def test_new_modules_files_and_runs_are_followed(server, data_dir):
    call = server.stream(ph=False)
    for _ in range(2):
        next(call)

    def newest(directory, module, seqno):
        directory.mkdir(parents=True, exist_ok=True)
        name = file_name("img16", module, seqno)
        frames = made_frames("img16", 3, seed=50 + seqno)
        append(directory / name, frames, 0, 3)
        image = decode(next(call))
        assert (image.module, image.file, image.frame_number) == (module, name, 2)
        np.testing.assert_array_equal(image.image, frames.image[2])

    newest(run_directory(data_dir, 1), 1, 1)  # rollover
    newest(data_dir / "module_77" / "obs_a.pffd", 77, 0)  # a module appears
    newest(data_dir / "module_1" / "obs_next.pffd", 1, 0)  # the next run
    call.cancel()


def test_a_directory_that_is_deleted_and_made_again_is_followed(server, data_dir):
    call = server.stream(ph=False, modules=(1,))
    next(call)
    shutil.rmtree(data_dir / "module_1")
    path = run_directory(data_dir, 1, "again") / file_name("img16", 1)
    append(path, made_frames("img16", 5, seed=9), 0, 5)
    image = decode(next(call))
    assert (image.file, image.frame_number) == (path.name, 4)
    call.cancel()


def test_garbage_and_truncation_leave_the_other_files_alone(server, data_dir, caplog):
    bad = run_directory(data_dir, 3) / file_name("img16", 3)
    bad.write_bytes(b"GARBAGE" * 1000)
    cut = run_directory(data_dir, 2) / file_name("img16", 2)
    os.truncate(cut, 100)
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    call = server.stream(ph=False, modules=(1,))
    next(call)
    append(path, made_frames("img16", 9, seed=1), 8, 9)
    assert decode(next(call)).frame_number == 8
    until(lambda: bad.name in caplog.text, what="the bad file is named in the log")
    cut.write_bytes(encode_frames(made_frames("img16", 3, seed=77)))
    fresh = server.stream(ph=False, modules=(2,))
    assert until(lambda: decode(next(server.stream(ph=False, modules=(2,)))).frame_number == 2)
    fresh.cancel()
    call.cancel()


def test_a_name_that_is_not_utf8_is_sent_readably(server, data_dir):
    name = b"start_caf\xe9.dp_img16.bpp_2.module_3.seqno_0.pff"
    path = run_directory(data_dir, 3) / os.fsdecode(name)
    append(path, made_frames("img16", 5), 0, 5)
    call = server.stream(modules=(3,))
    image = decode(next(call))
    assert image.file == "start_caf\ufffd.dp_img16.bpp_2.module_3.seqno_0.pff"
    append(path, made_frames("img16", 6), 5, 6)
    assert decode(next(call)).frame_number == 5
    call.cancel()


def test_an_unexpected_error_leaves_the_other_files_alone(server, data_dir, monkeypatch, caplog):
    """One file fails when it is opened, another one when it grows."""
    paths = {number: run_directory(data_dir, number) / file_name("img16", number) for number in
             (1, 2, 3)}  # fmt: skip
    call = server.stream(ph=False, modules=(1, 2))
    for _ in range(2):
        next(call)
    read_new = Followed.read_new

    def failing(followed):
        if followed.file.path in (paths[2], paths[3]) and not followed.broken:
            raise RuntimeError("a fault that nobody expects")
        return read_new(followed)

    monkeypatch.setattr(Followed, "read_new", failing)
    for number in (2, 3):
        append(paths[number], made_frames("img16", 9, seed=number), 8, 9)
    for number in (2, 3):
        line = f"{paths[number]} is not read any more"
        until(lambda line=line: line in caplog.messages, what="the file is named in the log")
    append(paths[1], made_frames("img16", 9, seed=1), 8, 9)
    image = decode(next(call))
    assert (image.module, image.frame_number) == (1, 8)
    call.cancel()


@pytest.mark.parametrize("simulated", [False, True])
def test_a_data_source_that_fails_ends_the_streams_and_says_why(
    server, data_dir, monkeypatch, simulated
):
    if simulated:
        assert server.init(simulate_daq=True).success
    check = health_pb2_grpc.HealthStub(server.channel).Check
    call = server.stream()
    next(call)
    monkeypatch.setattr(RunFinder, "directories", lambda finder: 1 / 0)
    assert end_of(call) == Code.UNAVAILABLE
    assert "ZeroDivisionError" in call.details()
    code, text = status(lambda: next(server.stream()))
    assert code == Code.FAILED_PRECONDITION
    assert "ZeroDivisionError" in text
    health = health_pb2.HealthCheckResponse
    assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health.NOT_SERVING
    monkeypatch.undo()
    assert server.init(data_dir=str(data_dir)).success
    assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health.SERVING
    server.images(10)


def test_a_file_is_asked_about_while_it_is_opened_again(data_dir):
    """The look for new files, in another thread, meets a truncated file that is just closed."""
    path = run_directory(data_dir, 2) / file_name("img16", 2)
    followed = Followed(path, parse_file_name(path))
    followed.file.close()
    assert not followed.replaced
    path.rename(path.with_suffix(".old"))
    assert followed.replaced


def test_a_frame_is_encoded_once_for_all_clients(server, data_dir, monkeypatch):
    encoded = []
    encode = ImageEncoder.encode

    def counted(encoder, numbers, image, file, number, *rest):
        encoded.append((file, number))
        return encode(encoder, numbers, image, file, number, *rest)

    calls = [server.stream(ph=False, modules=(1,)) for _ in range(6)]
    for call in calls:
        next(call)
    monkeypatch.setattr(ImageEncoder, "encode", counted)
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    for number in (8, 9):
        append(path, made_frames("img16", 10, seed=1), number, number + 1)
        assert {decode(next(call)).frame_number for call in calls} == {number}
    assert encoded == [(path.name, 8), (path.name, 9)]
    for call in calls:
        call.cancel()


def test_what_a_slow_client_misses_is_counted_for_it_alone():
    slots, quiet, busy = Slots(), SlotKey(1, "img16", -1), SlotKey(2, "img16", -1)
    quick, slow = (slots.subscribe(movie=True, pulse_height=False) for _ in range(2))
    slots.publish(quiet, True, b"quiet")
    for number in range(5):
        slots.publish(busy, True, b"%d" % number)
        while quick.next() is not None:
            pass
    assert [slow.next(), slow.next(), slow.next()] == [b"quiet", b"4", None]
    assert ((quick.sent, quick.missed), (slow.sent, slow.missed)) == ((6, 0), (2, 4))


def test_a_client_that_goes_away_while_an_image_is_written_is_no_error(tmp_path):
    class Gone:
        """The call of a client that is gone, of which gRPC has not yet told the server."""

        def peer(self):
            return "ipv4:1"

        async def write(self, payload):
            raise grpc.aio.InternalError("execute_batch")

    async def set_health(reading):
        pass

    service = DaqDataService(ServerConfig(), set_health)
    reading = HpIoConfig(data_dir=str(tmp_path))
    service.hp_io = SimpleNamespace(valid=True, failure="", config=reading)
    service.slots.publish(SlotKey(1, "img16", -1), True, b"image")
    request = pb.StreamImagesRequest(stream_movie_data=True, update_interval_seconds=-1.0)
    with pytest.raises(asyncio.CancelledError):  # which gRPC does not log
        asyncio.run(service.stream_images(request, Gone()))


def test_ping_is_answered(server):
    for _ in range(20):
        server.ping(timeout=90)  # the deadline of 0.3 s is a matter of the soak test


def test_reflection_and_health(server):
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert "daqdata.DaqData" in database.get_services()
    service = DescriptorPool(database).FindServiceByName("daqdata.DaqData")
    assert [method.name for method in service.methods] == [
        "StreamImages", "InitHpIo", "Ping", "UploadImages",
    ]  # fmt: skip
    health = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", "daqdata.DaqData"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_unix_socket_serves_too(server, tmp_path):
    with grpc.insecure_channel(f"unix://{tmp_path}/daq.sock") as channel:
        response = next(server.stream(stub=Stub(channel)))
    assert response.pano_image.module_id in (1, 2)


def test_a_socket_of_a_live_server_is_left_alone(server, tmp_path, data_dir, caplog):
    other = tmp_path / "other"
    other.mkdir()
    config = {"unix_domain_socket": f"unix://{tmp_path}/daq.sock"}
    with served_here(other, data_dir, config=config) as second:
        assert second.socket is None
        assert "left alone" in caplog.text
        second.images(1)
    with grpc.insecure_channel(f"unix://{tmp_path}/daq.sock") as channel:
        next(server.stream(stub=Stub(channel)))


def test_a_socket_of_a_killed_server_is_taken_over(tmp_path, data_dir):
    with served(tmp_path, "--data-dir", data_dir) as server:
        server.process.kill()
        with served(tmp_path, "--data-dir", data_dir) as again:
            assert again.process.ready["socket"] == f"{tmp_path}/daq.sock"
            again.images(3)


def test_without_a_source_streams_have_a_failed_precondition(tmp_path):
    with served_here(tmp_path) as server:
        assert end_of(server.stream()) == Code.FAILED_PRECONDITION
        server.ping(timeout=90)


def test_a_configured_limit_of_streams(tmp_path, data_dir):
    config = {"max_concurrent_rpcs": 2}
    with served_here(tmp_path, data_dir, config=config) as server:
        calls = [server.stream(timeout=60) for _ in range(2)]
        for call in calls:
            next(call)
        assert end_of(server.stream()) == Code.RESOURCE_EXHAUSTED
        calls[0].cancel()
        until(lambda: _is_free(server))


def test_without_a_configured_limit_there_are_100_streams():
    assert ServerConfig().max_concurrent_rpcs == 100


def _is_free(server: Server) -> bool:
    call = server.stream()
    try:
        next(call)
    except grpc.RpcError:
        return False
    call.cancel()
    return True


def test_sigterm_cancels_streams_and_ends_the_server(process):
    server = process
    calls = [server.stream() for _ in range(4)]
    for call in calls:
        next(call)
    # The clients go on reading: the status of a stream comes behind its images.
    with ThreadPoolExecutor(len(calls)) as clients:
        ends = clients.map(end_of, calls)
        assert server.process.terminate() == 0
        assert list(ends) == [Code.CANCELLED] * 4


def test_a_stalled_client_loses_only_its_own_frames(server, data_dir):
    stalled = grpc.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)])
    slow = server.stream(stub=Stub(stalled), timeout=60)
    next(slow)  # and never again
    path = run_directory(data_dir, 1) / file_name("img16", 1)
    frames = made_frames("img16", 600, seed=1)
    call = server.stream(ph=False, modules=(1,))
    next(call)
    for number in range(8, 600):
        append(path, frames, number, number + 1)
        assert decode(next(call)).frame_number == number
    call.cancel()
    assert server.init(data_dir=str(data_dir), force=True).success
    server.images(10)
    stalled.close()


def test_a_taken_port_is_one_clear_line(server, data_dir):
    import sys

    port = server.address.rpartition(":")[2]
    command = ["panoseti", "serve", "--data-dir", str(data_dir), "--port", port]
    done = forked.run(
        [sys.executable, "-m", "skywright.cli", *command, "--unix-socket", ""],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr.splitlines()[-1]


def test_a_port_that_is_taken_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    async def listen(port: int) -> None:
        server = GrpcServer("a.Service", grpc.method_handlers_generic_handler("a.Service", {}))
        server.listen("127.0.0.1", port)

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="cannot be used; is another server running"),
    ):
        asyncio.run(listen(taken.getsockname()[1]))
    assert capfd.readouterr().err == ""  # gRPC prints a line of its own
