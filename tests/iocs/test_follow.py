"""Following a PV of another IOC."""

import asyncio

import pytest

from iocs.loop import follow
from skywright.processes.ports import free_port


def test_a_pv_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setattr(follow, "PATIENCE_S", 0.1, raising=False)

    async def follow_for_a_moment() -> None:
        async with asyncio.timeout(3.0):
            await follow.follow_pv("NO:SUCH:PV", lambda _: None, connected="it is there")

    with pytest.raises(TimeoutError):
        asyncio.run(follow_for_a_moment())
    (found,) = [record for record in caplog.records if record.name == follow.__name__]
    assert found.levelname == "ERROR"  # IOCs show no warnings by default
    assert found.getMessage().startswith("NO:SUCH:PV: no answer for 0.1 s; does its IOC run")
