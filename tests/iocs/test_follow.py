"""Following a PV of another IOC."""

import asyncio
from unittest.mock import Mock

import pytest

from iocs.loop import follow
from skywright.processes.ports import free_port


def test_a_pv_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setattr(follow, "PATIENCE_S", 0.1)

    async def follow_until_an_error_is_logged() -> str:
        logged = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(
            follow.logger, "error", lambda text, *values: logged.set_result(text % values)
        )
        following = asyncio.create_task(
            follow.follow_pv("NO:SUCH:PV", Mock(), connected="it is there")
        )
        async with asyncio.timeout(30.0):
            text = await logged
        assert not following.done()  # it goes on waiting
        following.cancel()
        return text

    # An error, because IOCs show no warnings by default
    text = asyncio.run(follow_until_an_error_is_logged())
    assert text.startswith("NO:SUCH:PV: no answer for 0.1 s; does its IOC run")
