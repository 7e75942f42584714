"""The spectrometer as a device: documents, settings, and what happens when the other side fails."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky.plans import count
from bluesky.utils import RunEngineInterrupted
from ioc_process import IocProcess, running_ioc
from ophyd import EpicsSignal
from ophyd.signal import InternalSignalError
from ophyd.sim import SynAxis
from support.documents import Documents, assembled, file_of, of
from support.pausing import is_event, pause_once
from support.recording_faults import check_absent, check_bad_directory, check_kill, failing
from support.waiting import until

from devices.psss import spectrometer
from devices.psss.settings import EnergyAxis, Roi, axis_of
from devices.psss.spectrometer import Psss
from plans.psss.spectrum import acquire_spectra, scan_spectra, take_background
from skywright.errors import ConfigError, HardwareError
from skywright.files.columns import ColumnReader
from skywright.instruments.psss import layouts
from skywright.instruments.psss.twin.sase import SpectrumModel
from skywright.instruments.psss.twin.settings import InstrumentSettings

WIDTH, HEIGHT, SEED = 320, 240, 5
ARGUMENTS = ("--seed", str(SEED), "--size", f"{WIDTH}x{HEIGHT}")


@pytest.fixture(scope="module")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IocProcess]:
    """An IOC that has seen a picture, so that any test may come first."""
    with running_ioc("iocs.psss", *ARGUMENTS) as process:
        first = Psss(process.prefix, assets=tmp_path_factory.mktemp("first"), name="first")
        first.wait_for_connection(timeout=60)
        first.stage()
        first.unstage()
        yield process


@pytest.fixture
def psss(ioc: IocProcess, tmp_path: Path) -> Psss:
    device = Psss(ioc.prefix, assets=tmp_path, name="psss")
    device.wait_for_connection(timeout=60)
    return device


@pytest.mark.parametrize(("name", "value"), [("axis", [9000.0, 0.1]), ("settings_file", "/a.h5")])
def test_what_is_read_at_stage_cannot_be_set(tmp_path: Path, name: str, value: object) -> None:
    """`energy_axis` sets the axis; a value put to `axis` would reach nothing."""
    device = Psss("NO:IOC:", assets=tmp_path, name="psss")
    with pytest.raises(InternalSignalError):
        getattr(device, name).set(value)


def test_keys(psss: Psss) -> None:
    assert list(psss.read()) == [
        *("psss_lost", "psss_mean_center", "psss_center_scatter", "psss_mean_fwhm"),
        *("psss_fwhm_scatter", "psss_mean_intensity", "psss_intensity_scatter"),
        *("psss_n_pulses", "psss_n_good", "psss_first_row"),
        *("psss_first_pulse_id", "psss_last_pulse_id"),
    ]
    assert list(psss.read_configuration()) == [
        *("psss_width", "psss_height", "psss_silence_limit"),
        *("psss_manufacturer", "psss_model"),
        *("psss_roi_ymin", "psss_roi_ymax", "psss_background", "psss_background_mode"),
        *("psss_smoothing", "psss_fit", "psss_weighting", "psss_signal_per_row"),
        *(
            "psss_saturation",
            "psss_raw_every",
            "psss_pulses_per_point",
            "psss_record_pictures",
            "psss_axis",
        ),
        "psss_settings_file",
    ]
    assert psss.hints == {"fields": ["psss_mean_center", "psss_mean_fwhm", "psss_mean_intensity"]}


@pytest.mark.parametrize(
    ("name", "refused", "error", "taken"),
    [
        (
            "saturation",
            -1.0,
            "SATURATION did not become -1.0 .*; the IOC says: .*no pixel value",
            250.0,
        ),
        ("num_images", 0, "NumImages did not become 0 .*; the IOC says: .*NumImages", 1),
        ("smoothing", "gauss", "psss_smoothing: 'gauss', expected one of savgol, none", "none"),
        ("smoothing", 7, "psss_smoothing: 7, expected one of savgol, none", "savgol"),
    ],
)
def test_a_setting_that_is_refused_says_why_and_can_be_set_again(
    psss: Psss, name: str, refused: Any, error: str, taken: Any
) -> None:
    setting = getattr(psss, name)
    before = setting.get()
    status = setting.set(refused)
    with pytest.raises((HardwareError, ConfigError), match=error):
        status.wait(30)
    setting.set(taken).wait(30)
    assert setting.get() == taken
    setting.set(before).wait(30)


def test_every_pulse_of_a_flight_is_a_row_and_the_fit_is_true(
    RE: Any, psss: Psss, documents: Documents, tmp_path: Path
) -> None:
    psss.raw_every.set(40).wait(90)
    uid = RE(acquire_spectra(psss, 100, md={"sample": "s1"})).plan_result
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert (start["uid"], start["sample"], start["assets"]) == (uid, "s1", str(tmp_path))
    assert start["plan_args"] == {"psss": "psss", "n": 100}
    assert stop["num_events"] == {"primary": 100, "settings": 1, "pictures": 3}
    keys = of(documents, "descriptor")[0]["data_keys"]
    assert keys["psss_spectrum"]["shape"] == [WIDTH]
    assert keys["psss_spectrum"]["dtype_numpy"] == "<f8"
    configuration = of(documents, "descriptor")[0]["configuration"]["psss_pulses"]["data"]
    assert (configuration["psss_width"], configuration["psss_height"]) == (WIDTH, HEIGHT)
    pulses = assembled(documents, "primary")
    assert pulses["psss_spectrum"].shape == (100, WIDTH)
    assert (np.diff(pulses["psss_pulse_id"]) > 0).all()
    assert np.ptp(pulses["psss_time"] - pulses["psss_pulse_id"] / 100.0) < 1e-3
    assert np.isfinite(pulses["psss_center"]).all()
    model = SpectrumModel(InstrumentSettings(columns=WIDTH, rows=HEIGHT))
    true = [
        model.parameters(np.random.Generator(np.random.Philox(key=[SEED, int(i)]))).center_ev
        for i in pulses["psss_pulse_id"]
    ]
    # Some 60 modes under a curve of 12 eV: a center is known to 0.7 eV, 100 of them to 0.07.
    assert np.mean(pulses["psss_center"] - true) == pytest.approx(0.0, abs=0.35)
    pictures = assembled(documents, "pictures")
    assert pictures["psss_picture"].shape == (3, HEIGHT, WIDTH)
    assert pictures["psss_picture"].dtype == np.uint16
    assert pictures["psss_pulse_id"].tolist() == pulses["psss_pulse_id"][::40].tolist()
    settings = assembled(documents, "settings")
    assert settings["psss_settings_axis"].shape == (1, WIDTH)
    (digest,) = settings["psss_settings_background_digest"].tolist()
    assert len(digest) == (64 if configuration["psss_background"] else 0)
    for stream in (pulses, pictures):
        assert set(stream["psss_settings_number"]) == set(settings["psss_settings_number"])
    file = file_of(documents, "psss_spectrum")
    with ColumnReader(file, layouts.PULSE_ID) as reader:
        assert reader.count() == 100  # nothing is in the file that no document tells of


def test_a_flight_by_time_ends_and_pictures_can_be_left_out(
    RE: Any, psss: Psss, documents: Documents
) -> None:
    psss.record_pictures.put(0)
    RE(acquire_spectra(psss, seconds=0.6))
    (stop,) = of(documents, "stop")
    assert set(stop["num_events"]) == {"primary", "settings"}
    assert 15 <= stop["num_events"]["primary"] <= 120  # 100/s, on a machine that is busy
    assert {doc["name"] for doc in of(documents, "descriptor")} == {"primary", "settings"}


def test_each_flight_of_a_stage_takes_its_pulses(psss: Psss) -> None:
    psss.stage()
    try:
        psss.pulses_per_point.put(3)
        psss.trigger().wait(30)
        for rows in (3 + 20, 3 + 20 + 20):
            psss.pulses.prepare(20).wait(5)
            psss.pulses.kickoff().wait(30)
            psss.pulses.complete().wait(30)
            assert psss.pulses.get_index() == rows
    finally:
        psss.unstage()


def test_a_new_recording_counts_from_nothing(psss: Psss) -> None:
    for rows in (6, 4, 5, 3):
        psss.stage()
        try:
            counts = [plugin.captured for plugin in (psss.spectra_file, psss.pictures_file)]
            assert [psss.fetch(count) for count in counts] == [0, 0]
            psss.pulses.prepare(rows).wait(5)
            psss.pulses.kickoff().wait(30)
            psss.pulses.complete().wait(30)
            assert (psss.pulses.get_index(), psss.pictures.get_index()) == (rows, 1)
        finally:
            psss.unstage()


def test_stage_ends_when_the_count_of_the_file_before_is_over(
    psss: Psss, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = psss.spectra_file.captured
    count.unsubscribe_all()  # the test posts what the monitors would
    psss._on_rows(psss.pulses, 7)
    ask = psss._read_now
    late = threading.Timer(0.3, psss._on_rows, (psss.pulses, 0))

    def asked(signal: Any) -> Any:
        if signal is count and late.ident is None:
            late.start()
        return ask(signal)

    monkeypatch.setattr(psss, "_read_now", asked)
    psss.stage()
    try:
        psss._on_rows(psss.pulses, 3)
        late.join()
        psss.raise_if_silent()  # it would be: its count went back
        assert psss.pulses.get_index() == 3
    finally:
        psss.unstage()


def test_a_count_that_is_told_late_is_waited_for(
    psss: Psss, monkeypatch: pytest.MonkeyPatch
) -> None:
    psss.stage()
    try:
        asked = threading.Event()
        ask = psss._read_now

        def ahead(signal: Any) -> Any:
            if signal is not psss.spectra_file.captured:
                return ask(signal)
            asked.set()
            return 5

        monkeypatch.setattr(psss, "_read_now", ahead)
        ended = psss.pulses.complete()
        assert asked.wait(90)
        for rows in (3, 4, 5):  # the monitors of what was written last
            psss._on_rows(psss.pulses, rows)
        ended.wait(10)
        assert psss.pulses.get_index() == 5
        psss.raise_if_silent()
    finally:
        psss.unstage()


def test_a_stage_that_fails_leaves_nothing_open(psss: Psss, tmp_path: Path) -> None:
    record = psss._record

    def failing(stream: Any, *rest: Any) -> None:
        if stream is psss.pictures:
            raise HardwareError("the pictures' disk is full")
        record(stream, *rest)

    psss._record = failing  # type: ignore[method-assign]
    with pytest.raises(HardwareError, match="disk is full"):
        psss.stage()
    assert psss.fetch(psss.spectra_file.capture) == 0
    with pytest.raises(HardwareError, match="not staged"):
        psss.trigger().wait(5)


def test_a_point_is_summed_up_from_the_file(RE: Any, psss: Psss, documents: Documents) -> None:
    RE(scan_spectra(psss, SynAxis(name="motor"), 0.0, 1.0, 3, pulses=7))
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 3
    assert stop["num_events"]["pulses"] == 21
    pulses = assembled(documents, "pulses")
    for event in of(documents, "event"):
        data = event["data"]
        rows = slice(data["psss_first_row"], data["psss_first_row"] + 7)
        assert data["psss_n_pulses"] == 7
        assert data["psss_first_pulse_id"] == pulses["psss_pulse_id"][rows][0]
        assert data["psss_last_pulse_id"] == pulses["psss_pulse_id"][rows][-1]
        assert data["psss_n_good"] == 7
        assert data["psss_mean_center"] == pytest.approx(pulses["psss_center"][rows].mean())
        scatter = pulses["psss_fwhm"][rows].std(ddof=1)
        assert data["psss_fwhm_scatter"] == pytest.approx(scatter)
    assert psss.pulses_per_point.get() == 1  # as before


def test_stock_plans_step_it(RE: Any, psss: Psss, documents: Documents) -> None:
    RE(count([psss], 2))
    assert [event["data"]["psss_n_pulses"] for event in of(documents, "event")] == [1, 1]


def test_pause_in_a_point_takes_it_again(RE: Any, psss: Psss, documents: Documents) -> None:
    pause_once(RE, is_event(2))
    with pytest.raises(RunEngineInterrupted):
        RE(scan_spectra(psss, SynAxis(name="motor"), 0.0, 1.0, 4, pulses=2))
    RE.resume()
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 4)
    assembled(documents, "pulses")


def test_a_point_that_is_taken_again_keeps_its_own_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the trigger before a pause ends with pulses from before and after it."""
    device = Psss("NO:IOC:", assets=tmp_path, name="psss")
    works: list[Any] = []
    for name in ("_check_staged", "_put", "_start"):
        monkeypatch.setattr(device, name, lambda *_: None)
    monkeypatch.setattr(device, "in_background", works.append)
    monkeypatch.setattr(device, "fetch", lambda _: len(works))

    def resume(_: Any) -> None:
        if len(works) == 1:
            device.trigger()
            works[1]()

    monkeypatch.setattr(device, "_wait", resume)
    monkeypatch.setattr(
        spectrometer, "summarize_point", lambda file, first, stop: {"first_row": first}
    )
    device.trigger()
    works[0]()
    assert device.first_row.get() == 2


