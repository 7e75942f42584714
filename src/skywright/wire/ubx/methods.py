"""The methods of UbloxControl for a server and for a client."""

from typing import Any

import grpc

from skywright.wire.ubx import SERVICE
from skywright.wire.ubx import ublox_control_pb2 as pb


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of ``init_f9t``, ``poll_message`` and ``capture_ublox``."""
    methods = {
        "InitF9t": grpc.unary_unary_rpc_method_handler(
            servicer.init_f9t,
            request_deserializer=pb.InitF9tRequest.FromString,
            response_serializer=pb.InitF9tResponse.SerializeToString,
        ),
        "PollMessage": grpc.unary_unary_rpc_method_handler(
            servicer.poll_message,
            request_deserializer=pb.PollRequest.FromString,
            response_serializer=pb.PollResponse.SerializeToString,
        ),
        "CaptureUblox": grpc.unary_stream_rpc_method_handler(
            servicer.capture_ublox,
            request_deserializer=pb.CaptureUbloxRequest.FromString,
            response_serializer=pb.CaptureUbloxResponse.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Stub:
    """Call the methods over a channel, blocking or asyncio."""

    def __init__(self, channel: Any) -> None:
        self.InitF9t = channel.unary_unary(
            f"/{SERVICE}/InitF9t",
            request_serializer=pb.InitF9tRequest.SerializeToString,
            response_deserializer=pb.InitF9tResponse.FromString,
        )
        self.PollMessage = channel.unary_unary(
            f"/{SERVICE}/PollMessage",
            request_serializer=pb.PollRequest.SerializeToString,
            response_deserializer=pb.PollResponse.FromString,
        )
        self.CaptureUblox = channel.unary_stream(
            f"/{SERVICE}/CaptureUblox",
            request_serializer=pb.CaptureUbloxRequest.SerializeToString,
            response_deserializer=pb.CaptureUbloxResponse.FromString,
        )
