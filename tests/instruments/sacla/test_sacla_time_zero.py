"""Time zero from the points of a delay scan, and the curve of a scan against the truth."""

import numpy as np
import pytest

from skywright.errors import DataError
from skywright.instruments.sacla.demos.curve import Scan, chi2_per_dof
from skywright.instruments.sacla.frames import SharedFrames
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.time_zero import fit_time_zero, step
from skywright.instruments.sacla.twin import Beamline, TwinSettings
from skywright.instruments.sacla.values import parse_value

DELAY = np.linspace(-1.0, 1.0, 21)


def points(seed: int, middle: float = 0.13, error: float = 0.01) -> tuple[np.ndarray, ...]:
    noise = np.random.default_rng(seed).normal(0.0, error, len(DELAY))
    return DELAY, step(DELAY, middle, 0.2, 0.2, 0.0) + noise, np.full(len(DELAY), error)


def test_time_zero_and_its_error_over_many_scans() -> None:
    found = [fit_time_zero("uid", *points(seed)) for seed in range(200)]
    pulls = np.array([(each.delay_ps - 0.13) / each.delay_error_ps for each in found])
    # The mean of 200 pulls has an error of 0.07, their spread one of 0.05.
    assert abs(pulls.mean()) < 0.3
    assert 0.8 < pulls.std() < 1.2
    assert np.mean([each.chi2_per_dof for each in found]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([each.height for each in found]) == pytest.approx(0.2, abs=0.005)
    pulls = np.array([(each.width_ps - 0.2) / each.width_error_ps for each in found])
    assert abs(np.median(pulls)) < 0.3


@pytest.mark.parametrize("middle", [-0.85, 0.05, 0.85])
@pytest.mark.parametrize("width", [0.03, 0.2])
def test_sharp_steps_and_steps_near_an_end_are_found(middle: float, width: float) -> None:
    """A point every 0.1 ps: of a sharp step one point lies in the rise."""
    error = np.full(len(DELAY), 0.01)
    value = step(DELAY, middle + 0.01, width, 1.0, 0.5)
    found = fit_time_zero("uid", DELAY, value, error)
    assert found.delay_ps == pytest.approx(middle + 0.01, abs=3 * found.delay_error_ps)
    assert found.delay_error_ps < 0.05
    if width == 0.2:
        assert found.width_ps == pytest.approx(width, abs=0.01)
    else:
        assert found.width_ps < 0.1


def test_points_count_by_their_errors_when_a_step_is_told_from_noise() -> None:
    """The last points are high, and known to less than that."""
    delay, value, error = points(1)
    value = value - step(delay, 0.13, 0.2, 0.2, 0.0)
    value[-3:], error[-3:] = 0.6, 0.5
    with pytest.raises(DataError, match="no step above the noise"):
        fit_time_zero("uid", delay, value, error)


def test_a_fit_that_does_not_settle_is_no_time_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr("skywright.instruments.sacla.time_zero.curve_fit", give_up)
    with pytest.raises(DataError, match=r"no step fits the points \(Optimal parameters"):
        fit_time_zero("uid", *points(1))


def test_five_points_are_enough_and_those_without_a_delay_do_not_count() -> None:
    delay = np.array([-1.0, -0.5, 0.0, np.nan, 0.5, 1.0])
    value, error = step(delay, 0.1, 0.2, 1.0, 0.0), np.full(6, 0.01)
    value[3] = 0.4
    found = fit_time_zero("uid", delay, value, error)
    assert found.delay_ps == pytest.approx(0.1, abs=5 * found.delay_error_ps)


def test_the_errors_of_the_fit_are_those_of_the_points() -> None:
    delay, value, error = points(1)
    one, two = (fit_time_zero("uid", delay, value, factor * error) for factor in (1.0, 2.0))
    assert two.delay_ps == pytest.approx(one.delay_ps, abs=1e-3)
    for name in ("delay_error_ps", "width_error_ps", "height_error"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name), rel=1e-2)
    assert two.chi2_per_dof == pytest.approx(one.chi2_per_dof / 4, rel=1e-2)


def test_a_step_is_clear_if_noise_looks_like_it_in_less_than_a_thousandth_of_scans() -> None:
    """A step has three parameters more than no step, and 16.27 is the limit of chi2 for these."""
    value = step(DELAY, 0.0, 0.2, 1.0, 0.0)
    spread = ((value - value.mean()) ** 2).sum()
    error = np.full(len(DELAY), np.sqrt(spread / 16.3))
    assert fit_time_zero("uid", DELAY, value, error).height == pytest.approx(1.0, abs=0.01)
    with pytest.raises(DataError, match="no step above the noise"):
        fit_time_zero("uid", DELAY, value, np.sqrt(16.3 / 16.2) * error)