def test_abort_leaves_it_stopped_and_settings_as_they_were(
    RE: Any, psss: Psss, documents: Documents
) -> None:
    pause_once(RE, lambda name, doc: name == "stream_datum")
    with pytest.raises(RunEngineInterrupted):
        RE(acquire_spectra(psss, seconds=3600.0))
    RE.abort("enough")
    assert of(documents, "stop")[0]["exit_status"] == "abort"
    assert psss.fetch(psss.acquiring) == 0
    assert psss.fetch(psss.spectra_file.capture) == 0


def test_an_axis_that_is_no_polynomial_is_put_back_as_it_was() -> None:
    columns = np.arange(256.0)
    axis = 8980.0 + 0.016 * columns + 0.004 * np.sin(columns / 7)
    device = MagicMock(spectrum_x=axis, width=256)
    device.configure_mock(name="psss")
    device.fetch = lambda signal: signal
    device.in_background = lambda work: work()
    device.put_setpoint = lambda signal, value: setattr(device, "spectrum_x", np.asarray(value))
    part = EnergyAxis(device, "energy_axis")
    before = part.get()
    part.set([9000.0, 0.1])
    assert part.get() == pytest.approx([9000.0, 0.1])
    part.set(tuple(before))
    np.testing.assert_array_equal(part.values(), axis)
    with pytest.raises(ConfigError, match="whole rows"):
        Roi(device, "roi").set((900.9, 1260.0))


