"""The methods of DaqData for a server and for a client.

Responses of StreamImages are bytes on the server's side: an image is encoded once, whatever the
number of clients.
"""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from skywright.wire.daqdata import SERVICE
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.grpc_methods import Calls, Method, make_handlers

METHODS = (
    Method(
        *("StreamImages", "stream_images", "unary_stream"),
        *(pb.StreamImagesRequest, pb.StreamImagesResponse),
        is_encoded=True,
    ),
    Method("InitHpIo", "init_hp_io", "unary_unary", pb.InitHpIoRequest, pb.InitHpIoResponse),
    Method("Ping", "ping", "unary_unary", Empty, Empty),
    Method("UploadImages", "upload_images", "stream_unary", pb.UploadImageRequest, Empty),
)


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods; ``stream_images`` writes serialized responses."""
    return make_handlers(SERVICE, METHODS, servicer)


class Stub(Calls):
    """Call the methods over a channel, as `Calls` says."""

    service, methods = SERVICE, METHODS
