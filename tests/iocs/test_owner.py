"""The posting of an owner's state ends when it is told to, whatever else comes in that moment."""

import asyncio

import pytest

from iocs.owner import OwnerGroup

LIMIT_S = 5.0


class Quiet(OwnerGroup):
    """Counts how often it posts; there is nothing to post."""

    posts = 0

    async def _post(self) -> None:
        self.posts += 1


async def until_idle(group: Quiet) -> None:
    """Return when the first post is over and news is waited for."""
    async with asyncio.timeout(LIMIT_S):
        while not (group.posts and group._news._waiters):
            await asyncio.sleep(0)


@pytest.mark.parametrize("news", [False, True])
def test_posting_ends_though_it_is_told_together_with_news(news: bool) -> None:
    async def told() -> tuple[bool, bool]:
        group = Quiet("TEST:")
        posting = asyncio.create_task(group._post_forever(0.0, 60.0))
        await until_idle(group)
        if news:
            group._news.set()
        posting.cancel()
        done, _ = await asyncio.wait([posting], timeout=LIMIT_S)
        posting.cancel()
        return bool(done), posting.cancelled()

    assert asyncio.run(told()) == (True, True)


def test_news_wakes_the_posting() -> None:
    async def posted() -> int:
        group = Quiet("TEST:")
        posting = asyncio.create_task(group._post_forever(0.0, 60.0))
        await until_idle(group)
        group._news.set()
        async with asyncio.timeout(LIMIT_S):
            while group.posts < 2:
                await asyncio.sleep(0)
        posting.cancel()
        return group.posts

    assert asyncio.run(posted()) == 2