@pytest.mark.parametrize("wrong", ["9000", (9000.0, "0.1 eV"), np.linspace(8980.0, 9020.0, 2560)])
def test_what_is_no_polynomial_is_refused_in_a_short_message(wrong: Any) -> None:
    """The energies of all columns, which the PV takes, are no coefficients."""
    with pytest.raises(ConfigError, match=r"^energy axis: coefficients .{,250}$"):
        axis_of(wrong, 320)


def test_settings_of_more_than_one_put(RE: Any, psss: Psss) -> None:
    RE(bps.abs_set(psss.roi, (80, 160), wait=True))
    assert psss.roi.get() == [80, 160]
    RE(bps.abs_set(psss.roi, (10, 20), wait=True))  # in between upside down
    assert psss.roi.get() == [10, 20]
    with pytest.raises(ConfigError, match=r"psss_roi: \(30, 20\), expected 0 <= ymin < ymax"):
        psss.roi.set((30, 20))
    RE(bps.abs_set(psss.roi, (0, 0), wait=True))
    before = psss.energy_axis.get()
    assert before == pytest.approx([8980.0625, 40 / WIDTH])
    RE(bps.abs_set(psss.energy_axis, (), wait=True))
    assert psss.energy_axis.get() == []
    with pytest.raises(ConfigError, match="expected finite energies that rise"):
        psss.energy_axis.set((9000.0, 0.0))
    RE(bps.abs_set(psss.energy_axis, before, wait=True))
    assert psss.energy_axis.get() == pytest.approx(before)
    with pytest.raises(ConfigError, match=r"-1 pulses, expected 0\.\.10000"):
        psss.background_recorder.set(-1)


