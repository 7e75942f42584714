"""The owner of a watched directory: what it tells a person, and the PV that says so."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from caproto import AlarmSeverity
from epu_trees import written
from support.waiting import until

from iocs.epu.ioc import EpuIOC
from skywright.instruments.epu.owner import EpuOwner, OwnerOptions
from skywright.instruments.epu.twin.visit import plan_visit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(plan_visit(seed=6, grids=1, squares=4, imaged=1, holes=2), tmp_path / "data")


@pytest.fixture
def owner(root: Path, tmp_path: Path) -> Iterator[EpuOwner]:
    opened = EpuOwner(OwnerOptions(root, str(tmp_path / "entities.sqlite")))
    yield opened
    opened.close()


def message(owner: EpuOwner) -> tuple[str, AlarmSeverity]:
    """Return the text and the severity of the PV."""

    async def posted() -> tuple[str, AlarmSeverity]:
        ioc = EpuIOC("TEST:", owner)
        await ioc._post()
        return ioc.message.value, ioc.message.alarm.severity

    return asyncio.run(posted())


def test_a_missing_session_file_is_an_alarm_until_it_comes(owner: EpuOwner, root: Path) -> None:
    session = next(root.rglob("EpuSession.dm"))
    content = session.read_bytes()
    session.unlink()
    name = session.parent.relative_to(root).as_posix()
    owner.start()
    until(owner.alarm)
    assert owner.alarm() == f"EpuSession.dm is missing in {name}"
    assert message(owner) == (owner.alarm(), AlarmSeverity.MAJOR_ALARM)
    session.write_bytes(content)
    until(lambda: not owner.alarm())
    assert message(owner) == ("watching", AlarmSeverity.NO_ALARM)
    session.write_text("<EpuSessionXml")
    until(owner.alarm)
    assert message(owner) == ("1 unreadable files", AlarmSeverity.MAJOR_ALARM)
