"""A device that follows rows which another program writes: silence is fine, a dead IOC is not."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky.utils import MsgGenerator
from ioc_process import IocProcess, running_ioc
from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind
from support import raw_format
from support.documents import Documents, of
from support.raw_format import MIMETYPE, append
from support.recording_faults import failing
from support.waiting import until

from devices import file_stream_device
from devices.file_stream import FilePlugin, FlyerStream
from devices.file_stream_device import FileStreamDevice
from skywright.errors import HardwareError
from skywright.files import readers
from skywright.files.index import IDENTITY
from skywright.files.stream_columns import StreamColumn


class Plugin(FilePlugin):
    captured = Cpt(EpicsSignalRO, "NumCaptured_RBV", kind=Kind.omitted, auto_monitor=True)


class Follower(FileStreamDevice):
    """Follows the index of `support.raw_ioc`."""

    unit = "record"
    file = Cpt(Plugin, "HDF1:", kind=Kind.omitted)
    message = Cpt(EpicsSignalRO, "MESSAGE", kind=Kind.omitted, string=True)

    def __init__(self, prefix: str, *, assets: Path, name: str = "raw", **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        columns = (
            StreamColumn("image", "image", "<u2", raw_format.SHAPE, 1, mimetype=MIMETYPE),
            StreamColumn("frame_number", IDENTITY, "<i8"),
        )
        self.records = FlyerStream(self, f"{name}_records", self.file, lambda: columns)
        self._follow(self.records, self.file.captured)

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return self.file.write_message, self.message

    def _open(self) -> None:
        self._record(self.records, self.file.captured, f"{self.name}-{uuid.uuid4()}")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "data.raw"


@pytest.fixture
def ioc(raw: Path) -> Iterator[IocProcess]:
    tests = Path(__file__).parents[1]
    with running_ioc("support.raw_ioc", "--path", str(raw), PYTHONPATH=str(tests)) as process:
        yield process


@pytest.fixture
def device(ioc: IocProcess, tmp_path: Path) -> Follower:
    follower = Follower(ioc.prefix, assets=tmp_path)
    follower.wait_for_connection(timeout=60)
    until(lambda: follower.heartbeat.get() > 0, what="the IOC follows the file")
    return follower


def follow(device: Follower, steps: Any) -> MsgGenerator[None]:
    """Follow; between two reports do what `steps` yields."""
    yield from bps.stage(device)
    yield from bps.open_run()
    yield from bps.declare_stream(device.records, name="primary", collect=True)
    yield from bps.kickoff(device.records, wait=True)
    for _ in steps:
        yield from bps.sleep(0.05)
        yield from bps.collect(device.records, name="primary")
    yield from bps.complete(device.records, wait=True)
    yield from bps.collect(device.records, name="primary")
    yield from bps.close_run()
    yield from bps.unstage(device)


def test_rows_come_late_and_in_bursts_and_silence_is_no_error(
    RE: Any, documents: Documents, device: Follower, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.heartbeat_limit.put(3.0)  # shorter than the silence, longer than between two beats

    def steps() -> Iterator[None]:
        for _ in range(70):
            yield
        append(raw, range(5))
        until(lambda: device.records.rows == 5)
        yield
        append(raw, range(5, 12))
        until(lambda: device.records.rows == 12)

    RE(follow(device, steps()))
    ends = [doc["indices"]["stop"] for doc in of(documents, "stream_datum")]
    assert ends[0] == 5
    assert ends[-1] == 12
    resources = {doc["data_key"]: doc for doc in of(documents, "stream_resource")}
    assert resources["raw_image"]["mimetype"] == MIMETYPE
    monkeypatch.setattr(readers, "instruments", lambda: {"raw": raw_format.INSTRUMENT})
    path, column = readers.file_and_column(resources["raw_image"])
    with readers.open_reader(MIMETYPE, path, column) as reader:
        assert (reader.read(column) == [raw_format.image(n) for n in range(12)]).all()


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGKILL, "lost the IOC"), (signal.SIGSTOP, "no heartbeat")]
)
def test_an_ioc_that_dies_or_hangs_fails_the_plan(
    RE: Any, ioc: IocProcess, device: Follower, raw: Path, number: signal.Signals, why: str
) -> None:
    device.heartbeat_limit.put(2.5)

    def steps() -> Iterator[None]:
        append(raw, range(3))
        until(lambda: device.records.rows == 3)
        ioc.process.send_signal(number)
        for _ in range(300):
            yield

    try:
        error = failing(lambda: RE(follow(device, steps())))
    finally:
        if ioc.process.poll() is None:
            ioc.process.send_signal(signal.SIGCONT)
    assert why in str(error)


def test_a_new_file_may_have_as_many_rows_as_the_previous_one(
    RE: Any, device: Follower, raw: Path
) -> None:
    """No monitor comes when the count at the first post is the one of the previous file."""

    def steps() -> Iterator[None]:
        append(raw, range(3))
        until(lambda: device.records.rows == 3)
        yield

    RE(follow(device, steps()))
    assert device.records.rows == 3
    device._await_new_count(device.records, device.file.captured, 3)
    assert device.records.rows == 3


def test_the_recording_after_a_restart_of_the_ioc_counts_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The IOC posts 0 while the recording from before is open, as in a pause, and not again."""
    monkeypatch.setattr(file_stream_device, "MONITOR_TIMEOUT_S", 0.0)
    device = Follower("NOBODY:", assets=tmp_path)
    rows, captured = device.records, device.file.captured
    monkeypatch.setattr(device, "_read_now", lambda _: 0)
    rows.begin("before.h5")
    device._on_rows(rows, 50)
    device._on_rows(rows, 0)
    with pytest.raises(HardwareError, match="has 50 rows"):
        device.raise_if_silent()
    rows.end()
    device._fault = None  # as `stage` does
    device._await_new_count(rows, captured, device._count_before(rows, captured))
    rows.begin("after.h5")
    device._on_rows(rows, 1)
    device.raise_if_silent()
    assert rows.rows == 1