def test_background_in_the_dark(RE: Any, psss: Psss, documents: Documents, ioc: IocProcess) -> None:
    beam = EpicsSignal(f"{ioc.prefix}SIM:Beam", name="beam", put_complete=True)
    beam.wait_for_connection(timeout=60)
    try:
        background = RE(take_background(psss, 20, shutter=beam, closed=0)).plan_result
        assert background.pulses == 20
        assert background.name.startswith("recorded ")
        assert psss.background.get() == background.name
        assert beam.get() == 1
        assert psss.fetch(psss.processing) == 0  # as before
        (event,) = of(documents, "event")
        assert event["data"]["psss_background_recorder_name"] == background.name
    finally:
        psss.put_setpoint(psss.background, " ")  # clears


@pytest.mark.parametrize("then", ["abort", "resume"])
def test_a_background_in_a_pause_is_cancelled(
    RE: Any, psss: Psss, ioc: IocProcess, then: str
) -> None:
    beam = EpicsSignal(f"{ioc.prefix}SIM:Beam", name="beam", put_complete=True)
    beam.wait_for_connection(timeout=60)
    pulses, before = 150, psss.background.get()

    def pause() -> None:
        until(psss.background_recorder._is_recording)
        threading.Event().wait(0.2)
        RE.request_pause()

    psss.processing.set(1).wait(60)  # goes on afterwards, in the light
    try:
        threading.Thread(target=pause).start()
        with pytest.raises(RunEngineInterrupted):
            RE(take_background(psss, pulses, shutter=beam, closed=0, settle_s=0.0))
        if then == "abort":
            RE.abort()
            threading.Event().wait(pulses / 100)
            assert (beam.get(), psss.background.get()) == (1, before)
        else:
            threading.Event().wait(pulses / 100)
            assert psss.background.get() == before
            background = RE.resume().plan_result
            assert background.name.startswith("recorded ")
            assert (beam.get(), psss.background.get()) == (1, background.name)
        psss.background_recorder.set(3).wait(60)  # nothing is under way any more
    finally:
        psss.processing.set(0).wait(60)
        psss.put_setpoint(psss.background, " ")  # clears


