"""The PVs of the spectrometer in this process: what is odd in posting and puts ends nothing."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caproto import AlarmSeverity, ChannelType
from support.psss_scripted import PICTURE, ScriptedSource, picture, running_service
from support.turns import Turns, put_both
from support.waiting import until

from iocs.common import _never_hang, _own_alarm, decode_char_array, post
from iocs.owner import OwnerGroup
from iocs.psss import ioc as psss_ioc
from iocs.psss.ioc import PsssIOC
from iocs.psss.post import post_averages, post_counts, post_plugin, post_result
from iocs.psss.pvs import COLUMNS_MAX, Spectra
from skywright.errors import HardwareError
from skywright.instruments.psss import service_statistics
from skywright.instruments.psss.averages import Averages
from skywright.instruments.psss.background import PULSES_MAX, record_limit_s
from skywright.instruments.psss.endpoints.service import Service


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def service(source: ScriptedSource, tmp_path: Path) -> Iterator[Service]:
    with running_service(source, directory=tmp_path) as service:
        yield service


@pytest.fixture
def ioc(service: Service) -> Iterator[PsssIOC]:
    ioc = PsssIOC("TEST:", service)
    for channel in ioc.pvdb.values():
        _own_alarm(channel)  # as when it is served
    yield ioc
    for recorder in ioc.processor.recorders:
        recorder.close()


def taken(service: Service, source: ScriptedSource, pulse_id: int, image: Any) -> Any:
    """Process a picture; return the result."""
    service.processor.start()
    source.put(pulse_id, image=image)

    def newest() -> Any:
        result = service.processor.newest
        return result if result is not None and result.pulse.pulse_id == pulse_id else None

    return until(newest)


def test_posting_goes_on_after_an_error() -> None:
    class Group(OwnerGroup):
        def __init__(self) -> None:
            super().__init__("X:")
            self.turns, self.said = 0, list[str]()

        async def post_error(self, message: str) -> None:
            self.said.append(message)
            self._error_until = math.inf

        async def _post(self) -> None:
            self.turns += 1
            if self.turns < 4:
                raise ValueError("cannot be told")
            raise asyncio.CancelledError

    group = Group()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(group._post_forever(0.0, 0.0))
    assert group.turns == 4
    assert group.said == ["PVs cannot be posted: ValueError: cannot be told"]


def test_a_put_of_acquire_is_not_taken_back_by_an_older_state(
    ioc: PsssIOC, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put_acquire(*_: Any) -> None:
        await asyncio.to_thread(ioc.cam.control.acquire, 0)
        await post(ioc.cam.acquire.readback, 1)

    monkeypatch.setattr(psss_ioc, "post_counts", put_acquire)  # while the state is posted
    asyncio.run(ioc._post())
    assert ioc.cam.acquire.readback.raw_value == 1


def test_unsent_results_and_pictures_have_counts_of_their_own(ioc: PsssIOC) -> None:
    ioc.processor.unsent_counts = lambda: {"no_reader": 2, "image no_reader": 700}
    asyncio.run(post_counts(ioc, ioc.processor.state()))
    assert (ioc.spectra.unsent.value, ioc.spectra.unsent_images.value) == (2, 700)


def test_axis_averages_and_spectra_have_units() -> None:
    pvs = Spectra(prefix="TEST:")
    in_ev = (pvs.spectrum_x, pvs.center, pvs.average_center, pvs.average_fwhm)
    assert [channel.units for channel in in_ev] == ["eV"] * 4
    in_counts = (pvs.spectrum_y, pvs.average_y, pvs.block_y)
    assert [channel.units for channel in in_counts] == ["counts"] * 3


@pytest.mark.parametrize("seconds", [0, -5, 2**33])
def test_a_time_that_epics_cannot_hold_is_no_time_stamp(
    ioc: PsssIOC, service: Service, source: ScriptedSource, seconds: int
) -> None:
    service.processor.start()
    source.put(1, time_ns=seconds * 10**9)
    result = until(lambda: service.processor.newest)
    before = time.time()
    asyncio.run(post_result(ioc.spectra, result))
    assert ioc.spectra.pulse_time.value == seconds
    for channel in (ioc.spectra.center, ioc.spectra.pulse_id, ioc.spectra.spectrum_y):
        assert before - 1.0 < channel.timestamp < time.time() + 1.0


def test_a_spectrum_wider_than_its_pv_is_said(
    ioc: PsssIOC, service: Service, source: ScriptedSource
) -> None:
    pvs = ioc.spectra
    wide = taken(service, source, 1, picture(rows=2, columns=COLUMNS_MAX + 1))
    asyncio.run(post_result(pvs, wide))
    assert pvs.spectrum_y.alarm.severity is AlarmSeverity.INVALID_ALARM
    assert pvs.pulse_id.value == 1  # all else is posted
    assert "16385 columns are more than" in service.processor.state().message
    asyncio.run(post_result(pvs, taken(service, source, 2, PICTURE)))
    assert pvs.spectrum_y.alarm.severity is AlarmSeverity.NO_ALARM
    np.testing.assert_array_equal(pvs.spectrum_y.value, PICTURE.sum(axis=0))
    assert service.processor.notes == {}


def test_the_size_is_that_of_the_last_picture(
    ioc: PsssIOC, service: Service, source: ScriptedSource
) -> None:
    taken(service, source, 1, PICTURE)
    taken(service, source, 2, None)
    state = service.processor.state()
    asyncio.run(post_counts(ioc, state))
    asyncio.run(post_plugin(ioc.picture_recording, state))
    cam, hdf = ioc.cam, ioc.picture_recording
    assert (cam.array_size_y.value, cam.array_size_x.value) == PICTURE.shape
    assert cam.array_size.value == PICTURE.nbytes
    assert (hdf.array_size_1.value, hdf.array_size_0.value) == PICTURE.shape


def test_the_rate_falls_while_there_is_no_news(
    ioc: PsssIOC, service: Service, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(service, source, 1, PICTURE)
    taken(service, source, 2, PICTURE)
    asyncio.run(ioc._post())
    assert ioc.spectra.rate.value > 0.1
    later = time.monotonic() + 100.0
    monkeypatch.setattr(service_statistics, "time", SimpleNamespace(monotonic=lambda: later))
    asyncio.run(ioc._post())
    assert ioc.spectra.rate.value == pytest.approx(0.01)


def test_one_background_is_recorded_at_a_time(
    ioc: PsssIOC, service: Service, source: ScriptedSource
) -> None:
    async def clicks() -> None:
        first = asyncio.create_task(ioc.record_background(3))
        await asyncio.to_thread(until, lambda: service.processor._queues)
        with pytest.raises(HardwareError, match="being recorded"):
            await ioc.record_background(3)
        source.put(1, 2, 3)
        await first
        name = service.processor.settings.background_name
        assert ioc.spectra.background_recorded.value == name
        for by_put in (True, False):
            gone = threading.Event()  # the client of a REST call
            over_rest = asyncio.create_task(
                asyncio.to_thread(service.background_recorder.record, 3, cancelled=gone)
            )
            await asyncio.to_thread(until, lambda: service.processor._queues)
            with pytest.raises(HardwareError, match="being recorded"):
                await ioc.record_background(3)
            assert ioc.spectra.background_recorded.value == ""
            if by_put:
                await ioc.record_background(0)
            else:
                gone.set()
            with pytest.raises(HardwareError, match="only 0 of 3 pictures came before it was canc"):
                await over_rest
        again = asyncio.create_task(ioc.record_background(3))
        await asyncio.to_thread(until, lambda: service.processor._queues)
        await ioc.in_thread(service.processor.stop)
        with pytest.raises(HardwareError, match="before it was stopped"):
            await again

    service.processor.start()
    asyncio.run(clicks())
    assert service.processor.settings.background_name.startswith("recorded 20")


def test_a_recording_may_take_as_long_as_its_pulses_do() -> None:
    assert record_limit_s(PULSES_MAX) > 2 * PULSES_MAX / 100


def test_acquire_is_posted_again_if_a_put_was_later_than_the_end(ioc: PsssIOC) -> None:
    async def posted() -> int:
        await ioc._post()
        await post(ioc.cam.acquire.readback, 1)  # of an acquisition that has ended meanwhile
        await ioc._post()
        return int(ioc.cam.acquire.readback.raw_value)

    assert asyncio.run(posted()) == 0


def test_text_for_a_number_is_refused_with_it_and_the_alarm_stays(ioc: PsssIOC) -> None:
    edge = ioc.spectra.roi_ymin.setpoint

    async def put(value: bytes) -> str:
        await edge.write_from_dbr([value], ChannelType.STRING, None)
        await ioc._mark_roi()
        return decode_char_array(ioc.spectra.message.value)

    async def puts() -> None:
        _never_hang(edge, "TEST:SPC_ROI_YMIN", ioc.post_error)
        assert await put(b"much") == "TEST:SPC_ROI_YMIN: 'much', expected a whole number"
        assert edge.alarm.severity is AlarmSeverity.INVALID_ALARM
        await put(b"0")
        assert edge.alarm.severity is AlarmSeverity.NO_ALARM

    asyncio.run(puts())


@pytest.mark.parametrize(
    ("data", "data_type"),
    [([b"5"], ChannelType.STRING), (np.array([5.0], ">f8"), ChannelType.DOUBLE)],
)
def test_a_number_of_another_type_is_put(
    ioc: PsssIOC, service: Service, source: ScriptedSource, data: Any, data_type: ChannelType
) -> None:
    pv = ioc.spectra.average_n.setpoint
    _never_hang(pv, "TEST:AVG_N", ioc.post_error)
    asyncio.run(pv.write_from_dbr(data, data_type, None))
    assert (type(pv.value), pv.value) == (int, 5)
    taken(service, source, 1, PICTURE)
    until(lambda: service.averages.get().pulses == 1)


def test_averages_that_begin_again_are_posted_before_the_next_pulse(
    ioc: PsssIOC, service: Service, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psss_ioc, "AVERAGE_PERIOD_S", 0.0)
    taken(service, source, 1, PICTURE)
    until(lambda: service.averages.get().pulses == 1)

    async def posted() -> tuple[int, float]:
        await ioc._post()
        await ioc._post()  # the averages are posted after the pulse
        return ioc.spectra.average_pulses.value, ioc.spectra.average_center.value

    async def puts() -> None:
        pulses, center = await posted()
        assert (pulses, np.isfinite(center)) == (1, True)
        await ioc.spectra.average_n.setpoint.write(7)
        pulses, center = await posted()
        assert (pulses, np.isfinite(center)) == (0, False)

    asyncio.run(puts())


@pytest.mark.parametrize(
    ("dtype", "data_type"), [(">i4", ChannelType.LONG), (">u2", ChannelType.ENUM)]
)
def test_an_index_that_is_none_is_named_as_it_was_put(
    ioc: PsssIOC, dtype: str, data_type: ChannelType
) -> None:
    smoothing = ioc.spectra.smoothing.setpoint
    _never_hang(smoothing, "TEST:SMOOTHING", ioc.post_error)
    asyncio.run(smoothing.write_from_dbr(np.array([7], dtype), data_type, None))
    message = decode_char_array(ioc.spectra.message.value)
    assert message == "TEST:SMOOTHING: 7; expected one of savgol, none"


def test_text_of_digits_chooses_by_index(ioc: PsssIOC) -> None:
    smoothing = ioc.spectra.smoothing.setpoint

    async def put(value: bytes) -> str:
        await smoothing.write_from_dbr([value], ChannelType.STRING, None)
        return str(smoothing.value)

    async def puts() -> None:
        _never_hang(smoothing, "TEST:SMOOTHING", ioc.post_error)
        assert [await put(given) for given in (b"1", b"0", b"none")] == ["none", "savgol", "none"]
        for wrong in (b"7", b"much"):
            assert await put(wrong) == "none"
            assert smoothing.alarm.severity is AlarmSeverity.INVALID_ALARM
            assert "expected one of savgol, none" in decode_char_array(ioc.spectra.message.value)

    asyncio.run(puts())


def test_both_edges_of_the_roi_are_put_at_once(ioc: PsssIOC, service: Service) -> None:
    edges = ioc.spectra.roi_ymin.setpoint, ioc.spectra.roi_ymax.setpoint
    asyncio.run(put_both((edges[0], 1), (edges[1], 3)))
    assert service.processor.settings.roi == (1, 3)
    assert [edge.value for edge in edges] == [1, 3]


@pytest.mark.parametrize("name", ["processing", "saturation", "fit"])
def test_a_put_does_not_overtake_the_one_before(ioc: PsssIOC, name: str) -> None:
    pv = getattr(ioc.spectra, name).setpoint
    ioc.in_thread = turns = Turns()  # type: ignore[method-assign]
    values = (0, 1) if name == "fit" else (1, 0)
    asyncio.run(put_both(*((pv, value) for value in values)))
    assert turns.order == ["begin", "end"] * 2


def test_a_stop_that_follows_a_start_at_once_stops_the_acquisition(
    ioc: PsssIOC, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: object) -> None:
        """No PVs are posted here."""

    acquire = ioc.cam.acquire.setpoint
    ioc.in_thread = turns = Turns()  # type: ignore[method-assign]
    monkeypatch.setattr(ioc, "wait_until_done", wait)
    monkeypatch.setattr(ioc, "wait_until_posted", wait)
    asyncio.run(put_both((acquire, 1), (acquire, 0)))
    assert turns.order == ["begin", "end"]
    left = service.processor.acquisition
    assert left is None or left.stopping


def test_the_two_recordings_have_file_names_of_their_own(
    ioc: PsssIOC, service: Service, source: ScriptedSource, tmp_path: Path
) -> None:
    """A client that sets both paths only, before there is a pulse, gets both files."""
    plugins = (ioc.picture_recording, ioc.spectrum_recording)

    async def open_both() -> None:
        for plugin in plugins:
            await plugin.file_path.readback.write(f"{tmp_path}/")
            assert await plugin.open_capture()

    asyncio.run(open_both())
    acquisition = service.processor.acquire(2)
    source.put(1, 2)
    assert acquisition.done.wait(90)
    assert [plugin.recorder.rows_readable for plugin in plugins] == [1, 2]
    assert service.processor.state().failures == service.processor.lost == {}


def test_averages_follow_the_last_pulse(
    ioc: PsssIOC, service: Service, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psss_ioc, "AVERAGE_PERIOD_S", 1000.0)
    for pulse_id in (1, 2):
        taken(service, source, pulse_id, PICTURE)
        for _ in range(2):
            asyncio.run(ioc._post())
    assert ioc.spectra.average_pulses.value == 1
    ioc._averages_due = 0.0  # the period is over, and no other pulse has come
    asyncio.run(ioc._post())
    assert ioc.spectra.average_pulses.value == 2


def test_a_block_wider_than_its_pv_is_left_out(ioc: PsssIOC) -> None:
    nan = float("nan")
    asyncio.run(
        post_averages(ioc.spectra, Averages(None, 3, nan, nan, 0, np.ones(COLUMNS_MAX + 1), 7))
    )
    assert ioc.spectra.block_pulse_id.value == -1  # that of the block which is posted
    asyncio.run(post_averages(ioc.spectra, Averages(None, 3, nan, nan, 0, np.ones(5), 8)))
    assert (ioc.spectra.block_pulse_id.value, len(ioc.spectra.block_y.value)) == (8, 5)


def test_an_axis_wider_than_its_pv_is_left_out(ioc: PsssIOC, service: Service) -> None:
    service.processor.change(axis=np.arange(1.0, COLUMNS_MAX + 2))
    asyncio.run(ioc._post())
    assert len(ioc.spectra.spectrum_x.value) == 1
    assert ioc.spectra.settings_number.value == 1  # all else is posted


def test_lost_pulses_may_become_fewer_and_change_their_cause(
    ioc: PsssIOC, service: Service
) -> None:
    """The gaps that a wrong step made are counted again."""

    def post_lost(**lost: int) -> tuple[int, str, int]:
        asyncio.run(post_counts(ioc, replace(service.processor.state(), lost=lost)))
        pvs = ioc.spectra
        return pvs.lost.value, pvs.lost_causes.value, pvs.lost.alarm.severity

    assert post_lost(gap=2) == (2, '{"gap":2}', AlarmSeverity.MINOR_ALARM)
    assert post_lost(garbage=2) == (2, '{"garbage":2}', AlarmSeverity.MINOR_ALARM)
    assert post_lost() == (0, "{}", AlarmSeverity.NO_ALARM)


def test_a_put_of_the_beam_completes_when_the_beam_is_off(
    ioc: PsssIOC, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, put, value in (("beam", "Off", False), ("silent", "Yes", True)):
        pair = getattr(ioc.sim, name)
        asyncio.run(pair.setpoint.write(put))  # this source has no such switch
        monkeypatch.setattr(source, name, not value, raising=False)
        asyncio.run(pair.setpoint.write(put))
        assert getattr(source, name) is value
        assert pair.readback.value == put