def test_a_step_down_and_missing_points() -> None:
    delay, value, error = points(1)
    value[4], error[7] = np.nan, 0.0
    found = fit_time_zero("uid", delay[::-1], -value[::-1], error[::-1])
    assert found.height == pytest.approx(-0.2, abs=0.03)
    assert abs(found.delay_ps - 0.13) < 5 * found.delay_error_ps


def test_noise_alone_has_no_time_zero() -> None:
    refused = 0
    for seed in range(100):
        delay, value, error = points(seed)
        try:
            fit_time_zero("uid", delay, value - step(delay, 0.13, 0.2, 0.2, 0.0), error)
        except DataError:
            refused += 1
    assert refused >= 97  # the chance of each is 0.001; the fit finds the best of many steps


def test_a_clear_step_with_few_points_is_found_however_slow_its_rise() -> None:
    delay, error = np.linspace(-0.9, 0.9, 7), np.full(7, 0.03)
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0.0, 0.03, 7)
        fit_time_zero("uid", delay, step(delay, 0.0, 0.6, 0.25, 0.0) + noise, error)


def test_a_step_without_a_point_in_its_rise_is_between_its_two_points() -> None:
    delay, error = np.linspace(-0.8, 1.0, 5), np.full(5, 0.01)
    found = fit_time_zero("uid", delay, step(delay, -0.2, 0.03, 0.2, 1.0), error)
    assert found.delay_ps == pytest.approx((-0.35 + 0.1) / 2)
    assert found.delay_error_ps == pytest.approx(0.45 / np.sqrt(12))


def test_too_few_points_are_refused() -> None:
    delay, value, error = (each[:4] for each in points(1))
    with pytest.raises(DataError, match="4 points"):
        fit_time_zero("uid", delay, value, error)


def scan(seed: int, shots: int) -> Scan:
    """Analyze simulated shots of all delays; the images of no two shots share their noise."""
    settings = TwinSettings(shape=(48, 32), pool=shots, photons_per_px=0.05, beam_off=0.0)
    beamline = Beamline(settings, seed)
    (name,) = settings.detectors
    region = parse_region(f"all:{name}:-1,-1;40,-1;40,60;-1,60")
    edges = np.linspace(-2.0, 3.0, 41)
    frames = SharedFrames({name: settings.shape}, 8)
    pipeline = ShotPipeline(beamline.info, [region], edges, 120, frames)
    try:
        for number in range(shots):
            for _, record in beamline.shot(number):
                if record.channel != name:
                    record = type(record)(
                        record.channel, record.tag, record.run, parse_value(str(record.payload))
                    )
                pipeline.add(record)
        pipeline.finish()
        curves, rows = pipeline.curves.result(), pipeline.all_rows()
    finally:
        pipeline.close()
        frames.unlink()
    return Scan(
        edges,
        *(curves[key][0] for key in ("on_n", "off_n", "off_mean", "diff", "diff_sem")),
        delay=rows["scanned"],
        laser_on=rows["laser_on"],
        i0=rows["i0"],
        sums=rows["sum_ev"][:, 0],
        images={},
        effect=settings.effect,
        width_ps=settings.width_ps,
    )


def test_the_curve_of_a_scan_agrees_with_the_truth() -> None:
    found = [chi2_per_dof(scan(seed, 1200)) for seed in range(2)]
    assert all(bins == 40 for _, bins in found)
    # 80 bins: the mean of chi2 per degree of freedom has an error of sqrt(2 / 80) = 0.16.
    assert np.mean([chi2 for chi2, _ in found]) == pytest.approx(1.0, abs=0.65)


@pytest.mark.accuracy
def test_the_curves_of_twenty_scans_agree_with_the_truth() -> None:
    found = [chi2_per_dof(scan(seed, 3200)) for seed in range(100, 120)]
    # 800 bins: an error of 0.05. About 40 shots a side and bin make it 1.05, not 1: an error that
    # is estimated from n shots is itself uncertain (Student's t).
    mean = float(np.mean([chi2 for chi2, _ in found]))
    print(f"chi2 per degree of freedom, mean over 20 seeds: {mean:.3f}")
    assert 0.9 <= mean <= 1.1
