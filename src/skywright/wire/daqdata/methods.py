"""The methods of DaqData for a server and for a client.

Responses of StreamImages are bytes on the server's side: an image is encoded once, whatever the
number of clients.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
from google.protobuf.empty_pb2 import Empty

from skywright.wire.daqdata import SERVICE
from skywright.wire.daqdata import daq_data_pb2 as pb


class Servicer(Protocol):
    """What a server implements."""

    async def stream_images(self, request: pb.StreamImagesRequest, context: Any) -> None:
        """Write serialized responses to `context`."""

    async def init_hp_io(self, request: pb.InitHpIoRequest, context: Any) -> pb.InitHpIoResponse:
        """Choose what the server reads."""

    async def ping(self, request: Empty, context: Any) -> Empty:
        """Answer at once."""

    async def upload_images(
        self, requests: AsyncIterator[pb.UploadImageRequest], context: Any
    ) -> Empty:
        """Take images from a client."""


def handlers(servicer: Servicer) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods, for ``server.add_generic_rpc_handlers``."""
    methods = {
        "StreamImages": grpc.unary_stream_rpc_method_handler(
            servicer.stream_images,
            request_deserializer=pb.StreamImagesRequest.FromString,
            response_serializer=None,
        ),
        "InitHpIo": grpc.unary_unary_rpc_method_handler(
            servicer.init_hp_io,
            request_deserializer=pb.InitHpIoRequest.FromString,
            response_serializer=pb.InitHpIoResponse.SerializeToString,
        ),
        "Ping": grpc.unary_unary_rpc_method_handler(
            servicer.ping,
            request_deserializer=Empty.FromString,
            response_serializer=Empty.SerializeToString,
        ),
        "UploadImages": grpc.stream_unary_rpc_method_handler(
            servicer.upload_images,
            request_deserializer=pb.UploadImageRequest.FromString,
            response_serializer=Empty.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Stub:
    """Call the methods over a channel, blocking or asyncio.

    Parameters
    ----------
    channel
        A `grpc.Channel` or a `grpc.aio.Channel`.
    raw
        Leave the responses of StreamImages as bytes.
    """

    def __init__(self, channel: Any, raw: bool = False) -> None:
        self.StreamImages = channel.unary_stream(
            f"/{SERVICE}/StreamImages",
            request_serializer=pb.StreamImagesRequest.SerializeToString,
            response_deserializer=None if raw else pb.StreamImagesResponse.FromString,
        )
        self.InitHpIo = channel.unary_unary(
            f"/{SERVICE}/InitHpIo",
            request_serializer=pb.InitHpIoRequest.SerializeToString,
            response_deserializer=pb.InitHpIoResponse.FromString,
        )
        self.Ping = channel.unary_unary(
            f"/{SERVICE}/Ping",
            request_serializer=Empty.SerializeToString,
            response_deserializer=Empty.FromString,
        )
        self.UploadImages = channel.stream_unary(
            f"/{SERVICE}/UploadImages",
            request_serializer=pb.UploadImageRequest.SerializeToString,
            response_deserializer=Empty.FromString,
        )
