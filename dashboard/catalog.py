"""The catalog as the page reads it: one reader and one cache for all clients of the page."""

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import httpx
from websockets.asyncio.client import connect as open_websocket

from skywright.config import Settings
from skywright.errors import ConfigError, DataError, SkywrightError, message_of
from skywright.store.client import ANALYSIS, RAW, connect
from skywright.waiting import back_off

T = TypeVar("T")

GATHER_S = 0.25
"""Updates of one run come in bursts; pages are notified once per burst."""
BACK_OFF_S = (0.5, 10.0)
"""First and longest pause before the next attempt to subscribe, s."""
ABSENT_S = 3.0
"""Time, s, for which a server that did not answer is taken as absent, without another try."""
WAIT_S = 10.0
"""Time, s, for which a view waits for an answer."""
ANSWERS_MAX = 256
KEEP_S = 10.0
"""Longest time that an answer is kept, s."""
MESSAGE_BYTES_MAX = 64 * 2**20

log = logging.getLogger(__name__)


class CatalogReader:
    """Reads the catalog, each question once, and keeps the answers.

    They are kept until tiled notifies of a new run or of changed metadata of a run, at most
    `KEEP_S`, because tiled does not notify of rows that are added to a run.

    Parameters
    ----------
    settings
        The configuration, with the address of the catalog.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.subscribed = False
        """Whether tiled notifies of changes; while it does not, every question is read anew."""
        self._client: Any = None
        self._absent: tuple[float, ConfigError] | None = None
        self._reader = ThreadPoolExecutor(1, "catalog")
        self._answers: dict[Any, tuple[asyncio.Task[Any], float]] = {}
        self._late: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        """Tasks with an answer for which a view did not wait; it is kept also unsubscribed."""
        self._latest: dict[Any, Any] = {}
        """The answer before the present one, for a view that does not wait for that."""
        self._changed = asyncio.Condition()
        self._notify_task: asyncio.Task[None] | None = None
        self.version = time.time_ns()
        """Grows when the catalog may have changed, or an answer has come late. It begins above the
        versions of earlier servers, so that a page that was opened before reads again."""

    async def ask(self, question: Callable[..., T], *arguments: Any) -> T:
        """Return ``question(client, *arguments)``, read once for all who ask at the same time.

        Parameters
        ----------
        question
            Reads with tiled's client of the root; runs in the reader's thread.
        *arguments
            Hashable.

        Raises
        ------
        ConfigError
            If there is no server, or it has not answered in time (`ask_soon`) and never before.
        DataError
            If the server cannot give what its catalog names.
        """
        answer, late = await self.ask_soon(question, *arguments)
        if answer is None and late:
            raise ConfigError(late)
        return cast(T, answer)

    async def ask_soon(self, question: Callable[..., T], *arguments: Any) -> tuple[T | None, str]:
        """Return what `ask` returns and "", or the answer before that and why there is no other.

        An answer that takes longer than `WAIT_S` is a change: the view is drawn again when it has
        come. Until then there is the answer before that, or None.
        """
        key = (question, arguments)
        task, since = self._asked(question, arguments)
        await asyncio.wait([task], timeout=max(0.0, since + WAIT_S - time.monotonic()))
        if task.done():
            self._latest[key] = task.result()
            return self._latest[key], ""
        task.remove_done_callback(self._answered_late)  # one notice for all views
        task.add_done_callback(self._answered_late)
        return self._latest.get(key), _no_answer()

    async def try_ask(self, question: Callable[..., T], *arguments: Any) -> tuple[T | None, str]:
        """Return what `ask_soon` returns, or None and why the question cannot be answered.

        For a view that shows its other parts all the same.
        """
        try:
            return await self.ask_soon(question, *arguments)
        except SkywrightError as error:
            return None, str(error)

    async def ask_anew(self, question: Callable[..., T], *arguments: Any) -> T:
        """Return what `ask` returns; the answer is not kept, and one that comes late is dropped.

        For answers of megabytes, that hardly anybody asks for twice.
        """
        try:
            return await asyncio.wait_for(self._read(question, arguments), WAIT_S)
        except TimeoutError as error:
            raise ConfigError(_no_answer()) from error

    def _asked(
        self, question: Callable[..., T], arguments: tuple[Any, ...]
    ) -> tuple[asyncio.Task[T], float]:
        """Return the task that reads the answer, begun where none holds, and since when."""
        key = (question, arguments)
        task, since = self._answers.get(key, (None, 0.0))
        kept = self.subscribed or task in self._late
        old = not kept or time.monotonic() - since > KEEP_S
        if task is None or (task.done() and (old or task.exception())):
            if max(len(self._answers), len(self._latest)) >= ANSWERS_MAX:
                self._answers.clear()
                self._latest.clear()
            task, since = asyncio.create_task(self._read(question, arguments)), time.monotonic()
            self._answers[key] = task, since
        return task, since

    async def changes(self) -> AsyncIterator[str]:
        """Yield `version` at once, and again whenever it has grown."""
        seen = -1
        while True:
            async with self._changed:
                while self.version == seen:
                    await self._changed.wait()
                seen = self.version
            yield str(seen)

    async def follow(self) -> None:
        """Subscribe to tiled, for ever; after each new subscription all answers are read anew."""
        delays = back_off(BACK_OFF_S)
        while True:
            reason: object = "the subscriptions have ended"
            try:
                async with asyncio.TaskGroup() as group:
                    root = await self._read(_root, ())
                    for container in (RAW, ANALYSIS):
                        group.create_task(self._listen(*root, container))
            except* Exception as errors:  # whatever it is, tiled may be well again later
                reason = errors.exceptions[0]
            self._client = None  # the server may come back at another port
            if self.subscribed:
                self.subscribed, delays = False, back_off(BACK_OFF_S)
                self._invalidate()
            delay = next(delays)
            log.warning("catalog: %s; next try in %g s", reason, delay)
            await asyncio.sleep(delay)

    def close(self) -> None:
        """End the reader."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _read(self, question: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, self._call, question, arguments)

    def _call(self, question: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Ask, in the reader's thread."""
        try:
            return question(self._connected(), *arguments)
        except httpx.HTTPError as error:
            self._client = None
            raise ConfigError(f"store: {_reason(error)}") from error
        except httpx.InvalidURL as error:  # of a stream or a column with a NUL in its name
            raise DataError(f"no such run, stream or column ({error})") from error

    def _connected(self) -> Any:
        """Return the client, a new one if the server moved or was away.

        A try takes seconds while the server is absent, so not each page tries.
        """
        if self._client is None:
            if self._absent is not None and time.monotonic() - self._absent[0] < ABSENT_S:
                raise self._absent[1]
            try:
                self._client = connect(settings=self.settings)
            except ConfigError as error:
                self._absent = time.monotonic(), error
                raise
        return self._client

    async def _listen(self, api_uri: str, api_key: str | None, container: str) -> None:
        """Note each change of the children of a container; the first message, the schema, is one.

        Raises `OSError` if the server is away, `WebSocketException` if it refuses, has no streaming
        cache, or the connection is lost.
        """
        api = f"ws{api_uri.removeprefix('http').rstrip('/')}"
        uri = f"{api}/stream/single/{container}?envelope_format=json"
        headers = {"Authorization": f"Apikey {api_key}"} if api_key else {}
        # Without a proxy, as all other requests to tiled: it is on this machine, or near.
        async with open_websocket(
            uri, additional_headers=headers, max_size=MESSAGE_BYTES_MAX, proxy=None
        ) as messages:
            async for _ in messages:
                self.subscribed = True
                self._invalidate()
        raise DataError(f"tiled ended the subscription of {container}")

    def _invalidate(self) -> None:
        """Forget all answers, and notify the pages, once a burst."""
        self._answers.clear()
        self._notify()

    def _answered_late(self, task: asyncio.Task[Any]) -> None:
        """Keep an answer from now on, and notify the pages that did not wait for it."""
        if task.cancelled():
            return
        task.exception()  # asyncio logs an exception that nobody has taken
        self._late.add(task)
        for key, (each, _) in self._answers.items():
            if each is task:
                self._answers[key] = task, time.monotonic()
        self._notify()

    def _notify(self) -> None:
        if self._notify_task is None or self._notify_task.done():
            self._notify_task = asyncio.create_task(self._notify_later())

    async def _notify_later(self) -> None:
        await asyncio.sleep(GATHER_S)
        async with self._changed:
            self.version += 1
            self._changed.notify_all()


def _no_answer() -> str:
    return f"store: tiled has not answered for {WAIT_S:g} s"


def _reason(error: httpx.HTTPError) -> str:
    """Return why a request to tiled has failed."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"tiled answers {error.response.status_code} to {error.request.url.path}"
    if isinstance(error, httpx.TransportError):
        return f"tiled does not answer ({message_of(error)})"
    return f"the answer of tiled cannot be read ({error})"


def _root(client: Any) -> tuple[str, str | None]:
    """Return where tiled's API is, and the key to it."""
    return str(client.context.api_uri), client.context.api_key