def test_a_background_that_was_not_recorded_is_not_taken_for_one(psss: Psss) -> None:
    psss.processing.set(0).wait(60)
    status = psss.background_recorder.set(5)
    try:
        psss.signal_per_row.put(2.0)  # another client changes the settings meanwhile
        with pytest.raises(HardwareError, match=r"no background of 5 pulses; .*only 0 of 5"):
            status.wait(60)
    finally:
        psss.signal_per_row.put(1.5)


def test_a_refused_background_leaves_the_recording_of_another_client(RE: Any, psss: Psss) -> None:
    psss.processing.set(1).wait(60)
    try:
        psss.background_record.put(150, wait=False)  # another client, for 1.5 s
        with pytest.raises(HardwareError, match="a background is being recorded"):
            RE(take_background(psss, 5, settle_s=0.2))
        psss.background_record.put(-1, wait=False)
        until(lambda: str(psss.fetch(psss.background_recorded)).startswith("recorded "))
    finally:
        psss.processing.set(0).wait(60)
        psss.put_setpoint(psss.background, " ")  # clears


def test_silent_source_is_told_and_named(
    RE: Any, psss: Psss, documents: Documents, ioc: IocProcess
) -> None:
    silent = EpicsSignal(f"{ioc.prefix}SIM:Silent", name="silent")
    silent.wait_for_connection(timeout=60)
    RE(acquire_spectra(psss, 1))  # the picture's size is known, whichever test comes first
    silent.put(1, wait=True)
    psss.silence_limit.put(2.5)
    try:
        error = failing(lambda: RE(acquire_spectra(psss, 10)))
        assert "psss: no pulse in the file for " in str(error)
        assert "no pulse for more than 2 s" in str(error)
        stop = of(documents, "stop")[-1]
        assert stop["exit_status"] == "fail"
        assert "no pulse in the file" in stop["reason"]
        error = failing(lambda: RE(acquire_spectra(psss, seconds=0.5)))  # shorter than the limit
        assert "psss: no pulse was recorded; the IOC says: " in str(error)
    finally:
        silent.put(0, wait=True)
    RE(acquire_spectra(psss, 5))


