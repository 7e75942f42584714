"""The calls of the observatory's own client (panoseti_grpc), and what it reads of each answer.

The client needs another protobuf than ours, so it is not a dependency. Requests and the parsing of
images are written here as they are in `DaqDataClient` and `AioDaqDataClient` of its releases
0.1.1.1, 0.2.14 and 0.3.5, which differ in names of modules only.
"""

import asyncio
from decimal import Decimal
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from support.pano_files import made_frames

from skywright.wire.daqdata import daq_data_pb2 as pb

HP_IO_CONFIG = {
    "update_interval_seconds": 0.5,
    "force": True,
    "simulate_daq": True,
    "module_ids": [],
    "comments": "this is no field of a request",
}


def methods(channel: Any) -> Any:
    """Return a stub as generated code makes it: every message is parsed by protobuf."""

    class Stub:
        Ping = channel.unary_unary(
            "/daqdata.DaqData/Ping",
            request_serializer=Empty.SerializeToString,
            response_deserializer=Empty.FromString,
        )
        InitHpIo = channel.unary_unary(
            "/daqdata.DaqData/InitHpIo",
            request_serializer=pb.InitHpIoRequest.SerializeToString,
            response_deserializer=pb.InitHpIoResponse.FromString,
        )
        StreamImages = channel.unary_stream(
            "/daqdata.DaqData/StreamImages",
            request_serializer=pb.StreamImagesRequest.SerializeToString,
            response_deserializer=pb.StreamImagesResponse.FromString,
        )
        UploadImages = channel.stream_unary(
            "/daqdata.DaqData/UploadImages",
            request_serializer=pb.UploadImageRequest.SerializeToString,
            response_deserializer=Empty.FromString,
        )

    return Stub


def parse(image: pb.PanoImage) -> dict[str, Any]:
    """Parse an image as the client does; KeyError where it would fail."""
    parsed = MessageToDict(
        image, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    header = parsed["header"]
    board = header["quabo_0"] if list(image.shape) == [32, 32] else header
    tai, second = int(board["pkt_tai"]), int(board["tv_sec"])
    d = (second - tai + 37) % 1024
    second += {0: 0, 1: -1, 1023: 1}[d]
    header["wr_unix_timestamp"] = Decimal(second) + Decimal(int(board["pkt_nsec"])) / 10**9
    header["pkt_unix_timestamp"] = Decimal(int(board["tv_sec"])) + Decimal(
        int(board["tv_usec"])
    ) / Decimal(10**6)
    pixels = np.array(image.image_array).reshape(image.shape)
    signed = np.int16 if parsed["type"] == "PULSE_HEIGHT" else np.uint16
    parsed["image_array"] = pixels.astype(np.uint8 if image.bytes_per_pixel == 1 else signed)
    return parsed


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield methods(channel)


def test_hosts_are_valid_when_they_answer_a_ping(stub):
    assert stub.Ping(Empty(), timeout=90, wait_for_ready=True) == Empty()


def test_services_are_reflected(server):
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "daqdata.DaqData" in database.get_services()
        service = DescriptorPool(database).FindServiceByName("daqdata.DaqData")
        found = {
            method.name: (
                method.client_streaming, method.input_type.name,
                method.server_streaming, method.output_type.name,
            )
            for method in service.methods
        }  # fmt: skip
    assert found == {
        "StreamImages": (False, "StreamImagesRequest", True, "StreamImagesResponse"),
        "InitHpIo": (False, "InitHpIoRequest", False, "InitHpIoResponse"),
        "Ping": (False, "Empty", False, "Empty"),
        "UploadImages": (True, "UploadImageRequest", False, "Empty"),
    }


def test_images_are_streamed_and_parsed(stub):
    request = pb.StreamImagesRequest(
        stream_movie_data=True,
        stream_pulse_height_data=True,
        update_interval_seconds=-1.0,  # as the demo asks
        module_ids=(),
    )
    call = stub.StreamImages(request, wait_for_ready=False, timeout=36_000)
    found = [parse(next(call).pano_image) for _ in range(10)]
    call.cancel()
    for image in found:
        product = "img16" if image["type"] == "MOVIE" else "ph256"
        frames = made_frames(product, 8, seed=image["module_id"])
        row = image["frame_number"]
        np.testing.assert_array_equal(image["image_array"], frames.image[row])
        header = image["header"]
        assert int(header["wr_unix_timestamp"] * 10**9) == frames.time_ns[row]
        assert header["pkt_unix_timestamp"] - header["wr_unix_timestamp"] == Decimal("0.0003")
        assert (image["shape"], image["bytes_per_pixel"]) == ([*frames.image[row].shape], 2)
        assert image["file"].endswith(f"module_{image['module_id']}.seqno_0.pff")


def test_the_blocking_client_starts_a_directory_and_a_simulation(stub, data_dir):
    keys = ("update_interval_seconds", "simulate_daq", "force", "module_ids")
    config = {key: HP_IO_CONFIG[key] for key in keys}
    # It sends the directory of the node's entry even with a simulation.
    request = pb.InitHpIoRequest(data_dir="/mnt/panoseti", **config)
    assert stub.InitHpIo(request, timeout=90).success
    request = pb.InitHpIoRequest(data_dir=str(data_dir), **{**config, "simulate_daq": False})
    assert stub.InitHpIo(request, timeout=90).success


def test_the_asyncio_client_streams_uploads_and_gets_errors(server):
    image = pb.PanoImage(
        type=pb.PanoImage.MOVIE, image_array=[7] * 1024, shape=[32, 32], bytes_per_pixel=2,
        module_id=224, frame_number=5, file="uploaded",
    )  # fmt: skip
    image.header.update(
        {"quabo_0": {"pkt_num": 1, "pkt_tai": 5, "pkt_nsec": 9, "tv_sec": 992, "tv_usec": 1}}
    )

    async def images():
        yield pb.UploadImageRequest(pano_image=image)

    async def use() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = methods(channel)
            await stub.Ping(Empty(), timeout=90, wait_for_ready=True)
            request = pb.StreamImagesRequest(
                stream_movie_data=True, update_interval_seconds=0.001, module_ids=(224,)
            )
            call = stub.StreamImages(request, wait_for_ready=True, timeout=36_000)
            await stub.UploadImages(images())
            async for response in call:
                parsed = parse(response.pano_image)
                break
            call.cancel()
            assert (parsed["file"], parsed["image_array"].max()) == ("uploaded", 7)
            wrong = pb.InitHpIoRequest(data_dir="", update_interval_seconds=0.5, force=True)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.InitHpIo(wrong, timeout=90)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(use())
