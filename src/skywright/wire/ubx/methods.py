"""The methods of UbloxControl for a server and for a client."""

from typing import Any

import grpc

from skywright.wire.grpc_methods import Calls, Method, make_handlers
from skywright.wire.ubx import SERVICE
from skywright.wire.ubx import ublox_control_pb2 as pb

METHODS = (
    Method("InitF9t", "init_f9t", "unary_unary", pb.InitF9tRequest, pb.InitF9tResponse),
    Method("PollMessage", "poll_message", "unary_unary", pb.PollRequest, pb.PollResponse),
    Method(
        *("CaptureUblox", "capture_ublox", "unary_stream"),
        *(pb.CaptureUbloxRequest, pb.CaptureUbloxResponse),
    ),
)


def handlers(servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of ``init_f9t``, ``poll_message`` and ``capture_ublox``."""
    return make_handlers(SERVICE, METHODS, servicer)


class Stub(Calls):
    """Call the methods over a channel, as `Calls` says."""

    service, methods = SERVICE, METHODS
