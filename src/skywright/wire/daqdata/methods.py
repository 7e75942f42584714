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
from skywright.wire.grpc_methods import Method, make_call, make_handlers


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


STREAM_IMAGES = Method(
    *("StreamImages", "stream_images", "unary_stream"),
    *(pb.StreamImagesRequest, pb.StreamImagesResponse),
    is_encoded=True,
)
INIT_HP_IO = Method(
    "InitHpIo", "init_hp_io", "unary_unary", pb.InitHpIoRequest, pb.InitHpIoResponse
)
PING = Method("Ping", "ping", "unary_unary", Empty, Empty)
UPLOAD_IMAGES = Method(
    "UploadImages", "upload_images", "stream_unary", pb.UploadImageRequest, Empty
)


def handlers(servicer: Servicer) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods, for ``server.add_generic_rpc_handlers``."""
    return make_handlers(SERVICE, (STREAM_IMAGES, INIT_HP_IO, PING, UPLOAD_IMAGES), servicer)


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
        self.StreamImages = make_call(SERVICE, STREAM_IMAGES, channel, raw)
        self.InitHpIo = make_call(SERVICE, INIT_HP_IO, channel)
        self.Ping = make_call(SERVICE, PING, channel)
        self.UploadImages = make_call(SERVICE, UPLOAD_IMAGES, channel)