def test_an_acquisition_that_ends_with_too_few_pulses_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its disk was full for a while: the IOC has no more to say about it at the end."""
    psss = Psss("NOBODY:", assets=tmp_path, name="psss")
    psss.pulses.rows, psss._silent_since = 705, 0.0
    monkeypatch.setattr(psss, "_reason", lambda: "the IOC says: stopped")
    expected = r"s; the IOC is not acquiring and has stored 705 pulses; the IOC says: stopped"
    with pytest.raises(HardwareError, match=expected):
        psss._check_silence()


def test_trigger_of_a_spectrometer_that_is_not_staged(psss: Psss) -> None:
    with pytest.raises(HardwareError, match="psss: not staged"):
        psss.trigger().wait(5)


def test_directory_that_cannot_be_made(RE: Any, ioc: IocProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    psss = Psss(ioc.prefix, assets=tmp_path / "file", name="psss")
    check_bad_directory(RE, psss, "SPEC1", lambda psss: acquire_spectra(psss, 1))


def test_ioc_that_is_not_there(RE: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.guarded.CONNECT_S", 0.5)
    psss = Psss("NOBODY:", assets=tmp_path, name="psss")
    check_absent(RE, psss, lambda psss: acquire_spectra(psss, 1))


@pytest.mark.soak  # make test kills every IOC; the next run, with the camera
def test_ioc_killed_in_flight_and_back(RE: Any, documents: Documents, tmp_path: Path) -> None:
    rows = check_kill(
        RE,
        documents,
        ("iocs.psss", *ARGUMENTS),
        lambda prefix, assets: Psss(prefix, assets=assets, name="psss"),
        tmp_path,
        fly=lambda psss: acquire_spectra(psss, 10_000),
        again=lambda psss: acquire_spectra(psss, 20),
        key="psss_spectrum",
        identity=layouts.PULSE_ID,
    )
    assert rows == 20


def test_a_pause_longer_than_the_silence_limit_resumes_when_all_pulses_are_there(
    RE: Any, documents: Documents, psss: Psss
) -> None:
    """The pulses end in the pause, so that none comes after it."""
    psss.silence_limit.put(1.0)
    pause_once(RE, lambda name, doc: name == "stream_datum" and doc["indices"]["stop"] >= 60)
    with pytest.raises(RunEngineInterrupted):
        RE(acquire_spectra(psss, n=60))
    until(lambda: psss.pulses.rows >= 60)
    threading.Event().wait(1.5)
    RE.resume()
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert len(assembled(documents)["psss_pulse_id"]) >= 60
