"""Results to an existing IOC's PVs, ROI and axis from there; pulses wait for none of it."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caproto import AccessRights, ChannelType
from ioc_process import IocProcess, running_ioc
from support.channels import channel
from support.psss_scripted import COLUMNS, PICTURE, ScriptedSource
from support.waiting import until

from iocs.psss.ioc import PsssIOC
from iocs.psss.post import DTYPES
from iocs.psss.puts import PUT_PERIOD_S, Puts, TextOrCode, _as_its_type, put_counts
from skywright.errors import DataError
from skywright.instruments.psss.averages import AverageEndpoint
from skywright.instruments.psss.processor import Processor
from skywright.instruments.psss.pv_names import OLD_PUT_NAMES, PUT_NAMES

TESTS = str(Path(__file__).parents[1])
SITE_HAS_TOO = (
    *("com", "fit_status", "fit_unit", "pulse_id", "average_pulses", "state", "message", "pulses"),
)
AXIS = np.linspace(8990, 9010, COLUMNS)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[IocProcess]:
    monkeypatch.setenv("PYTHONPATH", TESTS, prepend=os.pathsep)  # where the site's IOC is
    with running_ioc("support.psss_site") as process:
        yield process


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def processor(source: ScriptedSource) -> Iterator[Processor]:
    processor = Processor(source)
    processor.start()
    yield processor
    processor.close()


def names(prefix: str) -> dict[str, str]:
    return {name: f"{prefix}{suffix}" for name, suffix in PUT_NAMES.items()}


def test_pictures_of_their_own_stream_are_no_unsent_results(processor: Processor) -> None:
    processor.unsent_counts = lambda: {"no_reader": 2, "image no_reader": 700}
    assert put_counts(processor.state(), processor.statistics)["unsent"] == 2


def test_what_is_put_has_the_names_of_what_is_hosted() -> None:
    assert set(names("X:").values()) <= set(PsssIOC("X:", None).pvdb)


def test_counts_that_go_on_for_years_are_doubles() -> None:
    pvs = PsssIOC("X:", None).pvdb
    for name in ("N_PULSES", "N_PROCESSED", "N_SENT", "N_UNSENT"):
        assert pvs[f"X:{name}"].data_type is ChannelType.DOUBLE


def test_every_integer_type_of_pictures_has_a_name() -> None:
    types = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    assert {*types, "float32", "float64"} == DTYPES.keys()


def test_of_a_spectrum_that_does_not_fit_the_first_columns_are_put() -> None:
    for count in (200, 300, 400):
        data = _as_its_type(np.arange(300.0), ChannelType.DOUBLE, count)
        np.testing.assert_array_equal(data, np.arange(min(count, 300)))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (17_950_000_000.0, ChannelType.LONG),
        (np.nan, ChannelType.LONG),
        (np.array([1.0, 40_000.0]), ChannelType.INT),
        (-1.0, ChannelType.CHAR),
        (70_000, ChannelType.ENUM),
    ],
)
def test_a_number_that_a_pv_cannot_hold_is_not_put(value: Any, kind: ChannelType) -> None:
    """Channel Access would carry another number: -2147483648 for a pulse id."""
    with pytest.raises(DataError, match=f"a PV of {kind.name} does not hold"):
        _as_its_type(value, kind, 2)
    np.testing.assert_array_equal(_as_its_type(value, ChannelType.DOUBLE, 2), np.atleast_1d(value))
    np.testing.assert_array_equal(_as_its_type(100.5, kind, 2), [100.5])


def test_a_roi_pv_without_an_element_ends_nothing(processor: Processor) -> None:
    puts = Puts(processor, names("NOT:THERE:"))
    puts._take("ymin", np.array([]))
    assert "NOT:THERE:SPC_ROI_YMIN" in processor.notes["roi"]
    puts.close()


def test_the_roi_is_that_of_the_last_values_of_both_its_pvs(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts, change = Puts(processor, names("NOT:THERE:")), processor.change
    first, second = threading.Event(), threading.Event()

    def change_slowly(roi: tuple[int, int]) -> None:
        if not first.is_set():
            first.set()
            second.wait(0.2)  # as long as this lasts, the other edge is not used
        change(roi=roi)
        second.set()

    puts._edges = {"ymin": 0.0, "ymax": 3.0}
    monkeypatch.setattr(processor, "change", change_slowly)
    other = threading.Thread(target=puts._take, args=("ymin", np.array([1.0])))
    other.start()
    assert first.wait(60)
    puts._take("ymax", np.array([4.0]))
    other.join(60)
    assert processor.settings.roi == (1, 4)
    puts.close()


def test_results_are_put_and_settings_followed(
    site: IocProcess, processor: Processor, source: ScriptedSource
) -> None:
    averages = AverageEndpoint()
    processor.endpoints.append(averages)
    puts = Puts(processor, names(site.prefix), averages.get)
    pvs = {name: channel(puts.names[name]) for name in (*OLD_PUT_NAMES, *SITE_HAS_TOO)}
    try:
        until(lambda: len(puts.connected) == len(pvs))
        pvs["axis"].put(AXIS, wait=True)
        pvs["ymax"].put(9.0, wait=True)
        until(lambda: processor.settings.roi == (0, 9) and processor.settings.axis is not None)
        source.put(1)
        until(lambda: (pvs["center"].get() or 0) > 1)
        until(lambda: len(pvs["output"].get()) == COLUMNS)
        np.testing.assert_array_equal(pvs["output"].get(), PICTURE[:9].sum(axis=0))
        assert pvs["center"].get() == pytest.approx(np.interp(60, range(COLUMNS), AXIS), abs=0.01)
        until(lambda: (pvs["fwhm"].get() or 0) > 1)
        until(lambda: pvs["pulse_id"].get() == 1)
        assert pvs["com"].get() == pytest.approx(pvs["center"].get(), abs=0.1)
        assert (pvs["fit_status"].get(), pvs["fit_unit"].get()) == (0, "EV")
        until(lambda: (pvs["pulses"].get(), pvs["average_pulses"].get()) == (1, 1))
        until(lambda: pvs["state"].get(as_string=True) == "on")
        until(lambda: pvs["message"].get(as_string=True) == "processing")
        assert puts.status()["not_put"] == {}
        assert f"{site.prefix}SPECTRUM_QUALITY" in puts.status()["absent"]
        pvs["ymin"].put(20, wait=True)  # upside down: the last good one stays, and it is said
        until(lambda: "last good one stays" in processor.state().message)
        assert processor.settings.roi == (0, 9)
        pvs["ymax"].put(30.5, wait=True)
        until(lambda: "whole rows" in processor.state().message)
        pvs["ymax"].put(30.0, wait=True)
        until(lambda: processor.settings.roi == (20, 30))
        assert processor.notes == {}
        _lose_the_site(site, puts, processor, source, pvs)
    finally:
        puts.close()


def _lose_the_site(
    site: IocProcess, puts: Puts, processor: Processor, source: ScriptedSource, pvs: Any
) -> None:
    """PVs gone, and back: pulses go on, settings stay, values are put again."""
    site.kill()
    until(lambda: not puts.connected)
    source.put(*range(2, 30))
    until(lambda: processor.state().items == 29)
    until(lambda: puts.status()["not_put"])
    until(lambda: "PVs not there" in processor.state().message)
    assert processor.settings.roi == (20, 30)
    again = site.again()
    try:
        until(lambda: len(puts.connected) == len(pvs), 60)
        until(lambda: pvs["pulses"].get() == 29)
        assert pvs["center"].wait_for_connection(timeout=60)
        until(lambda: processor.notes == {})
        source.put(30)
        until(lambda: (pvs["center"].get() or 0) > 1)
    finally:
        again.terminate()


def test_pulses_do_not_wait_for_pvs_that_are_not_there(
    processor: Processor, source: ScriptedSource
) -> None:
    puts = Puts(processor, names("NOT:THERE:"))
    try:
        source.put(*range(200))
        until(lambda: processor.state().items == 200, 5)
        assert puts.connected == set()
        until(lambda: "NOT:THERE:SPECTRUM_CENTER is not there" in puts.status()["not_put"])
    finally:
        begun = time.monotonic()
        puts.close()
    assert not puts._thread.is_alive()
    assert time.monotonic() - begun < 3


def test_a_count_that_was_not_put_is_put_again(
    processor: Processor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "iocs.psss.puts")
    puts = Puts(processor, names("NOT:THERE:"))
    puts.close()
    written: list[Any] = []

    class Refusing:
        def __init__(self, name: str) -> None:
            self.name = name
            self.channel = SimpleNamespace(
                native_data_type=ChannelType.LONG,
                native_data_count=1,
                access_rights=AccessRights.READ | AccessRights.WRITE,
            )

        async def write(self, data: Any, **options: Any) -> None:
            written.append(data)
            if len(written) == 1:
                raise TimeoutError

    async def put() -> None:
        state, message = Refusing("SITE:STATE"), Refusing("SITE:MESSAGE")
        putting = asyncio.create_task(puts._put_newest({"state": state}))
        await asyncio.wait([putting], timeout=5 * PUT_PERIOD_S)
        putting.cancel()
        assert not await puts._put("message", message, TextOrCode("processing"))
        assert not await puts._put("message", message, 2.0**40)

    puts.connected = {"SITE:STATE", "SITE:MESSAGE"}
    asyncio.run(put())
    assert written == [[1], [1]]
    assert puts.status()["not_put"] == {
        "SITE:STATE failed": 1,
        "SITE:MESSAGE: a PV of LONG holds no text": 1,
        "SITE:MESSAGE: a PV of LONG does not hold such a number": 1,
    }
    assert "1099511627776.0 is not put to SITE:MESSAGE" in caplog.text


def test_pvs_that_may_not_be_written_are_counted(processor: Processor) -> None:
    with running_ioc("iocs.psss", "--size", "64x32") as process:
        puts = Puts(processor, names(process.prefix))
        try:
            refused = f"{process.prefix}STATE may not be written"
            until(lambda: refused in puts.status()["not_put"], 20)
        finally:
            puts.close()
