"""Feeds: one source for all clients, and to each the newest message only."""

import asyncio
from collections.abc import AsyncIterator

from dashboard.feeds import BEAT, Feed, Message

LIMIT_S = 120.0


class Tap:
    """A source that says what it is told to, and counts how often it was begun and ended."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.taken: asyncio.Queue[Message] = asyncio.Queue()
        self.begun = 0
        self.ended = asyncio.Event()

    async def __call__(self) -> AsyncIterator[Message]:
        self.begun += 1
        self.ended.clear()
        try:
            while True:
                message = await self.queue.get()
                if isinstance(message, Exception):
                    raise message
                yield message
                self.taken.put_nowait(message)
        finally:
            self.ended.set()

    async def say(self, *messages: Message) -> None:
        """Return when the feed has taken the messages."""
        for message in messages:
            self.queue.put_nowait(message)
            assert await self.taken.get() == message


def test_a_slow_client_gets_the_newest_and_holds_nobody_up() -> None:
    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap)
        slow, quick = feed.messages(), feed.messages()
        first = asyncio.gather(anext(slow), anext(quick))
        await tap.say("one")
        assert await first == ["one", "one"]
        for word in ("two", "three", "four"):
            await tap.say(word)
            assert await anext(quick) == word
        assert await anext(slow) == "four"
        assert tap.begun == 1
        await feed.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_who_comes_later_sees_the_newest_at_once() -> None:
    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap)
        early = feed.messages()
        waiting = asyncio.create_task(anext(early))
        await tap.say(b"picture")
        assert await waiting == b"picture"
        assert await anext(feed.messages()) == b"picture"
        await feed.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_the_source_ends_when_nobody_looks_and_begins_again() -> None:
    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap, linger_s=0.0)
        for word in ("one", "two"):
            client = feed.messages()
            waiting = asyncio.create_task(anext(client))
            await tap.say(word)
            assert await waiting == word  # of the second client: no news of before
            await client.aclose()  # type: ignore[attr-defined]
            await tap.ended.wait()
        assert tap.begun == 2

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_page_that_is_loaded_again_keeps_the_source() -> None:
    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap, linger_s=60.0)
        first = feed.messages()
        waiting = asyncio.create_task(anext(first))
        await tap.say("one")
        assert await waiting == "one"
        await first.aclose()  # type: ignore[attr-defined]
        ending = feed._ending
        assert await anext(feed.messages()) == "one"
        assert ending is not None
        assert ending.cancelled()  # it would end the source of the second client
        assert tap.begun == 1
        await feed.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_source_that_fails_is_begun_again(monkeypatch) -> None:
    monkeypatch.setattr("dashboard.feeds.RETRY_S", 0.01)

    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap)
        client = feed.messages()
        waiting = asyncio.create_task(anext(client))
        tap.queue.put_nowait(RuntimeError("broken"))
        await tap.say("healed")
        assert await waiting == "healed"
        assert tap.begun == 2
        await feed.close()
        assert tap.ended.is_set()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_who_gets_no_message_gets_a_sign_of_life() -> None:
    async def scenario() -> None:
        tap = Tap()
        feed = Feed("t", tap, beat_s=0.05)
        messages = feed.messages()
        assert await anext(messages) == BEAT
        assert await anext(messages) == BEAT
        first = asyncio.ensure_future(anext(messages))
        await tap.say("one")
        while (word := await first) == BEAT:
            first = asyncio.ensure_future(anext(messages))
        assert word == "one"
        assert await anext(messages) == BEAT
        await feed.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
