"""Recordings of pulses: complete, in order, readable while written, and true about what is lost."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.psss_scripted import (
    COLUMNS,
    PICTURE,
    ROWS,
    TIME_NS,
    ScriptedSource,
    make_pulse,
    picture,
)
from support.waiting import until

from skywright.acquire.counters import Counters
from skywright.acquire.recorder import Recorder
from skywright.errors import HardwareError
from skywright.files import areadetector
from skywright.files.columns import ColumnReader, DoesNotFitError
from skywright.instruments.psss import layouts
from skywright.instruments.psss.layouts import PictureLayout, SpectraFile, SpectraLayout
from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.processor import Processor, process_pulse
from skywright.instruments.psss.settings import Settings, digest_of

AXIS = np.linspace(8990.0, 9010.0, COLUMNS)


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def processor(source: ScriptedSource) -> Iterator[Processor]:
    processor = Processor(source)
    processor.recorders += [Recorder(SpectraLayout()), Recorder(PictureLayout(), every=3)]
    yield processor
    processor.close()
    for recorder in processor.recorders:
        recorder.close()  # type: ignore[attr-defined]


@pytest.fixture
def spectra(processor: Processor) -> Recorder[Any, Any]:
    recorder: Any = processor.recorders[0]
    return recorder


@pytest.fixture
def pictures(processor: Processor) -> Recorder[Any, Any]:
    recorder: Any = processor.recorders[1]
    return recorder


def acquire(processor: Processor, source: ScriptedSource, *images: Any, first: int = 1) -> None:
    """Acquire pulses; the source runs for this alone."""
    acquisition = processor.acquire(len(images))
    for number, image in enumerate(images, first):
        source.put(number, image=image)
    assert acquisition.done.wait(90)
    assert acquisition.items == len(images)
    until(lambda: not processor.is_started)


def test_a_spectrum_that_is_too_wide_is_one_of_the_rows_of_a_recording(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    assert spectra.start(path, count=3) == ""
    acquire(processor, source, PICTURE, picture(columns=200), *[PICTURE] * 3)
    spectra.stop()
    assert spectra.lost == {"spectra spectrum too wide": 1}
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        assert reader.read(layouts.PULSE_ID).tolist() == [1, 2, 3]


def test_a_recording_goes_on_after_its_settings_file_could_not_be_created(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    assert spectra.start(path) == ""
    settings = layouts.settings_path(path)
    settings.touch()
    acquire(processor, source, PICTURE)
    assert spectra.lost == {"spectra not written": 1}
    settings.unlink()
    acquire(processor, source, PICTURE, first=2)
    spectra.stop()
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        assert reader.read(layouts.PULSE_ID).tolist() == [2]


def test_settings_are_written_once_although_a_batch_failed(tmp_path: Path) -> None:
    first, wrong = (
        process_pulse(make_pulse(pulse_id), number, Settings(), Counters())
        for number, pulse_id in enumerate((1, 2**64))
    )
    path = tmp_path / "run.h5"
    with SpectraFile(path, COLUMNS) as file:
        with pytest.raises(DoesNotFitError):
            file.append([first, wrong])
        file.append([first])  # as the recorder does then
    with ColumnReader(layouts.settings_path(path), layouts.SETTINGS_NUMBER) as reader:
        assert reader.read(layouts.SETTINGS_NUMBER).tolist() == [0, 1]


def test_every_pulse_is_a_row_that_says_what_it_was_made_with(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    assert spectra.start(path) == ""
    processor.change(axis=AXIS)
    acquire(processor, source, *[PICTURE] * 20)
    with ColumnReader(path, layouts.PULSE_ID) as reader:  # while it is open
        assert reader.count() == spectra.rows_readable == 20
        assert reader.read(layouts.PULSE_ID).tolist() == list(range(1, 21))
        expected = PICTURE.sum(axis=0, dtype=np.uint32)
        assert (reader.read(layouts.SPECTRUM) == expected).all()
    processor.change(roi=(1, 9), background=PICTURE - 2, background_name="dark", saturation=4095)
    acquire(processor, source, PICTURE, None, PICTURE[:, :100], picture(columns=200), first=30)
    spectra.stop()
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        assert reader.read(layouts.PULSE_ID)[20:].tolist() == [30, 31, 32, 33]
        rows = reader.read(layouts.SPECTRUM)[20:]
        assert (rows[0] == 2 * 8).all()
        assert np.isnan(rows[1]).all()  # missing is missing, never zero
        assert np.isfinite(rows[2, :100]).all()
        assert np.isnan(rows[2, 100:]).all()
        assert np.isnan(rows[3]).all()
        names = reader.attributes(layouts.STATUS)["names"]
        said = [names[code] for code in reader.read(layouts.STATUS)]
        assert said[0] == "OK"
        assert said[21] == "NO_IMAGE"
        assert reader.read("/entry/data/width")[20:].tolist() == [120, 0, 100, 200]
        assert reader.read("/entry/made_with/settings_number").tolist() == [1] * 20 + [2] * 4
        applied = reader.read("/entry/made_with/background_applied")
        assert applied.tolist() == [0] * 20 + [1, 0, 0, 0]
        assert reader.read("/entry/made_with/roi_ymax")[[0, 20]].tolist() == [ROWS, 9]
        centers = reader.read("/entry/fit/center")
        np.testing.assert_allclose(centers[:20], np.interp(60, range(COLUMNS), AXIS), atol=0.05)
        assert np.isnan(centers[21])
        assert (reader.read(layouts.TIME_NS) == TIME_NS).all()
    assert spectra.lost == {"spectra spectrum too wide": 1}
    with ColumnReader(path.with_suffix(".settings.h5"), layouts.SETTINGS_NUMBER) as reader:
        assert reader.read(layouts.SETTINGS_NUMBER).tolist() == [1, 2]
        np.testing.assert_array_equal(reader.read(layouts.AXIS)[1], AXIS)
        assert reader.read("/entry/background_name").tolist() == [b"", b"dark"]
        digest = digest_of("dark", PICTURE - 2)
        assert reader.read("/entry/background_digest").tolist() == [b"", digest.encode()]
        np.testing.assert_array_equal(reader.read("/entry/saturation"), [np.nan, 4095])
        assert reader.read("/entry/roi").tolist() == [[0, 0], [1, 9]]


def test_brightness_is_there_where_the_energy_is_known(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.h5"
    assert spectra.start(path) == ""
    acquisition = processor.acquire(3)
    source.put(1)  # in pixels
    until(lambda: processor.newest)
    processor.change(axis=AXIS)
    for number, energy in ((2, None), (3, 250.0)):
        source.queue.put(replace(make_pulse(number), energy_uj=energy))
    assert acquisition.done.wait(90)
    spectra.stop()
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        energies = reader.read("/entry/data/pulse_energy")
        np.testing.assert_array_equal(energies, [np.nan, np.nan, 250.0])
        brightness = reader.read("/entry/fit/brightness")
        assert np.isnan(brightness[:2]).all()
        assert brightness[2] == 250.0 / reader.read("/entry/fit/fwhm")[2]


def test_one_picture_in_so_many(
    processor: Processor, source: ScriptedSource, pictures: Recorder[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "raw.h5"
    assert pictures.start(path) == ""
    small, large = PICTURE[:5, :6], picture(rows=ROWS + 1)
    acquire(processor, source, PICTURE, PICTURE, PICTURE, PICTURE + 1)
    acquire(
        processor, source, small, small, small, large, first=10
    )  # the first of each acquisition
    acquire(processor, source, PICTURE.astype(np.float32), first=20)
    acquire(processor, source, None, first=30)
    pictures.stop()
    with h5py.File(path) as file:
        assert file[areadetector.UNIQUE_ID][:].tolist() == [1, 4, 10]
        data = file[areadetector.IMAGE]
        assert data.dtype == np.uint16
        np.testing.assert_array_equal(data[0], PICTURE)
        np.testing.assert_array_equal(data[2, :5, :6], small)
        assert file[areadetector.WIDTH][:].tolist() == [COLUMNS, COLUMNS, 6]
        assert file[areadetector.EPICS_SECONDS][0] == TIME_NS // 10**9 - areadetector.EPICS_EPOCH_S
    assert pictures.lost == {"pictures wrong size": 1, "pictures wrong dtype": 1}


def test_pulses_without_a_picture_do_not_count(
    processor: Processor, source: ScriptedSource, pictures: Recorder[Any, Any], tmp_path: Path
) -> None:
    pictures.every = 2
    assert pictures.start(tmp_path / "raw.h5") == ""
    acquire(processor, source, *[None, PICTURE] * 4)  # a camera at half the rate of the machine
    pictures.stop()
    with h5py.File(tmp_path / "raw.h5") as file:
        assert file[areadetector.UNIQUE_ID][:].tolist() == [2, 6]


def test_an_acquisition_ends_when_all_is_in_the_file(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    spectra.start(tmp_path / "a.h5")
    processor.start()
    source.put(1)  # not acquired: not recorded
    until(lambda: processor.state().items == 1)
    acquisition = processor.acquire(3)
    with pytest.raises(HardwareError, match="in progress"):
        processor.acquire(5)
    assert processor.acquisition is acquisition
    source.put(2, 3, 4, 5)
    assert acquisition.done.wait(90)
    assert spectra.rows_readable == 3
    until(lambda: processor.state().items == 5)
    assert processor.is_started  # it ran before
    endless = processor.acquire()
    source.put(6)
    until(lambda: endless.items == 1)
    assert processor.stop_acquisition() is endless
    assert endless.done.wait(90)
    assert spectra.rows_readable == 4
    endless = processor.acquire()
    processor.stop()
    assert endless.done.wait(90)
    assert processor.stop_acquisition() is None


def test_a_recording_of_a_number_ends_by_itself(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    spectra.start(tmp_path / "a.h5", count=2)
    acquire(processor, source, *[PICTURE] * 3)
    assert spectra.path is None
    assert spectra.rows_readable == 2
    with h5py.File(tmp_path / "a.h5") as file:  # closed in order
        assert file[layouts.PULSE_ID][:].tolist() == [1, 2]


def test_pulses_without_pictures_alone_make_a_file_too(
    processor: Processor, source: ScriptedSource, spectra: Recorder[Any, Any], tmp_path: Path
) -> None:
    spectra.start(tmp_path / "a.h5")
    acquire(processor, source, None, None)
    assert spectra.rows_readable == 2
    spectra.stop()
    with ColumnReader(tmp_path / "a.h5", layouts.PULSE_ID) as reader:
        assert reader.read(layouts.STATUS).tolist() == [FitStatus.NO_IMAGE] * 2


def test_a_recording_that_begins_without_pictures_is_as_wide_as_the_last_one(
    processor: Processor, source: ScriptedSource, tmp_path: Path
) -> None:
    recorder: Recorder[Any, Any] = Recorder(SpectraLayout(lambda: processor.picture_width))
    processor.recorders[:] = [recorder]
    processor.change(axis=AXIS)
    acquire(processor, source, PICTURE)  # not recorded: the device asks for the size
    assert recorder.start(tmp_path / "a.h5") == ""
    acquire(processor, source, None, first=2)
    acquire(processor, source, PICTURE, first=3)
    recorder.close()
    assert recorder.lost == {}
    with ColumnReader(tmp_path / "a.h5", layouts.PULSE_ID) as reader:
        spectra = reader.read(layouts.SPECTRUM)
        assert np.isnan(spectra[0]).all()
        np.testing.assert_array_equal(spectra[1], PICTURE.sum(axis=0, dtype=np.uint32))
    with ColumnReader(tmp_path / "a.settings.h5", layouts.SETTINGS_NUMBER) as reader:
        np.testing.assert_array_equal(reader.read(layouts.AXIS)[0], AXIS)


def test_a_file_that_cannot_be_made_is_said(spectra: Recorder[Any, Any], tmp_path: Path) -> None:
    assert "no such directory" in spectra.start(tmp_path / "absent" / "a.h5")
    (tmp_path / "a.h5").touch()
    assert "exists" in spectra.start(tmp_path / "a.h5")
    assert spectra.path is None


@pytest.mark.parametrize("error", [OSError("disk full"), OverflowError("disk full")])
def test_a_disk_that_fails_is_counted(
    error: Exception,
    processor: Processor,
    source: ScriptedSource,
    spectra: Recorder[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spectra.start(tmp_path / "a.h5")
    acquire(processor, source, PICTURE)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise error

        patch.setattr(layouts.SpectraFile, "append", full)
        acquire(processor, source, PICTURE, PICTURE, first=2)
        assert spectra.error == "disk full"
    acquire(processor, source, PICTURE, first=4)
    assert spectra.error == ""
    assert spectra.lost == {"spectra not written": 2}
    with ColumnReader(tmp_path / "a.h5", layouts.PULSE_ID) as reader:
        assert reader.read(layouts.PULSE_ID).tolist() == [1, 4]


def test_a_disk_that_fails_is_an_alarm_until_it_takes_rows_again(
    processor: Processor,
    source: ScriptedSource,
    spectra: Recorder[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise OSError("disk full")

    def shows_next(message: str, alarm: bool) -> bool:
        source.put(next(ids))
        state = processor.state()
        return (state.message, state.alarm) == (message, alarm)

    ids = itertools.count()
    assert spectra.start(tmp_path / "a.h5") == ""
    processor.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(layouts.SpectraFile, "append", full)
        until(lambda: shows_next("spectra are not recorded: disk full", True))
    until(lambda: shows_next("processing", False))


def test_a_picture_that_fails_is_the_only_one_not_written(
    processor: Processor,
    source: ScriptedSource,
    pictures: Recorder[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = areadetector.ImageWriter.append

    def failing(self: Any, identity: int, *values: Any, **more: Any) -> None:
        if identity == 2:
            raise OSError("disk full")
        append(self, identity, *values, **more)

    monkeypatch.setattr(areadetector.ImageWriter, "append", failing)
    pictures.every = 1
    pictures.start(tmp_path / "raw.h5")
    with pictures._file_lock:  # so that they are written together
        acquisition = processor.acquire(3)
        source.put(1, 2, 3)
        until(lambda: acquisition.items == 3)
    assert acquisition.done.wait(90)
    pictures.stop()
    with h5py.File(tmp_path / "raw.h5") as file:
        assert file[areadetector.UNIQUE_ID][:].tolist() == [1, 3]
    assert pictures.lost == {"pictures not written": 1}


def test_a_clock_of_another_century_is_recorded(
    processor: Processor, source: ScriptedSource, pictures: Recorder[Any, Any], tmp_path: Path
) -> None:
    pictures.start(tmp_path / "raw.h5")
    acquisition = processor.acquire(1)
    source.put(1, time_ns=9 * 10**18)  # in 2255
    assert acquisition.done.wait(90)
    pictures.stop()
    with h5py.File(tmp_path / "raw.h5") as file:
        assert file[areadetector.TIME_STAMP][0] == 9e9
        assert file[areadetector.EPICS_SECONDS][0] == 2**32 - 1  # the most that it can say


def test_a_queue_that_is_full_is_counted(tmp_path: Path) -> None:
    from skywright.acquire.counters import Counters
    from skywright.instruments.psss.processor import process_pulse
    from skywright.instruments.psss.settings import Settings

    recorder = Recorder(PictureLayout(), queue_bytes=PICTURE.nbytes)
    recorder.start(tmp_path / "a.h5")
    with recorder._file_lock:  # the disk is slow
        for pulse_id in range(5):
            recorder.offer(process_pulse(make_pulse(pulse_id), 0, Settings(), Counters()))
    recorder.close()
    lost = recorder.lost["pictures queue full"]
    assert lost >= 2
    assert recorder.rows_readable == 5 - lost
