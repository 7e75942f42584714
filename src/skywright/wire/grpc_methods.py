"""The methods of a gRPC service from one table, for its server and for its clients."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

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


class Calls:
    """The methods of a service as a client calls them, by their names in the protocol.

    Parameters
    ----------
    channel
        A `grpc.Channel` or a `grpc.aio.Channel`.
    raw
        Leave responses that the servicer gives as bytes as they are.
    """

    service: ClassVar[str]
    methods: ClassVar[tuple[Method, ...]]

    def __init__(self, channel: Any, raw: bool = False) -> None:
        for each in self.methods:
            is_raw = raw and each.is_encoded
            call = getattr(channel, each.kind)(
                f"/{self.service}/{each.name}",
                request_serializer=each.request.SerializeToString,
                response_deserializer=None if is_raw else each.response.FromString,
            )
            setattr(self, each.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.service} has no method {name}")
