"""The posting of an owner's state ends when it is told to, whatever else comes in that moment."""

import argparse
import asyncio
import sys
from typing import Any

import pytest
from caproto import ChannelType, get_beacon_address_list
from caproto.server import pvproperty

from iocs import common
from iocs.common import _keep_beacons_local, argument_parser, run, wait_at_most
from iocs.owner import OwnerGroup

LIMIT_S = 5.0


class News(asyncio.Event):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self) -> bool:
        self.awaited.set()
        return await super().wait()


class Quiet(OwnerGroup):
    """Says when it has posted; there is nothing to post."""

    def __init__(self) -> None:
        super().__init__("TEST:")
        self._change_event: News = News()
        self.posted = asyncio.Event()

    async def _post(self) -> None:
        self.posted.set()

    async def begin(self) -> asyncio.Task[None]:
        """Post, and return when the next news is waited for."""
        posting = asyncio.create_task(self._post_forever(0.0, 60.0))
        async with asyncio.timeout(LIMIT_S):
            await self._change_event.awaited.wait()
        return posting


@pytest.mark.parametrize(
    ("host", "beacons"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", "255.255.255.255"),
        ("10.1.2.3", "255.255.255.255"),
    ],
)
def test_beacons_reach_the_machines_that_the_server_serves(
    host: str, beacons: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTO_BEACON_ADDR_LIST", "BEACON_ADDR_LIST"):
        monkeypatch.setenv(f"EPICS_CAS_{name}", "")  # so that it is restored
        monkeypatch.delenv(f"EPICS_CAS_{name}")
    _keep_beacons_local(host)
    assert [address for address, _ in get_beacon_address_list()] == [beacons]


@pytest.mark.parametrize("news", [False, True])
def test_posting_ends_though_it_is_told_together_with_news(news: bool) -> None:
    async def told() -> bool:
        group = Quiet()
        posting = await group.begin()
        if news:
            group._change_event.set()
        posting.cancel()
        await asyncio.wait([posting], timeout=LIMIT_S)
        return posting.cancelled()

    assert asyncio.run(told())


def test_news_wakes_the_posting() -> None:
    async def woken() -> bool:
        group = Quiet()
        posting = await group.begin()
        group.posted.clear()
        group._change_event.set()
        async with asyncio.timeout(LIMIT_S):
            await group.posted.wait()
        return posting.cancel()

    assert asyncio.run(woken())


def test_who_waits_for_the_counts_waits_until_they_are_posted() -> None:
    """A posting that fails is no posting, and no heartbeat."""
    heartbeats = []

    class Failing(Quiet):
        failures = 2

        async def _post(self) -> None:
            self.posted.set()
            heartbeats.append(self.heartbeat.value)
            if self.failures:
                self.failures -= 1
                raise OSError("no")

        async def post_error(self, message: str) -> None:
            self._change_event.set()

    async def left() -> int:
        group = Failing()
        posting = asyncio.create_task(group._post_forever(0.0, 0.01))
        async with asyncio.timeout(LIMIT_S):
            await group.wait_until_posted()
        posting.cancel()
        return group.failures

    assert asyncio.run(left()) == 0
    assert heartbeats[:3] == [0, 0, 0]


class Speaking(OwnerGroup):
    message = pvproperty(value="", max_length=100, dtype=ChannelType.CHAR, name="MESSAGE")


def test_the_reason_of_a_refused_put_stays_until_a_device_asks_for_it() -> None:
    async def shown() -> list[str]:
        group, seen = Speaking("T:"), []
        for message, severity in (("idle", 0), ("the cable is out", 2)):
            await group.post_message(message, severity)
            await group.post_error("Length: 3, expected 8 to 4096")
            await group.post_message(message, severity)
            seen.append(group.message.value)
        await group.post_message("the disk is full", 2)
        seen.append(group.message.value)
        group._error_until = 0.0
        await group.post_message("idle", 0)
        return [*seen, group.message.value]

    refused = "Length: 3, expected 8 to 4096"
    assert asyncio.run(shown()) == [refused, refused, "the disk is full", "idle"]


def test_an_alarm_that_returns_is_shown_at_once_and_its_end_too() -> None:
    async def shown() -> list[str]:
        group, seen = Speaking("T:"), []
        await group.post_message("the cable is out", 2)
        await group.post_error("Length: 3, expected 8 to 4096")
        for message, severity in (("idle", 0), ("the cable is out", 2), ("idle", 0)):
            await group.post_message(message, severity)
            seen.append(group.message.value)
        return seen

    refused = "Length: 3, expected 8 to 4096"
    assert asyncio.run(shown()) == [refused, "the cable is out", "idle"]


def test_an_error_of_the_posting_is_shown_as_long_as_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Speaking):
        async def _post(self) -> None:
            await self.post_message("idle", 0)
            raise OSError("no")

    async def shown() -> str:
        group = Failing("T:")
        await group._run_guarded(group._post)
        group._error_until = 0.0
        await group._run_guarded(group._post)
        return str(group.message.value)

    assert asyncio.run(shown()) == "PVs cannot be posted: OSError: no"
    assert len(caplog.records) == 1


def test_a_lasting_error_of_other_work_hides_neither_an_alarm_nor_the_reason_of_a_refused_put() -> (
    None
):
    class Failing(Speaking):
        async def _after_post(self) -> None:
            raise OSError("no")

    async def shown() -> list[str]:
        group, seen = Failing("T:"), []
        await group._run_guarded(group._after_post)
        for message, severity in (("idle", 0), ("the cable is out", 2)):
            await group.post_message(message, severity)
            await group._run_guarded(group._after_post)
            seen.append(group.message.value)
        await group.post_error("Length: 3, expected 8 to 4096")
        await group._run_guarded(group._after_post)
        return [*seen, group.message.value]

    failing, refused = "PVs cannot be posted: OSError: no", "Length: 3, expected 8 to 4096"
    assert asyncio.run(shown()) == [failing, "the cable is out", refused]


def test_an_event_that_does_not_come_is_waited_for_no_longer_than_that() -> None:
    asyncio.run(asyncio.wait_for(wait_at_most(0.01, asyncio.Event()), LIMIT_S))


def test_an_ioc_that_is_interrupted_while_it_starts_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(args: argparse.Namespace) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["ioc"])
    for name in ("share_arenas", "log_to_stderr"):  # they are for a process of its own
        monkeypatch.setattr(common, name, lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        run(interrupted, argument_parser("", "X:"))
    assert caught.value.code == 130
