"""The owner of the pulses: order, starts and stops, settings, and pulses that are odd."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.psss_scripted import PICTURE, ROWS, TIME_NS, ScriptedSource, make_pulse, picture
from support.waiting import until

from skywright.acquire import owner as acquire_owner
from skywright.errors import ConfigError, HardwareError
from skywright.instruments.psss import processor as owner
from skywright.instruments.psss import service_statistics
from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.processor import NOT_PROCESSED, Processor
from skywright.instruments.psss.results import Result


@dataclass
class Collector:
    """A sink that keeps everything; refuses when it is told to."""

    results: list[Result] = field(default_factory=list)
    broken: bool = False

    def offer(self, result: Result) -> None:
        if self.broken:
            raise OSError("the face is broken")
        self.results.append(result)

    @property
    def pulse_ids(self) -> list[int]:
        return [result.pulse.pulse_id for result in self.results]


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def processor(source: ScriptedSource) -> Iterator[Processor]:
    processor = Processor(source)
    processor.endpoints.append(Collector())
    yield processor
    source.start_gate.set()
    processor.close()


def started(processor: Processor) -> Callable[[], bool]:
    """Say whether a start, asked for again and again, has succeeded."""

    def started() -> bool:
        try:
            processor.start()
        except HardwareError:
            return False
        return True

    return started


def seen(processor: Processor, count: int) -> list[Result]:
    collector: Any = processor.endpoints[1]
    until(lambda: len(collector.results) >= count)
    return collector.results


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_pulses(source: ScriptedSource, threads: int) -> None:
    processor, collector = Processor(source, threads=threads), Collector()
    processor.endpoints.append(collector)
    # Large and small ones take turns, so that in parallel the small ones are ready first.
    images = [picture(rows=600 if number % 2 else 4) for number in range(2)]
    processor.start()
    for pulse_id in range(60):
        source.put(pulse_id, image=images[pulse_id % 2])
    until(lambda: len(collector.results) == 60)
    assert collector.pulse_ids == list(range(60))
    for result in collector.results:
        np.testing.assert_array_equal(
            result.spectrum.spectrum, result.pulse.image.sum(axis=0, dtype=np.uint32)
        )
    processor.stop()
    assert not processor.is_started


def test_start_and_stop(processor: Processor, source: ScriptedSource) -> None:
    assert not processor.is_started
    assert not source.running.is_set()
    processor.stop()
    processor.start()
    processor.start()
    assert source.running.is_set()
    assert processor.is_started
    processor.stop()
    assert not source.running.is_set()
    assert processor.state().message == "stopped"
    processor.start()
    source.put(1, 2)
    seen(processor, 2)
    assert processor.statistics.rate_hz > 0.0
    processor.stop()
    assert processor.statistics.rate_hz == 0.0


def test_a_start_that_does_not_get_going_is_an_error(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "start_limit_s", 0.05)
    source.start_gate.clear()
    with pytest.raises(HardwareError, match="did not start within"):
        processor.start()
    assert not processor.is_started
    source.start_gate.set()
    monkeypatch.undo()
    until(started(processor))
    assert processor.is_started


def test_a_stop_that_does_not_end_in_time_is_an_error(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Stuck(Collector):
        def offer(self, result: Result) -> None:
            gate.wait(20)

    monkeypatch.setattr(source, "stop_limit_s", 0.05)
    processor.endpoints.append(Stuck())
    processor.start()
    source.put(1)
    seen(processor, 1)
    with pytest.raises(HardwareError, match="has not stopped"):
        processor.stop()
    assert not processor.is_started
    with pytest.raises(HardwareError, match="its last start or stop has not ended"):
        processor.start()
    gate.set()
    monkeypatch.undo()
    until(started(processor))
    source.put(2)
    seen(processor, 2)
    processor.stop()
    assert (processor.state().message, processor.state().alarm) == ("stopped", False)


def test_the_rate_falls_when_no_pulse_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(service_statistics, "time", SimpleNamespace(monotonic=lambda: now))
    statistics = service_statistics.ServiceStatistics()
    assert statistics.rate_hz == 0.0
    for number in range(100):
        statistics.processed(1.0, now + number / 100)
    now += 1.02  # a little later than the next pulse is due
    assert statistics.rate_hz == pytest.approx(100.0)
    now += 9.97
    assert statistics.rate_hz == pytest.approx(0.1)
    statistics.processed(1.0, now)
    statistics.end()
    assert statistics.rate_hz == 0.0


def test_settings_change_on_a_frame_boundary(processor: Processor, source: ScriptedSource) -> None:
    processor.start()
    source.put(1)
    seen(processor, 1)
    processor.change(roi=(0, 7), background_mode="signed")
    source.put(2)
    first, second = seen(processor, 2)
    assert (first.settings_number, second.settings_number) == (0, 1)
    assert first.spectrum.roi == (0, ROWS)
    assert second.spectrum.roi == second.settings.roi == (0, 7)
    with pytest.raises(ConfigError, match="roi"):
        processor.change(roi=(9, 3), fit="robust")
    assert processor.applied == (1, second.settings)


def test_equal_values_are_no_change_of_settings(processor: Processor) -> None:
    """Else every event of a monitored PV would begin the averages anew."""
    values = {"axis": np.arange(120.0), "background": PICTURE, "background_name": "b"}
    processor.change(**values, roi=(0, 7), background_mode="signed")
    applied = processor.applied
    assert applied[0] == 1
    processor.note("roi", "ROI refused")
    for name, value in {**values, "roi": [0, 7], "background_mode": "signed"}.items():
        processor.change(**{name: value.copy() if isinstance(value, np.ndarray) else value})
    assert processor.applied == applied
    assert processor.notes == {}
    for change in ({"axis": None}, {"background": PICTURE + 1}, {"axis": np.arange(1.0, 121.0)}):
        number = processor.applied[0]
        processor.change(**change)
        assert processor.applied[0] == number + 1


ODD_PICTURES = {
    "no picture": None,
    "one dimension": np.arange(7),
    "text": np.array([["a"]]),
    "no pixels": np.zeros((0, 5), np.uint16),
    "narrow": picture(columns=7),
    "big-endian": PICTURE.astype(">u2"),
    "floats": PICTURE.astype(np.float32),
    "not a number": np.full((4, 60), np.nan),
    "constant": np.full((4, 60), 9, np.uint8),
    "booleans": np.eye(64, dtype=bool),
    "strided": PICTURE[::2, ::3],
    "no array": "picture",
    "signed": -PICTURE.astype(np.int32),
}


def test_no_picture_ends_anything(processor: Processor, source: ScriptedSource) -> None:
    processor.change(
        background=PICTURE // 2, background_name="b", roi=(2, 30), axis=np.arange(120.0)
    )
    processor.start()
    for number, image in enumerate(ODD_PICTURES.values()):
        source.queue.put(make_pulse(number, image, time_ns=None))
    source.put(100)
    results = seen(processor, len(ODD_PICTURES) + 1)
    for result in results:
        found = result.spectrum
        # No NaN without a status.
        assert np.isfinite([found.center, found.fwhm]).all() == found.status.has_values
        assert result.time_ns > 1e18
    assert processor.lost == {"not processed": 1}
    assert results[0].spectrum.status is FitStatus.NO_IMAGE
    assert results[-1].spectrum.status is FitStatus.OK
    assert results[-1].time_ns == TIME_NS


def test_the_traceback_of_a_defect_is_logged_once_until_a_picture_is_good(
    processor: Processor, source: ScriptedSource, caplog: pytest.LogCaptureFixture
) -> None:
    processor.start()
    for number, image in enumerate(("no array", None, "no array", PICTURE, "no array")):
        source.queue.put(make_pulse(number, image))
    seen(processor, 5)
    assert processor.lost == {"not processed": 3}
    assert caplog.text.count("Traceback") == 2


def test_pictures_that_cannot_be_processed_have_an_held_until_one_is_good(
    processor: Processor, source: ScriptedSource
) -> None:
    processor.start()
    source.queue.put(make_pulse(0, "no array"))
    source.queue.put(make_pulse(1, None))
    until(lambda: processor.state().message == NOT_PROCESSED)
    assert processor.state().alarm
    source.queue.put(make_pulse(2, PICTURE))
    until(lambda: processor.state().message != NOT_PROCESSED)


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"background": np.ones((3, 4)), "background_name": "b"}, "WRONG_BACKGROUND", "'b' is not"),
        ({"roi": (1, ROWS + 1)}, "WRONG_ROI", "ROI"),
        ({"axis": np.arange(5.0)}, "NO_AXIS", "axis"),
    ],
)
def test_what_is_not_applied_is_said(
    processor: Processor, source: ScriptedSource, settings: Any, status: str, said: str
) -> None:
    processor.change(**settings)
    processor.start()
    source.put(1)
    (result,) = seen(processor, 1)
    assert result.spectrum.status.name == status
    until(lambda: said in processor.state().message)
    assert processor.state().alarm
    processor.change(background=None, roi=(0, 0), axis=np.arange(120.0))
    source.put(2)
    seen(processor, 2)
    until(lambda: processor.state().message == "processing")
    assert not processor.state().alarm


def test_pulses_without_a_picture_are_said_when_there_is_none_for_long(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "NO_PICTURE_MAX", 3)
    said: list[str] = []
    monkeypatch.setattr(processor, "changed", lambda: said.append(processor.state().message))
    processor.start()
    for pulse_id in range(0, 20, 2):  # a camera at half the rate of the machine
        source.put(pulse_id)
        source.put(pulse_id + 1, image=None)
    seen(processor, 20)
    until(lambda: processor.state().items == 20)
    assert "pulses come without a picture" not in said
    state = processor.state()
    assert state.newest is not None
    assert state.newest.pulse.image is None
    assert (state.shape, state.dtype) == (PICTURE.shape, "uint16")  # of the one before
    source.put(20, 21, 22, image=None)
    until(lambda: processor.state().message == "pulses come without a picture")
    assert processor.state().alarm
    source.put(23)
    until(lambda: processor.state().message == "processing")


def test_why_pictures_cannot_be_used_is_said_as_long_as_they_cannot(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source reports it before each of these pulses; their number says nothing better."""
    monkeypatch.setattr(owner, "NO_PICTURE_MAX", 3)
    processor.start()
    source.report("pulse 1: FPICTURE is no picture: compression 'gzip' is unknown")
    for pulse_id in range(8):
        source.queue.put(replace(make_pulse(pulse_id, None), has_unusable_picture=True))
    seen(processor, 8)
    until(lambda: processor.state().items == 8)
    assert "'gzip' is unknown" in processor.state().message
    source.put(8, 9, 10, 11, image=None)  # none came at all
    until(lambda: processor.state().message == "pulses come without a picture")


