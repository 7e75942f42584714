"""Where the images of the DaqData server come from: simulations, sockets, pipes, uploads."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest
from support.pano_files import announce, append, file_name, made_frames, run_directory
from support.pano_server import served_here, status

from skywright.instruments.panoseti import grpc_serving
from skywright.instruments.panoseti.cli import app
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import decode

Code = grpc.StatusCode


@pytest.mark.parametrize("mode", ["filesystem_poll", "filesystem_pipe", "uds", "rpc"])
def test_every_simulation_streams_both_kinds(mode, tmp_path, test_data):
    run = test_data / "panoseti/data_dir/module_1"
    movie = next(run.glob("*/*img16*"))
    config = {
        "acquisition_methods": {"uds": {"socket_path_template": f"{tmp_path}/dp_{{dp_name}}.sock"}},
        "simulate_daq_cfg": {
            "simulation_mode": mode,
            "sim_module_ids": [224, 3],
            "source_data": {"movie_pff_path": str(movie)},
            "strategies": {mode: {"frames_per_pff": 3}},
        },
    }
    with served_here(tmp_path, config=config) as server:
        assert server.init(simulate_daq=True).success
        images = server.images(30)
        assert {(image.module, image.movie) for image in images} == {
            (224, True), (224, False), (3, True), (3, False),
        }  # fmt: skip
        server.init(simulate_daq=True, force=True)
        server.images(4)
    assert not list(tmp_path.glob("dp_*.sock"))


def test_frames_pushed_over_a_socket(tmp_path):
    import socket

    template = f"{tmp_path}/dp_{{dp_name}}.sock"
    config = {
        "acquisition_methods": {
            "filesystem_poll": {"enabled": False},
            "uds": {"enabled": True, "socket_path_template": template},
        }
    }
    frames = made_frames("ph1024", 3)
    with served_here(tmp_path, tmp_path, config=config) as server:
        call = server.stream()
        for attempt in range(2):
            with socket.socket(socket.AF_UNIX) as hashpipe_end:
                hashpipe_end.connect(template.format(dp_name="ph1024"))
                for number in range(3):
                    message = b"\x00\xfe" + encode_frames(frames[number : number + 1])
                    hashpipe_end.sendall(message[:700])
                    hashpipe_end.sendall(message[700:])
                    image = decode(next(call))
                    assert (image.module, image.image.shape) == (254, (32, 32))
                    np.testing.assert_array_equal(image.image, frames.image[number])
                if attempt == 0:
                    hashpipe_end.sendall(b"\xff" * 6000)  # the connection is closed, not the server
        call.cancel()


def test_files_are_not_followed_where_only_sockets_are_enabled(tmp_path, data_dir):
    template = f"{tmp_path}/dp_{{dp_name}}.sock"
    config = {"acquisition_methods": {"uds": {"enabled": True, "socket_path_template": template}}}
    found = []
    with served_here(tmp_path, data_dir, config=config) as server:
        call = server.stream(timeout=3.0)
        with socket.socket(socket.AF_UNIX) as hashpipe_end:
            hashpipe_end.connect(template.format(dp_name="img8"))
            hashpipe_end.sendall(b"\x00\x09" + encode_frames(made_frames("img8", 1)))
            with suppress(grpc.RpcError):  # its deadline
                for image in call:
                    found.append(decode(image).file)
        assert call.code() == Code.DEADLINE_EXCEEDED
    assert found == ["uds_img8"]


def test_a_socket_over_which_nothing_comes_is_closed(tmp_path):
    import socket

    template = f"{tmp_path}/dp_{{dp_name}}.sock"
    uds = {"enabled": True, "socket_path_template": template, "read_timeout": 1.0}
    config = {"acquisition_methods": {"uds": uds}}
    with served_here(tmp_path, tmp_path, config=config) as server:
        call = server.stream()
        for module in (1, 2):  # the next connection is taken as before
            with socket.socket(socket.AF_UNIX) as hashpipe_end:
                hashpipe_end.settimeout(90)
                hashpipe_end.connect(template.format(dp_name="img8"))
                frame = encode_frames(made_frames("img8", 1))
                hashpipe_end.sendall(module.to_bytes(2, "big") + frame)
                assert decode(next(call)).module == module
                assert module == 2 or hashpipe_end.recv(1) == b""
        call.cancel()


@pytest.mark.parametrize("way", ["filesystem_poll", "filesystem_pipe"])
def test_only_the_valid_data_products_are_published(tmp_path, data_dir, way):
    run = run_directory(data_dir, 1)
    os.mkfifo(run / "read_status_2")
    methods = {"filesystem_poll": {"enabled": False}, way: {"enabled": True}}
    config = {"valid_data_products": ["img16"], "acquisition_methods": methods}
    with served_here(tmp_path, data_dir, config=config) as server:
        call = server.stream(modules=(1,))
        if way == "filesystem_pipe":
            announce(run, "ph256", "img16")
        assert decode(next(call)).movie
        append(run / file_name("ph256"), made_frames("ph256", 12, seed=1), 8, 12)
        append(run / file_name("img16"), made_frames("img16", 9, seed=1), 8, 9)
        if way == "filesystem_pipe":
            announce(run, "ph256", "img16")
        assert decode(next(call)).movie
        upload(server, pb.UploadImageRequest(pano_image=uploaded("ph256", 1)))
        upload(server, pb.UploadImageRequest(pano_image=uploaded("img16", 1)))
        assert decode(next(call)).movie
        call.cancel()


BY_PIPE = {
    "acquisition_methods": {
        "filesystem_poll": {"enabled": False},
        "filesystem_pipe": {"enabled": True},
    }
}


def test_frames_announced_by_a_pipe(tmp_path):
    run = run_directory(tmp_path / "data", 9)
    os.mkfifo(run / "read_status_2")
    frames = made_frames("img8", 4)
    with served_here(tmp_path, tmp_path / "data", config=BY_PIPE) as server:
        call = server.stream()
        for number in range(4):
            append(run / file_name("img8", 9), frames, number, number + 1)
            with (run / "read_status_2").open("wb", buffering=0) as pipe:
                pipe.write(b"img8      ")
            image = decode(next(call))
            assert (image.frame_number, image.image.dtype) == (number, np.uint8)
        call.cancel()


def test_a_frame_comes_once_where_files_are_followed_and_announced(tmp_path):
    run = run_directory(tmp_path / "data", 9)
    os.mkfifo(run / "read_status_2")
    frames = made_frames("img8", 9)
    path = run / file_name("img8", 9)
    methods = {"filesystem_poll": {"enabled": True}, "filesystem_pipe": {"enabled": True}}
    config = {"acquisition_methods": methods}
    with (
        (run / "read_status_2").open("w+b", buffering=0) as pipe,
        served_here(tmp_path, tmp_path / "data", config=config) as server,
    ):
        call, found = server.stream(), []
        for number in range(9):
            append(path, frames, number, number + 1)
            pipe.write(b"img8      ")
            found.append(decode(next(call)).frame_number)
        call.cancel()
    assert found == list(range(9))


def test_a_file_is_read_when_a_pipe_has_named_its_product_and_not_before(tmp_path):
    run = run_directory(tmp_path / "data", 9)
    os.mkfifo(run / "read_status_2")
    frames = made_frames("img8", 3)
    with served_here(tmp_path, tmp_path / "data", config=BY_PIPE) as server:
        call = server.stream()
        append(run / file_name("img8", 9), frames, 0, 1)
        append(run / file_name("ph256", 9), made_frames("ph256", 4), 0, 4)
        announce(run, "img16", "nonsense", "img8")
        assert decode(next(call)).frame_number == 0
        append(run / file_name("img8", 9), frames, 1, 2)
        append(run / file_name("img8", 9, 1), frames, 2, 3)  # the next file
        announce(run, "img8")
        names = {(image.file, image.frame_number) for image in (decode(next(call)),)}
        while (file_name("img8", 9, 1), 0) not in names:
            image = decode(next(call))
            names.add((image.file, image.frame_number))
        assert all("img8" in name for name, _ in names)
        call.cancel()


def test_a_pipe_that_is_made_again_is_read(tmp_path):
    run = run_directory(tmp_path / "data", 9)
    os.mkfifo(run / "read_status_2")
    frames = made_frames("img8", 4)
    with served_here(tmp_path, tmp_path / "data", config=BY_PIPE) as server:
        call = server.stream()
        for number in range(2):
            append(run / file_name("img8", 9), frames, number, number + 1)
            announce(run, "img8")
            assert decode(next(call)).frame_number == 0
            shutil.rmtree(run)
            run_directory(tmp_path / "data", 9)
            os.mkfifo(run / "read_status_2")
        call.cancel()


def uploaded(product, module=99):
    """Return the message of a made frame."""
    slots = Slots()
    slot = slots.subscribe(movie=True, pulse_height=True)
    Publisher(slots).publish(made_frames(product, 1, module=module), 0)
    return pb.StreamImagesResponse.FromString(slot.next()).pano_image


def upload(server, *requests):
    return server.stub.UploadImages(iter(requests), timeout=90)


@pytest.mark.parametrize(
    ("command", "serving"), [(app.serve, "live.server"), (app.ublox, "ublox.server")]
)
def test_a_server_that_has_stopped_waits_for_no_thread(monkeypatch, command, serving):
    ended, waited = threading.Event(), []

    async def serve(*_):  # a thread reads a file that does not answer
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, lambda: waited.append(ended.wait(2.0)))

    monkeypatch.setattr(f"skywright.instruments.panoseti.{serving}.serve", serve)
    monkeypatch.setattr("skywright.processes.lifecycle.end_process", ended.set)
    command()
    assert waited == [True]


def test_uploaded_images_reach_the_clients(server):
    call = server.stream(modules=(99,))
    image = uploaded("ph256")
    image.image_array[:], image.frame_number = [65531] * 256, 7
    image.header["quabo_num"] = 2
    upload(server, pb.UploadImageRequest(), pb.UploadImageRequest(pano_image=image))
    found = decode(next(call))
    assert (found.quabo, found.frame_number) == (2, 7)
    assert (found.image == -5).all()
    image.shape[:] = [32, 32]
    code, text = status(lambda: upload(server, pb.UploadImageRequest(pano_image=image)))
    assert code == Code.INVALID_ARGUMENT
    assert "256 pixels" in text
    call.cancel()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "x", None, True, [float("nan")]])
def test_no_further_value_of_a_header_ends_the_stream_of_a_client(value):
    image = uploaded("img8")
    image.header.update({"quabo_num": value, "note": {"a": value}})
    found = decode(pb.StreamImagesResponse(pano_image=image))
    assert found.quabo is None
    assert str(found.header["note"]) == str({"a": value})
    assert found.header["quabo_0"]["pkt_tai"] == made_frames("img8", 1).numbers[0, 0, 1]


@pytest.mark.parametrize("product", ["ph256", "img8"])
def test_an_uploaded_image_without_valid_numbers_is_refused(server, product):
    def refused(change, text):
        image = uploaded(product)
        header = image.header if product == "ph256" else image.header["quabo_0"]
        change(image, header)
        code, details = status(lambda: upload(server, pb.UploadImageRequest(pano_image=image)))
        assert code == Code.INVALID_ARGUMENT
        assert text in details

    for name in ("pkt_tai", "pkt_nsec", "tv_sec", "tv_usec"):
        refused(lambda _, header, name=name: header.fields.pop(name), f"{name} must be a finite")
        for value in (float("nan"), float("inf"), "5", None):
            refused(
                lambda _, header, name=name, value=value: header.update({name: value}),
                f"{name} must be a finite",
            )
    refused(lambda image, _: setattr(image, "module_id", 256), "module_id must be 0 to 255")
    if product == "img8":
        refused(lambda image, _: image.header.fields.pop("quabo_0"), "header.quabo_0.pkt_tai must")
        return
    for value in (float("nan"), float("inf"), -1, 4, 0.5, "1", None):
        refused(
            lambda _, header, value=value: header.update({"quabo_num": value}),
            "quabo_num must be a number from 0 to 3",
        )
    refused(
        lambda _, header: header.fields.pop("quabo_num"), "quabo_num must be a number from 0 to 3"
    )
    assert {image.module for image in server.images(10)} == {1, 2}


def test_a_second_uploader_waits_for_the_first(server):
    def image(number):
        made = uploaded("img16")
        made.frame_number = number
        return pb.UploadImageRequest(pano_image=made)

    taken, again, end = threading.Event(), threading.Event(), threading.Event()

    def first():
        yield image(1)
        again.wait(30)
        yield image(2)
        end.wait(30)

    def second():
        yield image(3)
        taken.set()

    call = server.stream(ph=False, modules=(99,))
    with ThreadPoolExecutor(2) as clients:
        clients.submit(server.stub.UploadImages, first(), timeout=60)
        assert decode(next(call)).frame_number == 1
        clients.submit(server.stub.UploadImages, second(), timeout=60)
        assert taken.wait(90)
        server.ping(timeout=90)  # on the same connection: the server has got the third image
        again.set()
        assert decode(next(call)).frame_number == 2
        end.set()
        assert decode(next(call)).frame_number == 3
    call.cancel()


UPLOADER = """
import sys
import threading
import grpc
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.methods import Stub

def requests():
    yield pb.UploadImageRequest.FromString(bytes.fromhex(sys.argv[2]))
    threading.Event().wait()

Stub(grpc.insecure_channel(sys.argv[1])).UploadImages(requests())
"""


def test_an_uploader_that_is_frozen_does_not_hold_up_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(grpc_serving, "PING_MS", 500)
    image = pb.UploadImageRequest(pano_image=uploaded("img16"))
    with served_here(tmp_path, run_directory(tmp_path)) as server:
        call = server.stream(ph=False, modules=(99,))
        command = (server.address, image.SerializeToString().hex())
        frozen = subprocess.Popen([sys.executable, "-c", UPLOADER, *command])
        try:
            next(call)  # it has begun
            frozen.send_signal(signal.SIGSTOP)
            upload(server, image)
            next(call)
        finally:
            frozen.kill()
            frozen.wait()
        call.cancel()
