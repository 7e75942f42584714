"""The methods of DaqData for a server and for a client.

Responses of StreamImages are bytes on the server's side: an image is encoded once, whatever the
number of clients.
"""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from skywright.wire.daqdata import SERVICE
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.grpc_methods import Method, make_call, make_handlers

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


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods; ``stream_images`` writes serialized responses."""
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
