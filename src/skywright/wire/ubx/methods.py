"""The methods of UbloxControl for a server and for a client."""

from typing import Any

import grpc

from skywright.wire.grpc_methods import Method, make_call, make_handlers
from skywright.wire.ubx import SERVICE
from skywright.wire.ubx import ublox_control_pb2 as pb

INIT_F9T = Method("InitF9t", "init_f9t", "unary_unary", pb.InitF9tRequest, pb.InitF9tResponse)
POLL_MESSAGE = Method("PollMessage", "poll_message", "unary_unary", pb.PollRequest, pb.PollResponse)
CAPTURE_UBLOX = Method(
    *("CaptureUblox", "capture_ublox", "unary_stream"),
    *(pb.CaptureUbloxRequest, pb.CaptureUbloxResponse),
)


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of ``init_f9t``, ``poll_message`` and ``capture_ublox``."""
    return make_handlers(SERVICE, (INIT_F9T, POLL_MESSAGE, CAPTURE_UBLOX), servicer)


class Stub:
    """Call the methods over a channel, blocking or asyncio."""

    def __init__(self, channel: Any) -> None:
        self.InitF9t = make_call(SERVICE, INIT_F9T, channel)
        self.PollMessage = make_call(SERVICE, POLL_MESSAGE, channel)
        self.CaptureUblox = make_call(SERVICE, CAPTURE_UBLOX, channel)
