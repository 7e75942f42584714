"""What the routes share: the database, its writer, the broker, and the end of the service."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from sqlalchemy import Select

from skywright.instruments.epu.broker.publisher import Publisher
from skywright.instruments.epu.database import Database
from skywright.instruments.epu.database.writer import Writer

T = TypeVar("T")


@dataclass
class Service:
    """State of a running API.

    Attributes
    ----------
    database
        The entity database.
    writer
        Its writing thread.
    broker
        Publisher of the outbox; None where no broker is configured.
    path_map
        Prefixes of paths as EPU wrote them, and where this machine sees them; images below other
        paths are not served.
    streams
        Ids of the connections of agents whose streams are open here.
    changed
        Set, and replaced, after each commit, for the streams that wait for news.
    stopping
        Set when the service ends; streams end then.
    """

    database: Database
    writer: Writer = field(init=False)
    broker: Publisher | None = None
    path_map: Mapping[str, Path] = field(default_factory=dict)
    streams: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the writer; call it on the event loop."""
        self.loop = asyncio.get_running_loop()
        self.writer = Writer(self.database, self._committed)

    def _committed(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._announce)
        if self.broker is not None:
            self.broker.wake()

    def _announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait(self, seconds: float, changed: asyncio.Event) -> None:
        """Wait until `changed` is set, the service ends, or the time is over."""
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, self.stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def publishes(self) -> bool:
        """Whether a message that is written now goes to the broker now."""
        return self.broker is not None and self.broker.connected


async def service_of(request: Request) -> Service:
    """Give the service of the application that handles `request`.

    It is a coroutine because a plain function would run on another thread for each request.
    """
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]


@dataclass(frozen=True)
class Page:
    """The part of a list that a request asks for; a `limit` of None: to its end."""

    limit: int | None
    offset: int

    def of(self, query: Select[Any]) -> Select[Any]:
        """Return a query of the part alone."""
        return query.limit(self.limit).offset(self.offset or None)

    def cut(self, rows: list[T]) -> list[T]:
        """Return the part of a whole list."""
        return rows[self.offset :][: self.limit]


async def _page(
    limit: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="Most entities to answer.")
    ] = None,
    offset: Annotated[int, Query(ge=0, le=2**62, description="Entities to skip.")] = 0,
) -> Page:
    return Page(limit, offset)


PageOf = Annotated[Page, Depends(_page)]
