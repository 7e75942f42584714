"""The plans of the spectrometer, with devices that are no hardware."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import grid_scan
from bluesky.utils import RunEngineInterrupted
from ophyd import Signal, SoftPositioner
from ophyd.sim import NullStatus, SynAxis
from support.documents import Documents
from support.fake_rows import FakeRows
from support.pausing import is_event, is_later_report, pause_once

from plans.psss.search import Measured, Search, Verdict, propose
from plans.psss.spectrum import (
    acquire_spectra,
    calibrate_energy_axis,
    optimize_spectrum,
    record_pulses,
    scan_spectra,
    take_background,
)
from skywright.errors import ConfigError, DataError, HardwareError


class FakeStream(FakeRows):
    """The rows of pulses or pictures; as a flyer, three pulses come between two reports."""

    def __init__(self, device: "FakePsss", kind: str) -> None:
        super().__init__(f"fake_{kind}", (4,))
        self.device = device
        self.wanted = 0

    def prepare(self, pulses: int) -> NullStatus:
        self.wanted = pulses
        return NullStatus()

    def kickoff(self) -> NullStatus:
        self.device.calls.append("kickoff")
        return super().kickoff()

    def complete(self) -> NullStatus:
        self.device.calls.append("complete")
        return super().complete()

    def arrive(self) -> None:
        self.device.trouble()
        self.rows = min(self.rows + 3, self.wanted or 10**9)


class FakePart:
    """Movable and Readable; keeps what it was set to."""

    parent = None

    def __init__(self, name: str, value: Any, calls: list[str]) -> None:
        self.name, self.value, self.calls = name, value, calls
        self.fails = False

    def set(self, value: Any) -> NullStatus:
        if self.fails:
            raise HardwareError(f"{self.name}: no")
        self.calls.append(f"{self.name}={value}")
        self.value = value
        return NullStatus()

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self.value, "timestamp": 0.0}}

    def describe(self) -> dict[str, Any]:
        shape = [len(self.value)] if isinstance(self.value, list | tuple) else []
        return {
            self.name: {"source": "sim", "dtype": "array" if shape else "number", "shape": shape}
        }


class FakePsss:
    """A spectrometer by protocol only; what it sees is a function of a motor."""

    parent = None
    name = "fake"

    def __init__(self, seen: Callable[[], tuple[float, float, float]] | None = None) -> None:
        self.calls: list[str] = []
        self.seen = seen or (lambda: (9000.0, 12.0, 1e6))
        self.rng = np.random.default_rng(1)
        self.noise = 0.02
        self.trouble: Callable[[], None] = lambda: None
        self.pulses, self.pictures = FakeStream(self, "pulses"), FakeStream(self, "pictures")
        self.pulses_per_point = Signal(name="fake_pulses_per_point", value=1)
        self.record_pictures = Signal(name="fake_record_pictures", value=0)
        self.processing = FakePart("fake_processing", 0, self.calls)
        self.energy_axis = FakePart("fake_energy_axis", [8980.0, 0.1], self.calls)
        self.background_recorder = FakePart("fake_background", 0, self.calls)
        self.values: dict[str, float] = {}

    def stage(self) -> list[Any]:
        self.calls.append("stage")
        return [self]

    def unstage(self) -> list[Any]:
        self.calls.append("unstage")
        return [self]

    def trigger(self) -> NullStatus:
        n = int(self.pulses_per_point.get())
        self.pulses.rows += n
        center, fwhm, intensity = self.seen()
        self.values = {"fake_n_good": n if math.isfinite(center) else 0}
        for name, value in (("center", center), ("fwhm", fwhm), ("intensity", intensity)):
            pulses = value * (1.0 + self.noise * self.rng.standard_normal(max(n, 2)))
            self.values[f"fake_mean_{name}"] = float(pulses.mean())
            self.values[f"fake_{name}_scatter"] = float(pulses.std(ddof=1))
        return NullStatus()

    def read(self) -> dict[str, Any]:
        return {key: {"value": value, "timestamp": 0.0} for key, value in self.values.items()}

    def describe(self) -> dict[str, Any]:
        key = {"source": "sim", "dtype": "number", "shape": []}
        names = ("center", "fwhm", "intensity")
        means = {f"fake_mean_{name}": key for name in names}
        return {"fake_n_good": key, **means, **{f"fake_{name}_scatter": key for name in names}}


def run(RE: RunEngine, plan: Any) -> tuple[Any, Documents]:
    documents: Documents = []
    result: Any = RE(plan, lambda *pair: documents.append(pair))
    return result.plan_result, documents


# ---- acquire


def test_acquire_a_number_of_pulses(RE: RunEngine) -> None:
    psss = FakePsss()
    uid, documents = run(RE, acquire_spectra(psss, 7, md={"sample": "s1"}))
    start, stop = documents[0][1], documents[-1][1]
    assert (uid, start["sample"]) == (start["uid"], "s1")
    assert start["plan_args"] == {"psss": "fake", "n": 7}
    assert stop["num_events"] == {"primary": 7}
    assert psss.pulses.wanted == 7
    assert psss.calls == ["stage", "kickoff", "complete", "unstage"]


def test_acquire_for_a_time(RE: RunEngine) -> None:
    psss = FakePsss()
    _, documents = run(RE, acquire_spectra(psss, seconds=0.6))
    assert documents[0][1]["plan_args"] == {"psss": "fake", "seconds": 0.6}
    assert documents[-1][1]["num_events"] == {"primary": 9}
    assert psss.pulses.wanted == 0


def test_acquisition_goes_on_after_a_pause(RE: RunEngine) -> None:
    psss = FakePsss()
    pause_once(RE, is_later_report)
    with pytest.raises(RunEngineInterrupted):
        RE(acquire_spectra(psss, 15))
    result: Any = RE.resume()
    assert result.exit_status == "success"
    assert psss.pulses.told == 15
    assert psss.calls == ["stage", "kickoff", "complete", "unstage"]


def test_trouble_ends_the_run_with_its_reason(RE: RunEngine) -> None:
    psss = FakePsss()

    def trouble() -> None:
        raise HardwareError("fake: no pulse for 4 s")

    psss.trouble = trouble
    documents: Documents = []
    with pytest.raises(HardwareError, match="no pulse for 4 s"):
        RE(acquire_spectra(psss, 7), lambda *pair: documents.append(pair))
    assert documents[-1][1]["exit_status"] == "fail"
    assert "no pulse for 4 s" in documents[-1][1]["reason"]
    assert psss.calls[-1] == "unstage"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either n"),
        ({"n": 3, "seconds": 1.0}, "either n"),
        ({"n": 0}, "n = 0, expected a whole number"),
        ({"n": True}, "n = True"),
        ({"n": 2.5}, "n = 2.5"),
        ({"seconds": 0}, "seconds = 0, expected a finite number above 0"),
        ({"seconds": math.nan}, "seconds = nan"),
        ({"seconds": 1e6}, "at most 86400"),
    ],
)
def test_acquire_checks_before_it_starts(arguments: dict[str, Any], words: str) -> None:
    psss = FakePsss()
    with pytest.raises(ConfigError, match=words):
        list(acquire_spectra(psss, **arguments))
    assert psss.calls == []


def test_a_wrong_second_device_is_refused_by_name() -> None:
    psss = FakePsss()
    lines = [9000.0, 9010.0]
    for plan, argument in (
        (scan_spectra(psss, psss, 0.0, 1.0, 3), "motor"),
        (optimize_spectrum(psss, psss, 0.0, 1.0), "motor"),
        (calibrate_energy_axis(psss, lines, monochromator=psss), "monochromator"),
    ):
        name = plan.__name__
        words = f"{name}: {argument} = fake, expected a motor: it is not Movable"
        with pytest.raises(TypeError, match=words):
            next(plan)
    assert psss.calls == []


# ---- background


def test_background_closes_and_opens_the_shutter(RE: RunEngine) -> None:
    psss = FakePsss()
    shutter = FakePart("shutter", 1, psss.calls)
    background, documents = run(RE, take_background(psss, 30, shutter=shutter, settle_s=0.0))
    assert psss.calls == [
        *("shutter=0", "fake_processing=1", "fake_background=30"),
        *("fake_background=0", "fake_processing=0", "shutter=1"),
    ]
    assert (background.pulses, background.uid) == (30, documents[0][1]["uid"])


def test_background_that_fails_leaves_all_as_it_was(RE: RunEngine) -> None:
    psss = FakePsss()
    shutter = FakePart("shutter", 1, psss.calls)
    psss.background_recorder.fails = True
    with pytest.raises(HardwareError, match="fake_background: no"):
        run(RE, take_background(psss, 30, shutter=shutter, settle_s=0.0))
    assert (shutter.value, psss.processing.value) == (1, 0)
    with pytest.raises(ConfigError, match="n = 20000"):
        list(take_background(psss, 20_000))
    with pytest.raises(TypeError, match="take_background: shutter = 3, expected a shutter"):
        list(take_background(psss, 20, shutter=3))


# ---- scan


def test_the_shutter_opens_when_the_spectrometer_is_gone(RE: RunEngine) -> None:
    psss = FakePsss()
    shutter = FakePart("shutter", 1, psss.calls)

    def gone(pulses: int) -> NullStatus:
        psss.processing.fails = True
        raise HardwareError("fake_background: no")

    psss.background_recorder.set = gone  # type: ignore[method-assign]
    with pytest.raises(HardwareError, match="fake_processing: no"):
        run(RE, take_background(psss, 30, shutter=shutter, settle_s=0.0))
    assert shutter.value == 1


def test_scan_has_an_event_a_position_and_a_row_a_pulse(RE: RunEngine) -> None:
    psss, motor = FakePsss(), SynAxis(name="motor")
    uid, documents = run(RE, scan_spectra(psss, motor, -1.0, 1.0, 5, pulses=4))
    start, stop = documents[0][1], documents[-1][1]
    assert (uid, start["motors"], start["num_points"]) == (start["uid"], ["motor"], 5)
    assert start["hints"]["dimensions"] == [[["motor"], "primary"]]  # what plots are drawn against
    assert stop["num_events"] == {"primary": 5, "pulses": 20}
    places = [doc["data"]["motor"] for name, doc in documents if name == "event"]
    assert places == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert psss.pulses_per_point.get() == 1


@pytest.mark.parametrize(
    "change", [{"num": 0}, {"start": math.inf}, {"stop": "2"}, {"pulses": 0}, {"num": 1.5}]
)
def test_scan_checks_before_it_moves(change: dict[str, Any]) -> None:
    motor = FakePart("motor", 0.0, [])
    arguments: dict[str, Any] = {"start": 0.0, "stop": 1.0, "num": 3, **change}
    with pytest.raises(ConfigError, match=f"scan_spectra: {next(iter(change))} = "):
        list(scan_spectra(FakePsss(), motor, **arguments))
    assert motor.calls == []


@pytest.mark.parametrize(
    "plan",
    [
        lambda psss, motor: scan_spectra(psss, motor, 9000.0, 9200.0, 3),
        lambda psss, motor: optimize_spectrum(psss, motor, 9000.0, 9200.0),
        lambda psss, motor: calibrate_energy_axis(psss, [9000.0, 9200.0], monochromator=motor),
    ],
    ids=["scan_spectra", "optimize_spectrum", "calibrate_energy_axis"],
)
def test_positions_beyond_the_limits_are_refused_before_a_run_opens(
    plan: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    motor = SoftPositioner(name="stage", limits=(8900.0, 9100.0), init_pos=9000.0)
    name = request.node.callspec.id
    with pytest.raises(
        ConfigError, match=f"{name}: stage cannot move to 9200: .*not within limits"
    ):
        next(plan(FakePsss(), motor))


def test_plans_of_bluesky_tell_of_the_pulses_too(RE: RunEngine) -> None:
    psss, motor = FakePsss(), SynAxis(name="motor")
    psss.pulses_per_point.put(3)
    plan = record_pulses(grid_scan([psss], motor, 0.0, 1.0, 4), psss)
    uid, documents = run(RE, plan)
    assert uid == documents[0][1]["uid"]
    assert documents[-1][1]["num_events"] == {"primary": 4, "pulses": 12}


# ---- calibration


def test_axis_from_known_lines(RE: RunEngine) -> None:
    psss = FakePsss()
    found, documents = run(RE, calibrate_energy_axis(psss, [8990.0, 9010.0], [100, 300]))
    assert found.coefficients == pytest.approx((8980.0, 0.1))
    assert psss.energy_axis.value == pytest.approx((8980.0, 0.1))
    assert found.rms_ev == 0.0
    (event,) = (doc for name, doc in documents if name == "event")
    assert event["data"]["fake_energy_axis"] == pytest.approx((8980.0, 0.1))
    assert found.uid == documents[0][1]["uid"]


def test_axis_by_a_monochromator(RE: RunEngine) -> None:
    mono = SynAxis(name="mono", value=8995.0)
    psss = FakePsss(lambda: ((mono.position - 8970.0) / 0.05, 3.0, 1e6))
    psss.noise = 1e-5
    energies = [8980.0, 8990.0, 9000.0, 9010.0]
    found, documents = run(RE, calibrate_energy_axis(psss, energies, monochromator=mono))
    assert found.coefficients == pytest.approx((8970.0, 0.05), rel=1e-4)
    assert found.rms_ev < 0.01
    assert "fake_energy_axis=()" in psss.calls  # measured in pixels
    assert psss.energy_axis.value == found.coefficients
    assert mono.position == 8995.0
    assert documents[-1][1]["num_events"]["primary"] == 4


def test_axis_by_energies_so_close_that_two_centers_are_out_of_order(RE: RunEngine) -> None:
    mono = SynAxis(name="mono", value=8995.0)
    energies = np.linspace(8980.0, 9010.0, 31).tolist()  # 2 px apart
    jitter = dict(zip(energies, [0.0, 3.0, 0.0] * 11, strict=False))
    psss = FakePsss(lambda: ((mono.position - 8970.0) * 2.0 + jitter[mono.position], 3.0, 1e6))
    psss.noise = 0.0
    found, _ = run(RE, calibrate_energy_axis(psss, energies, monochromator=mono))
    assert found.coefficients[1] == pytest.approx(0.5, rel=0.01)
    assert found.rms_ev < 1.0


def test_axis_is_kept_when_no_spectrum_is_found(RE: RunEngine) -> None:
    mono = SynAxis(name="mono", value=8995.0)
    psss = FakePsss(lambda: (math.nan, math.nan, math.nan))
    with pytest.raises(DataError, match="only 0 energies gave a spectrum"):
        run(RE, calibrate_energy_axis(psss, [8990.0, 9000.0], monochromator=mono))
    assert list(psss.energy_axis.value) == [8980.0, 0.1]
    assert mono.position == 8995.0
    assert psss.pulses_per_point.get() == 1


def test_axis_is_kept_when_the_spectrum_does_not_follow_the_monochromator(RE: RunEngine) -> None:
    mono = SynAxis(name="mono", value=8995.0)
    places = iter([300.0, 302.0, 299.0, 301.0])  # noise around one place
    psss = FakePsss(lambda: (next(places), 3.0, 1e6))
    psss.noise = 0.0
    energies = [8980.0, 8990.0, 9000.0, 9010.0]
    with pytest.raises(DataError, match=r"8990 eV at 302\.0, .*does the monochromator move"):
        run(RE, calibrate_energy_axis(psss, energies, monochromator=mono))
    assert list(psss.energy_axis.value) == [8980.0, 0.1]
    assert mono.position == 8995.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"energies_ev": [9000.0, 9010.0]}, "either columns"),
        ({"energies_ev": [9000.0], "columns": [1]}, "at least 2 different"),
        ({"energies_ev": [9000.0, 9000.0], "columns": [1, 2]}, "at least 2 different"),
        ({"energies_ev": [9000.0, 9010.0], "columns": [1]}, "expected 2 different"),
        ({"energies_ev": [9000.0, 9010.0], "columns": [1, 1]}, "expected 2 different"),
        ({"energies_ev": [9e3, 9010.0, 8990.0], "columns": [1, 90, 50]}, "rise, or fall, with the"),
        ({"energies_ev": [9000.0, -1.0], "columns": [1, 2]}, "energies_ev = -1.0"),
        ({"energies_ev": [8.99, 9.01], "columns": [1, 2]}, "energies_ev = 8.99.*above 100"),
        ({"energies_ev": [9000.0, 9010.0], "columns": [1, 2], "degree": 4}, "degree = 4"),
    ],
)
def test_calibration_checks_before_it_starts(arguments: dict[str, Any], words: str) -> None:
    psss = FakePsss()
    with pytest.raises(ConfigError, match=words):
        list(calibrate_energy_axis(psss, **arguments))
    assert psss.calls == []


# ---- optimization


def test_narrowest_is_found_and_the_motor_stands_there(RE: RunEngine) -> None:
    motor = SynAxis(name="motor", value=0.5)
    psss = FakePsss(lambda: (9000.0, math.hypot(8.0, 3.0 * (motor.position - 1.3)), 1e6))
    plan = optimize_spectrum(psss, motor, -2.0, 4.0, pulses=50, tolerance=0.1)
    found, documents = run(RE, plan)
    assert (found.ok, found.why) == (True, "")
    assert found.position == pytest.approx(1.3, abs=0.3)
    assert found.position_sigma <= 0.1
    assert found.value == pytest.approx(8.0, abs=3 * found.value_sigma + 0.05)
    assert motor.position == found.position
    assert found.value == psss.values["fake_mean_fwhm"]
    assert found.value_sigma == pytest.approx(psss.values["fake_fwhm_scatter"] / math.sqrt(50))
    assert documents[-1][1]["num_events"]["primary"] == found.points + 1
    assert psss.pulses_per_point.get() == 1
    assert found.uid == documents[0][1]["uid"]


def test_brightest_is_found(RE: RunEngine) -> None:
    motor = SynAxis(name="motor")
    psss = FakePsss(lambda: (9000.0, 12.0, 1e6 * math.exp(-0.5 * (motor.position / 2 + 0.4) ** 2)))
    plan = optimize_spectrum(psss, motor, -4.0, 3.0, objective="intensity", pulses=50)
    found, _ = run(RE, plan)
    assert found.ok
    assert found.position == pytest.approx(-0.8, abs=0.4)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (lambda x: (9000.0, 12.0, 1e6), "no optimum to be seen"),
        (lambda x: (9000.0, 12.0 + x, 1e6), "the best point is at the lower limit, -2"),
        (lambda x: (9000.0, 12.0 - x, 1e6), "the best point is at the upper limit, 4"),
        (lambda x: (math.nan,) * 3, "only 0 of 7 points have spectra"),
    ],
)
def test_it_says_why_there_is_no_optimum_and_goes_back(
    RE: RunEngine, seen: Callable[[float], Any], why: str
) -> None:
    motor = SynAxis(name="motor", value=0.5)
    found, documents = run(
        RE, optimize_spectrum(FakePsss(lambda: seen(motor.position)), motor, -2.0, 4.0)
    )
    assert not found.ok
    assert why in found.why
    assert motor.position == 0.5
    assert documents[-1][1]["exit_status"] == "success"


def test_the_value_of_one_good_pulse_does_not_count(RE: RunEngine) -> None:
    class OneGood(FakePsss):
        def trigger(self) -> NullStatus:
            status = super().trigger()
            self.values["fake_n_good"] = 1
            return status

    motor = SynAxis(name="motor", value=0.5)
    psss = OneGood(lambda: (9000.0, 8.0 + motor.position**2, 1e6))
    found, _ = run(RE, optimize_spectrum(psss, motor, -2.0, 4.0))
    assert "only 0 of 7 points have spectra" in found.why


def test_abort_brings_the_motor_back(RE: RunEngine) -> None:
    motor, psss = SynAxis(name="motor", value=0.5), FakePsss()
    pause_once(RE, is_event(3))
    with pytest.raises(RunEngineInterrupted):
        RE(optimize_spectrum(psss, motor, -2.0, 4.0))
    RE.abort("enough")
    assert motor.position == 0.5
    assert psss.pulses_per_point.get() == 1
    assert psss.calls[-1] == "unstage"


@pytest.mark.parametrize(
    "change",
    [{"low": 4.0}, {"objective": "color"}, {"num": 4}, {"tolerance": 0.0}, {"max_points": 3}],
)
def test_optimization_checks_before_it_moves(change: dict[str, Any]) -> None:
    motor = FakePart("motor", 0.0, [])
    arguments: dict[str, Any] = {"low": -2.0, "high": 4.0, **change}
    with pytest.raises(ConfigError, match=f"optimize_spectrum: {next(iter(change))} = "):
        list(optimize_spectrum(FakePsss(), motor, **arguments))
    assert motor.calls == []


def test_search_never_leaves_its_limits_and_ends() -> None:
    """Of 300 curves, with any noise: it ends in time, and where it is sure it is right."""
    rng = np.random.default_rng(2)
    pulls = []
    for _ in range(300):
        best, width = rng.uniform(-3.0, 3.0), rng.uniform(0.5, 4.0)
        noise = 10.0 ** rng.uniform(-4, -0.5)
        search = Search(-2.0, 2.0, 7, 0.05, 25, maximum=bool(rng.integers(2)))
        sign = 1.0 if search.maximum else -1.0
        seen: list[Measured] = []
        while not isinstance(step := propose(search, seen), Verdict):
            assert search.low <= step <= search.high
            assert len(seen) < search.max_points
            height = sign * math.exp(-0.5 * ((step - best) / width) ** 2)
            seen.append(Measured(step, height + noise * rng.standard_normal(), noise))
        if not step.why:
            assert step.sigma <= search.tolerance
            pulls.append(step.position - best)
    assert len(pulls) > 60
    assert np.mean(np.abs(pulls) < 4 * 0.05) > 0.95


SEARCH = Search(-3.0, 3.0, 7, 0.05, 10, maximum=False)


def seen_at(values: dict[float, float], sigma: float = 1e-6) -> list[Measured]:
    """The values at the grid of `SEARCH`, 9 where none is given, and at further positions."""
    grid = {float(place): 9.0 for place in range(-3, 4)}
    return [Measured(place, value, sigma) for place, value in {**grid, **values}.items()]


def parabola(vertex: float, *more: float) -> dict[float, float]:
    return {place: (place - vertex) ** 2 for place in (*map(float, range(-3, 4)), *more)}


def test_after_the_grid_come_the_vertex_and_both_sides_of_it() -> None:
    wide = Search(-3.0, 3.0, 7, 1e-9, 10, maximum=False)  # never known well enough
    values = parabola(0.35)  # no step falls on a point of the grid
    for expected in (0.35, 0.35 + 0.7, 0.35 - 0.7):
        step = propose(wide, seen_at(values))
        assert step == pytest.approx(expected)
        assert isinstance(step, float)
        values[step] = (step - 0.35) ** 2


def test_an_optimum_at_the_second_point_of_the_grid_is_no_optimum_at_the_limit() -> None:
    for vertex in (-2.0, 2.0):
        assert propose(SEARCH, seen_at(parabola(vertex))) == pytest.approx(vertex)
        found = propose(SEARCH, seen_at(parabola(vertex, vertex + 0.01)))
        assert isinstance(found, Verdict)
        assert (found.position, found.why) == (pytest.approx(vertex), "")


def test_points_that_are_far_from_the_best_one_do_not_shape_the_parabola() -> None:
    near = {-1.0: 1.3**2, 0.0: 0.3**2, 1.0: 0.7**2}
    assert propose(SEARCH, seen_at({**near, 3.0: 99.0, -2.0: 2.0})) == pytest.approx(0.3)


def test_a_vertex_that_still_moves_is_not_found() -> None:
    values = {-1.0: 1.0, 0.0: 0.0, 1.0: 0.1, 2.0: math.nan}  # vertex at 0.41
    moved = propose(SEARCH, seen_at({**values, 0.6: -0.5}))  # at 0.48
    assert isinstance(moved, float)


@pytest.mark.parametrize(("sigma", "extra"), [(1.0, {}), (1e-6, {0.1: 0.4, 0.2: -0.3, -0.1: -0.4})])
def test_errors_of_values_and_their_scatter_both_keep_a_vertex_from_being_known(
    sigma: float, extra: dict[float, float]
) -> None:
    values = {place: 2.0 * value for place, value in parabola(0.0, *extra).items()}
    values |= {place: values[place] + more for place, more in extra.items()}
    seen = seen_at(values, sigma)
    found = propose(Search(-3.0, 3.0, 7, 0.05, len(seen), maximum=False), seen)
    assert isinstance(found, Verdict)
    assert "points the best position is known to" in found.why
    assert found.sigma > 0.05


@pytest.mark.parametrize(("vertex", "more"), [(0.0, (0.0, 0.7, -0.7)), (0.4, ())])
def test_the_sigma_of_a_position_is_the_spread_of_positions(
    vertex: float, more: tuple[float, ...]
) -> None:
    found = []
    places = [*map(float, range(-3, 4)), *more]
    search = Search(-3.0, 3.0, 7, 1e-9, len(places), maximum=False)
    for seed in range(300):
        noise = np.random.default_rng(seed).normal(0.0, 0.05, len(places))
        seen = [
            Measured(place, (place - vertex) ** 2 + error, 0.05)
            for place, error in zip(places, noise.tolist(), strict=True)
        ]
        step = propose(search, seen)
        assert isinstance(step, Verdict)
        found.append(step)
    # The spread of 300 is known to 4 %; residuals larger than the errors add some to sigma.
    spread = np.std([each.position for each in found])
    assert np.median([each.sigma for each in found]) == pytest.approx(spread, rel=0.15)


def test_a_best_point_without_neighbors_gets_some_and_is_no_vertex() -> None:
    """The values beside it have no good fit."""
    alone = {-1.0: math.nan, 0.0: 0.0, 1.0: math.nan}
    assert propose(SEARCH, seen_at(alone)) == pytest.approx(0.7)
    assert propose(SEARCH, seen_at({**alone, 0.7: 5.0})) == pytest.approx(-0.7)
    # They bend down, or have their vertex beyond all points: nobody has seen that side.
    for values in ((5.0, 6.0), (2.0, 4.5)):
        one_side = {**alone, 0.7: values[0], 1.2: values[1]}
        assert propose(SEARCH, seen_at(one_side)) == pytest.approx(0.7)
        end = propose(SEARCH, seen_at({**one_side, -0.7: math.nan}))
        assert isinstance(end, Verdict)
        assert math.isnan(end.position)
        assert "do not fall off to both sides, after 10 points" in end.why


def test_a_point_beside_which_values_are_seen_on_one_side_alone_is_not_the_best() -> None:
    values = {-1.0: math.nan, 0.0: 0.0, 0.5: 1.0, 0.9: 2.1, 1.0: math.nan, 1.2: 3.1}
    found = propose(SEARCH, seen_at(values))
    assert isinstance(found, Verdict)
    assert "do not fall off to both sides" in found.why


def test_three_points_are_too_few() -> None:
    values = {float(place): math.nan for place in (-3, -2, 2, 3)}
    found = propose(SEARCH, seen_at({**values, 0.0: 1.0}))
    assert isinstance(found, Verdict)
    assert found.why == "only 3 of 7 points have spectra with a good fit"


def test_queue_server_accepts_the_plans() -> None:
    from bluesky_queueserver.manager.profile_ops import existing_plans_and_devices_from_nspace

    nspace = {
        plan.__name__: plan
        for plan in (
            *(acquire_spectra, take_background, calibrate_energy_axis),
            *(scan_spectra, optimize_spectrum),
        )
    }
    plans, *_ = existing_plans_and_devices_from_nspace(nspace=nspace)
    assert plans.keys() == nspace.keys()
    for plan in plans.values():
        assert plan["parameters"][0]["convert_device_names"] is True
