"""Starts what DCSS asks for, and completes each start exactly once."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from skywright.errors import DataError, SkywrightError
from skywright.instruments.loop.dhs.link import Connection
from skywright.wire import xos2
from skywright.wire.xos2 import StartOperation, operation_completed

logger = logging.getLogger(__name__)

ERROR_CHARACTERS = 150
"""Of an error's text; DCSS's log cuts lines at about 200."""


@dataclass(eq=False)
class Call:
    """One started operation, from its start to its completion."""

    start: StartOperation
    """What DCSS asked for."""
    connection: Connection
    """On which; with it the operation ends."""
    completed: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    """Operations by the first word of their completion, this one then as well."""
    task: "asyncio.Task[None] | None" = None

    @property
    def key(self) -> str:
        """Name for this start, one word: ``operation:handle``."""
        return f"{self.start.name}:{self.start.handle}"

    async def update(self, text: str) -> None:
        """Send news; waits while DCSS does not read."""
        if not self.completed:
            start = self.start
            await self.connection.send(xos2.operation_update(start.name, start.handle, text))

    def note(self, text: str) -> None:
        """Tell DCSS's users something about this operation."""
        logger.info("%s: %s", self.key, text)
        if not self.completed:
            self.connection.write(xos2.note(f"{self.start.name} {self.start.handle}: {text}"))

    def complete(self, reply: str) -> None:
        """Send the end, once; after the first call nothing more is sent of this operation."""
        if self.completed:
            return
        self.completed = True
        self.counts[reply.split(maxsplit=1)[0]] += 1
        name, handle = self.start.name, self.start.handle
        for each in (reply, "error reply_too_long"):
            try:
                self.connection.write(operation_completed(name, handle, each))
            except DataError as error:
                logger.error("%s: %s", self.key, error)
            else:
                return

    def abort(self, why: str = "aborted by DCSS") -> None:
        """End now, whatever the operation is at; its `CancelledError` says why."""
        self.complete("aborted")
        self.drop(why)

    def drop(self, why: str = "the connection to DCSS is lost") -> None:
        """End without a word: nobody listens any more."""
        self.completed = True
        if self.task is not None:
            self.task.cancel(why)


Operation = Callable[[Call], Awaitable[str]]
"""Does what a call asks for and returns the reply: status, then results.

Raises a `SkywrightError` whose text becomes the reply ``error ...``.
"""


class Server:
    """The hardware server on any number of connections, one after the other.

    Parameters
    ----------
    name
        Of this DHS in DCSS's database.
    operations
        By their names in this code; DCSS may register others for them.
    trouble
        Returns what DCSS's users must know when DCSS has connected, empty if nothing. It may block.
    """

    def __init__(
        self,
        name: str,
        operations: Mapping[str, Operation],
        trouble: Callable[[], str] | None = None,
    ) -> None:
        self.name = name
        self._trouble = trouble
        self._was_registered = asyncio.Event()
        self._is_refused = False
        """Whether DCSS has registered nothing on the last connection."""
        self._operations = operations
        self._known_as: dict[str, str] = {}
        self._calls: set[Call] = set()
        self.counts: Counter[str] = Counter()
        """Operations by the first word of their completion: ``normal``, ``error``, ``aborted``."""

    @property
    def registered(self) -> bool:
        """Whether DCSS has given us operations on the present connection."""
        return self._was_registered.is_set()

    async def session(self, connection: Connection) -> None:
        """Serve one connection until it ends; what runs then ends with it."""
        asked = False
        reporting = asyncio.create_task(self._report_trouble(connection))
        try:
            async for text in connection.messages():
                logger.debug("from DCSS: %s", text)
                words = xos2.split_words(text)
                asked = asked or words[:1] == ["stoc_send_client_type"]
                self._take(words, connection)
        except asyncio.CancelledError:  # we are told to end; DCSS waits for its operations
            self._end_all(_abort_at_end)
            raise
        finally:
            reporting.cancel()
            self._end_all(Call.drop)
            refused_before, self._is_refused = self._is_refused, asked and not self.registered
            if self._is_refused and not refused_before:
                logger.error(
                    "DCSS registered nothing for %s; is that name in its database, and no other "
                    "DHS connected by it?",
                    self.name,
                )
            self._was_registered.clear()

    async def close(self) -> None:
        """Complete all that runs as aborted, and wait until it has let go."""
        tasks = [call.task for call in self._calls if call.task is not None]
        self._end_all(_abort_at_end)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _report_trouble(self, connection: Connection) -> None:
        """Send what is wrong at present as a note, once DCSS has registered operations."""
        if self._trouble is None:
            return
        trouble = await asyncio.to_thread(self._trouble)
        if trouble:
            logger.error("%s", trouble)
            await self._was_registered.wait()
            connection.write(xos2.note(trouble))

    def _take(self, words: list[str], connection: Connection) -> None:
        match words:
            case ["stoc_send_client_type", *_]:
                connection.write(xos2.client_is_hardware(self.name))
            case ["stoh_register_operation", name, *rest]:
                self._note_registration(connection)
                self._known_as[name] = rest[0] if rest else name
            case [word, name, *_] if word.startswith("stoh_register_"):
                self._note_registration(connection)
                logger.warning("%s %s: this DHS has operations only", word, name)
            case ["stoh_start_operation", name, handle, *arguments]:
                self._start(StartOperation(name, handle, tuple(arguments)), connection)
            case ["stoh_start_operation", *_]:  # without a handle nothing can be completed
                logger.error("%s: expected an operation and a handle", " ".join(words))
            case ["stoh_abort_all", *_]:
                logger.warning("abort: %d operations", len(self._calls))
                self._end_all(Call.abort)
            case _:
                logger.debug("ignored: %s", " ".join(words))

    def _note_registration(self, connection: Connection) -> None:
        connection.is_used = True
        self._was_registered.set()

    def _start(self, start: StartOperation, connection: Connection) -> None:
        call = Call(start, connection, counts=self.counts)
        self._calls.add(call)
        call.task = asyncio.create_task(self._perform(call), name=call.key)
        call.task.add_done_callback(lambda _: self._calls.discard(call))

    async def _perform(self, call: Call) -> None:
        name = call.start.name
        operation = self._operations.get(self._known_as.get(name, name))
        operation = operation or self._operations.get(name)
        if operation is None:
            logger.error("%s: DCSS started it, and this DHS has no such operation", name)
            call.complete("error not_implemented")
            return
        try:
            reply = await operation(call)
        except SkywrightError as error:
            logger.warning("%s: %s", call.key, error)
            reply = f"error {xos2.harmless(str(error))[:ERROR_CHARACTERS]}"
        except Exception as error:  # one broken operation must not end the others
            logger.exception("%s: failed", call.key)
            why = xos2.harmless(f"{type(error).__name__} {error}")
            reply = f"error {why[:ERROR_CHARACTERS]}"
        call.complete(reply)

    def _end_all(self, how: Callable[[Call], None]) -> None:
        for call in list(self._calls):
            how(call)


def _abort_at_end(call: Call) -> None:
    call.abort("the DHS ends")
