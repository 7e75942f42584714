"""The methods of a gRPC service from one table, for its server and for its clients."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import grpc


class Method(NamedTuple):
    """A method of a service.

    Attributes
    ----------
    name
        In the protocol.
    function
        Coroutine of the servicer that answers it.
    kind
        Whether requests and responses are one or a stream.
    request, response
        Classes of the messages.
    is_encoded
        The servicer gives responses as bytes.
    """

    name: str
    function: str
    kind: Literal["unary_unary", "unary_stream", "stream_unary"]
    request: Any
    response: Any
    is_encoded: bool = False


def make_handlers(service: str, methods: Iterable[Method], servicer: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of a service, for ``server.add_generic_rpc_handlers``."""
    found = {
        each.name: getattr(grpc, f"{each.kind}_rpc_method_handler")(
            getattr(servicer, each.function),
            request_deserializer=each.request.FromString,
            response_serializer=None if each.is_encoded else each.response.SerializeToString,
        )
        for each in methods
    }
    return grpc.method_handlers_generic_handler(service, found)


def make_call(service: str, method: Method, channel: Any, raw: bool = False) -> Any:
    """Return a method as a client calls it over a channel, blocking or asyncio.

    With `raw` its responses are bytes.
    """
    return getattr(channel, method.kind)(
        f"/{service}/{method.name}",
        request_serializer=method.request.SerializeToString,
        response_deserializer=None if raw else method.response.FromString,
    )