def test_a_background_without_a_name_is_one(processor: Processor, source: ScriptedSource) -> None:
    processor.change(background=PICTURE)
    processor.start()
    source.put(1)
    (result,) = seen(processor, 1)
    assert result.spectrum.background_applied
    assert not result.spectrum.spectrum.any()
    processor.change(background=PICTURE[1:], background_mode="none")
    source.put(2)
    assert not seen(processor, 2)[1].spectrum.background_applied
    until(lambda: processor.state().message == "processing")


def test_no_axis_gives_pixels_and_says_so(processor: Processor, source: ScriptedSource) -> None:
    processor.start()
    source.put(1)
    (result,) = seen(processor, 1)
    assert result.spectrum.status is FitStatus.NO_AXIS
    assert result.spectrum.unit.name == "PIXEL"
    assert result.spectrum.center == pytest.approx(60, abs=0.05)
    np.testing.assert_array_equal(result.spectrum.axis, np.arange(120))


def test_a_source_that_raises_and_a_face_that_breaks_end_nothing(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skywright.acquire.operator_message.HOLD_S", 0.0)
    broken = Collector(broken=True)
    processor.endpoints.insert(1, broken)
    processor.start()
    source.queue.put(OSError("gone"))
    source.counts["headless"] = 3
    source.put(1, 2)
    processor_results = lambda: processor.endpoints[2].results  # type: ignore[attr-defined]  # noqa: E731
    until(lambda: len(processor_results()) == 2)
    until(lambda: "the face is broken" in processor.state().message)
    state = processor.state()
    assert state.lost == {"headless": 3}  # pulses, and nothing else
    assert state.failures == {"source failed": 1, "Collector failed": 2}
    broken.broken = False
    source.put(3)
    until(lambda: processor.state().message == "processing")


def test_silence_is_said(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire_owner, "SILENCE_S", 0.05)
    processor.start()
    until(lambda: "no pulse" in processor.state().message)
    assert processor.is_started
    source.put(1)
    until(lambda: processor.state().items == 1)


def test_a_pulse_without_a_picture_ends_the_silence(
    processor: Processor, source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor.start()
    source.put(1)
    until(lambda: processor.state().message == "processing")
    monkeypatch.setattr(acquire_owner, "SILENCE_S", 0.05)
    until(lambda: "no pulse" in processor.state().message)
    monkeypatch.setattr(acquire_owner, "SILENCE_S", 600.0)
    source.put(2, image=None)  # a camera at a fraction of the machine's rate
    until(lambda: (processor.state().message, processor.state().alarm) == ("processing", False))
    source.put(3)
    until(lambda: processor.state().items == 3)
    assert (processor.state().message, processor.state().alarm) == ("processing", False)


def test_who_looks_gets_the_newest(processor: Processor, source: ScriptedSource) -> None:
    feed = processor.subscribe(depth=2)
    processor.start()
    source.put(1, 2, 3, 4)
    seen(processor, 4)
    until(lambda: processor.state().items == 4)
    got = [feed.get(1.0), feed.get(1.0), feed.get(0.0)]
    assert [result and result.pulse.pulse_id for result in got] == [3, 4, None]
    assert feed.dropped == 2
    feed.close()
    source.put(5)
    until(lambda: processor.state().items == 5)
    assert feed.get(0.0) is None
