"""Any order, repetition and assignment of whole blocks gives the same bits: live, batch, Dask."""

import pickle
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from pulse_spectra import Detector, energy_axis, gaussian, sase
from support.psss_scripted import PICTURE, make_pulse

from devices.psss.columns import summarize_point
from skywright.acquire.counters import Counters
from skywright.analysis import Batch, whole_blocks
from skywright.analysis.blocks import analyze_part
from skywright.analysis.frames import FileRows, FrameTable, KeyRows
from skywright.analysis.named import make_analysis
from skywright.callbacks.raw_run import RequiredKeys
from skywright.errors import ConfigError, DataError
from skywright.files.columns import Column, ColumnReader, ColumnWriter
from skywright.instruments.psss import layouts
from skywright.instruments.psss.analysis import GOOD, PictureSpectra, SpectrumStatistics
from skywright.instruments.psss.background import History, uploaded
from skywright.instruments.psss.processing import FitStatus, Settings, process
from skywright.instruments.psss.processor import process_pulse
from skywright.instruments.psss.statistics import above_baseline, pulse_length_fs

COLUMNS, ROWS, PULSES = 320, 24, 60
X = energy_axis(COLUMNS)
FIRST_ID = 20_000_000_090
DETECTOR = Detector(rows=ROWS, profile_sigma=5.0)
PARAMETERS = {"columns": COLUMNS, "rows": ROWS, "axis": [float(X[0]), float(X[1] - X[0])]}


class Spectra(SpectrumStatistics):
    block_size = 8


@lru_cache(maxsize=1)
def pictures():
    rng = np.random.default_rng(1)
    found = []
    for number in range(PULSES):
        shape = sase(X, rng, 9002.0, 4.0, 2.5) if number % 3 else gaussian(X, 9002.0, 4.0)
        found.append(DETECTOR.picture(3e4 * shape, rng))
    found[5][:] = 100  # no signal
    return np.stack(found)


def identities():
    """Pulse ids with gaps, as of lost pulses."""
    return FIRST_ID + np.array([n + n // 7 for n in range(PULSES)], np.int64)


def stored():
    """Spectra as the recorder keeps them: float64, NaN for a pulse without picture."""
    found = pictures().sum(axis=1).astype(np.float64)
    found[11] = np.nan
    return Batch(identities(), identities() * 0.01, {"spectrum": found})


def bits(analysis):
    return {name: np.asarray(value).tobytes() for name, value in analysis.result().items()}


@lru_cache(maxsize=1)
def expected():
    analysis = Spectra(**PARAMETERS)
    analysis.update(stored())
    return bits(analysis)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_repetition_and_assignment_gives_the_same_bits(seed):
    rng = np.random.default_rng(seed)
    batch = stored()
    blocks = batch.identities // Spectra.block_size
    partials = []
    for block in rng.permutation(np.unique(blocks)):
        members = rng.permutation(np.flatnonzero(blocks == block))
        members = np.concatenate([members, rng.choice(members, 2)])
        for _ in range(rng.integers(1, 3)):  # some blocks by two workers
            partial = Spectra(**PARAMETERS)
            for piece in np.array_split(members, rng.integers(1, 4)):
                partial.update(batch.take(piece))
            partials.append(pickle.loads(pickle.dumps(partial.close())))
    whole = partials.pop()
    for index in rng.permutation(len(partials)):
        whole = whole.merge(partials[index])
    assert whole.members == PULSES
    assert bits(whole) == expected()


def test_folding_as_pulses_pass_changes_nothing():
    analysis, batch = Spectra(**PARAMETERS), stored()
    for first in range(0, PULSES, 5):
        piece = batch.take(slice(first, first + 5))
        analysis.update(piece)
        analysis.advance(int(piece.identities[-1]))
    assert len(analysis._keys()) <= 2
    assert bits(analysis) == expected()


def test_on_dask():
    import dask

    batch = stored()
    blocks = batch.identities // Spectra.block_size

    def part(numbers):
        partial = Spectra(**PARAMETERS)
        partial.update(batch.take(np.isin(blocks, numbers)))
        return partial.close()

    parts = np.array_split(np.unique(blocks), 4)
    partials = dask.compute(*[dask.delayed(part)(each) for each in parts], scheduler="threads")
    whole = partials[2]
    for other in (partials[0], partials[3], partials[1]):
        whole = whole.merge(other)
    assert bits(whole) == expected()


def test_a_stored_file_in_parts_gives_the_same_bits(tmp_path):
    """As `skywright reprocess` does it, here or on a cluster."""
    batch = stored()
    path = tmp_path / "spectra.h5"
    columns = (Column("/spectrum", "<f8", (COLUMNS,), 8), Column("/time", "<f8"))
    with ColumnWriter(path, columns, Column("/pulse_id", "<i8")) as writer:
        writer.append(batch.identities, {"/spectrum": batch["spectrum"], "/time": batch.times})
    tracks = {name: KeyRows() for name in ("spectrum", "pulse_id", "time")}
    for name, track in tracks.items():
        track.add(FileRows(str(path), f"/{name}", 0, PULSES, 1))
    table = FrameTable(
        {"spectrum": tracks["spectrum"]}, identity=tracks["pulse_id"], time=tracks["time"]
    )
    slices = whole_blocks(batch.identities, SpectrumStatistics.block_size)
    partials = [
        analyze_part("psss_spectra", PARAMETERS, table.part(*each), each[1] - each[0])[0]
        for each in slices
    ]
    whole = partials[-1]
    for partial in partials[:-1]:
        whole = whole.merge(partial)
    live = make_analysis("psss_spectra", PARAMETERS)
    live.update(batch)
    assert len(slices) == 2
    assert bits(whole) == bits(live)


def test_rows_are_those_of_the_live_processing():
    """What is found again in a stored spectrum is what was found in the picture, to the bit."""
    rows = Spectra(**PARAMETERS).update(stored())
    settings = Settings(axis=Spectra(**PARAMETERS).settings.axis)
    for number, picture in enumerate(pictures()):
        if number == 11:
            continue
        live = process(picture, settings)
        assert rows["status"][number] == live.status
        for name in ("center", "fwhm", "center_error", "com", "std", "chi2", "intensity"):
            np.testing.assert_equal(rows[name][number], getattr(live, name))


def test_pictures_give_what_their_spectra_give():
    batch = Batch(identities(), identities() * 0.01, {"image": pictures()})
    from_pictures = PictureSpectra(**PARAMETERS)
    rows = from_pictures.update(batch)
    spectra = Batch(
        identities(), identities() * 0.01, {"spectrum": pictures().sum(axis=1).astype(float)}
    )
    from_spectra = SpectrumStatistics(**PARAMETERS)
    other = from_spectra.update(spectra)
    for name, values in rows.items():
        np.testing.assert_equal(values, other[name])
    assert bits(from_pictures) == bits(from_spectra)


def test_what_the_run_says():
    analysis = Spectra(**PARAMETERS)
    rows = analysis.update(stored())
    result = analysis.result()
    assert result["n_pulses"] == PULSES
    assert result["n_good"] == PULSES - 2
    assert result["n_status"][FitStatus.NO_SIGNAL] == 1
    assert result["n_status"][FitStatus.NO_IMAGE] == 1
    assert rows["status"][11] == FitStatus.NO_IMAGE
    assert rows["spike_count"][11] == -1
    assert result["mean_status"] == "OK"
    assert result["mean_center"] == pytest.approx(9002.0, abs=0.6)
    assert result["mean_fwhm"] == pytest.approx(2.3548 * 4.0, rel=0.15)
    assert result["center_mean"] == pytest.approx(9002.0, abs=0.6)
    good = np.isin(rows["status"], (FitStatus.OK,))
    assert result["fwhm_scatter"] == pytest.approx(rows["fwhm"][good].std(ddof=1))
    assert 1.2 < result["g2"][1] < 2.2
    assert np.isfinite(result["pulse_length_g2"])
    assert result["spike_count_mean"] == pytest.approx(
        rows["spike_count"][~np.isnan(rows["spike_width"])].mean()
    )
    spectra = np.delete(stored()["spectrum"], 11, axis=0)
    light = np.array([above_baseline(spectrum) for spectrum in spectra])
    np.testing.assert_allclose(result["mean_spectrum"], light.mean(axis=0))
    np.testing.assert_allclose(result["spectrum_scatter"], light.std(axis=0, ddof=1))
    for lag in (0, 1, 9, 63):
        found = (light[:, : COLUMNS - lag] * light[:, lag:]).sum(axis=1).mean()
        mean = light.mean(axis=0)
        expected = (mean[: COLUMNS - lag] * mean[lag:]).sum()
        assert result["g2"][lag] == pytest.approx(found / expected)


def test_what_a_spectrum_does_not_show_is_kept_of_the_live_status_and_no_more():
    batch, live = stored(), np.full(PULSES, FitStatus.SATURATED, np.uint8)
    live[20] = FitStatus.NOT_CONVERGED
    analysis = Spectra(**PARAMETERS)
    rows = analysis.update(
        Batch(batch.identities, batch.times, {**batch.data, "status": live}),
    )
    of_spectrum = {5: FitStatus.NO_SIGNAL, 11: FitStatus.NO_IMAGE, 20: FitStatus.OK}
    for number, status in enumerate(rows["status"].tolist()):
        assert status == of_spectrum.get(number, FitStatus.SATURATED)


def test_spikes_are_in_ev_also_without_a_good_fit():
    batch, live = stored(), np.full(PULSES, FitStatus.SATURATED, np.uint8)
    analysis = Spectra(**PARAMETERS)
    rows = analysis.update(Batch(batch.identities, batch.times, {**batch.data, "status": live}))
    result = analysis.result()
    assert result["n_good"] == 0
    assert result["spike_width_mean"] == pytest.approx(np.nanmean(rows["spike_width"]))
    assert np.isfinite(result["pulse_length_spikes"])


def test_a_spectrum_with_a_column_that_is_no_number_is_in_no_mean():
    batch, others = stored(), Spectra(**PARAMETERS)
    spectra = batch["spectrum"].copy()
    spectra[30, 100] = np.inf
    analysis = Spectra(**PARAMETERS)
    rows = analysis.update(Batch(batch.identities, batch.times, {"spectrum": spectra}))
    assert rows["status"][30] == FitStatus.BAD_PIXELS
    assert rows["spike_count"][30] == -1
    others.update(batch.take(np.arange(PULSES) != 30))
    result, expected = analysis.result(), others.result()
    for name in ("n_good", "center_mean", "mean_spectrum", "g2", "spike_width_mean"):
        np.testing.assert_array_equal(result[name], expected[name])


def test_widths_of_spikes_are_by_the_columns_in_the_middle_of_a_bent_axis():
    bent = PARAMETERS | {"axis": [9000.0, 0.1, 0.0002]}
    rows = Spectra(**bent).update(stored())
    pixels = Spectra(columns=COLUMNS, rows=ROWS).update(stored())
    pitch = 0.1 + 0.0002 * (160**2 - 159**2)
    known = np.isfinite(rows["spike_width"])
    assert known.sum() > PULSES / 2
    np.testing.assert_allclose(rows["spike_width"][known], pitch * pixels["spike_width"][known])


def test_the_resolution_is_taken_off_the_pulse_lengths():
    lengths = ("pulse_length_spikes", "pulse_length_g2")
    for resolution_ev in (0.0, 0.3):
        analysis = Spectra(**PARAMETERS, resolution_ev=resolution_ev)
        analysis.update(stored())
        result = analysis.result()
        assert [result[name] for name in lengths] == [
            pulse_length_fs(result["spike_width_mean"], resolution_ev),
            pulse_length_fs(result["g2_width"], resolution_ev, of_correlation=True),
        ]
    analysis = Spectra(**PARAMETERS, resolution_ev=30.0)
    analysis.update(stored())
    assert np.isnan([analysis.result()[name] for name in lengths]).all()  # and not infinite


def test_the_mean_of_faint_spectra_is_fitted():
    """Its noise is less than that of a spectrum, which the threshold for a signal is for."""
    rng = np.random.default_rng(4)
    light = 30.0 * gaussian(X, 9002.0, 4.0)  # below 1.5 counts for each row
    spectra = 500.0 + light + rng.normal(0.0, 1.0, (PULSES, COLUMNS))
    analysis = Spectra(**PARAMETERS)
    rows = analysis.update(Batch(identities(), identities() * 0.01, {"spectrum": spectra}))
    assert (rows["status"] == FitStatus.NO_SIGNAL).all()
    result = analysis.result()
    assert (result["n_good"], result["mean_status"]) == (0, "OK")
    assert result["mean_center"] == pytest.approx(9002.0, abs=0.1)
    assert result["mean_fwhm"] == pytest.approx(2.3548 * 4.0, rel=0.05)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_the_mean_spectrum_is_fitted_with_the_newest_settings(dtype):
    batch, asked = stored(), []

    class Asked(Spectra):
        def settings_of(self, number):
            asked.append(number)
            return super().settings_of(number)

    analysis = Asked(**PARAMETERS)
    numbers = {"settings_number": np.arange(PULSES, dtype=dtype) // 20}
    if dtype is np.int64:
        numbers["settings_number"][50:] = -1  # not known of the last pulses
    analysis.update(Batch(batch.identities, batch.times, batch.data | numbers))
    analysis.result()
    assert asked[-1] == 2


def test_an_axis_that_falls_has_widths_above_zero():
    falling = PARAMETERS | {"axis": [float(X[-1]), float(X[0] - X[1])]}
    analyses = Spectra(**PARAMETERS), Spectra(**falling)
    batch = stored()
    flipped = {"spectrum": batch["spectrum"][:, ::-1].copy()}
    one, other = (
        analysis.update(Batch(batch.identities, batch.times, data))
        for analysis, data in zip(analyses, (batch.data, flipped), strict=True)
    )
    for name in ("spike_width", "fwhm", "quantile_width"):
        assert np.nanmedian(other[name]) == pytest.approx(np.nanmedian(one[name]), rel=0.02)
    one, other = (analysis.result() for analysis in analyses)
    for name in ("g2_width", "pulse_length_g2", "mean_fwhm"):
        assert other[name] == pytest.approx(one[name], rel=0.02)


def test_narrower_spectra_are_in_pixels_and_in_no_mean_of_energies():
    batch = stored()
    spectra = batch["spectrum"].copy()
    spectra[20:, 300:] = np.nan
    analysis = SpectrumStatistics(**PARAMETERS)
    rows = analysis.update(Batch(batch.identities, batch.times, {"spectrum": spectra}))
    assert (rows["status"][20:] == FitStatus.NO_AXIS).all()
    assert np.nanmedian(rows["spike_width"][20:]) > 5 * np.nanmedian(rows["spike_width"][:20])
    result = analysis.result()
    assert result["n_good"] == 18
    assert result["center_mean"] == pytest.approx(
        np.mean(rows["center"][:20][rows["status"][:20] == 0])
    )


def test_one_pulse_has_no_scatter():
    analysis = Spectra(**PARAMETERS)
    analysis.update(stored().take(np.array([1])))
    result = analysis.result()
    assert result["n_good"] == 1
    assert np.isfinite(result["center_mean"])
    for name in ("center_scatter", "fwhm_scatter", "spectrum_scatter", "g2_width"):
        assert np.isnan(result[name]).all()


def test_no_pulse_gives_every_result():
    result = Spectra(**PARAMETERS).result()
    assert result.keys() == {column.name for column in Spectra(**PARAMETERS).results}
    assert result["n_pulses"] == 0
    assert np.isnan(result["mean_spectrum"]).all()
    assert np.isnan(result["center_mean"])


def test_without_axis_the_units_are_pixels():
    analysis = Spectra(columns=COLUMNS, rows=ROWS)
    analysis.update(stored())
    result = analysis.result()
    assert result["mean_status"] == "NO_AXIS"
    assert result["n_good"] == PULSES - 2
    assert np.isnan(result["pulse_length_g2"])


def test_a_narrower_spectrum_is_fitted_and_left_out_of_the_mean():
    batch = stored()
    spectra = batch["spectrum"].copy()
    spectra[0, 300:] = np.nan
    analysis = Spectra(**PARAMETERS)
    analysis.update(Batch(batch.identities, batch.times, {"spectrum": spectra}))
    assert np.isfinite(analysis.result()["mean_spectrum"]).all()


def test_wrong_parameters_are_refused():
    for wrong in (
        {"columns": 0},
        {"columns": 2.5},
        {"rows": -1},
        {"resolution_ev": -1.0},
        {"axis": [9000.0, 0.0]},
        {"smoothing": "much"},
        {"no_such": 1},
        {"roi": (1, 2)},  # the spectra are sums already
        {"background": "directory"},
    ):
        with pytest.raises(ConfigError):
            Spectra(**{**PARAMETERS, **wrong})
    with pytest.raises(DataError, match="columns"):
        Spectra(columns=100).update(stored())


def test_a_fresh_analysis_has_the_same_parameters():
    analysis = Spectra(**PARAMETERS, smoothing="none", resolution_ev=0.1)
    assert analysis.fresh().parameters == analysis.parameters
    assert analysis.fresh().settings.smoothing == "none"


@pytest.fixture
def changed(tmp_path):
    """A recording in whose middle the axis, the ROI and the background have changed."""
    pulses = [make_pulse(number) for number in range(8)]
    dark = uploaded("dark", np.full(PICTURE.shape, 50.4, np.float32))
    kept = History(tmp_path / "history").keep(dark)
    before = Settings(axis=np.linspace(8990.0, 9010.0, PICTURE.shape[1]))
    after = Settings(
        axis=9010.0 - np.linspace(0.0, 5.0, PICTURE.shape[1]) ** 2,  # no polynomial of stage time
        roi=(3, 20),
        background=dark.pixels,
        background_name="dark",
        background_mode="signed",
        smoothing="none",
        saturation=450,
        signal_per_row=0.5,
    )
    results = [
        process_pulse(pulse, number // 4, (before, after)[number // 4], Counters())
        for number, pulse in enumerate(pulses)
    ]
    assert kept.file
    return recorded(tmp_path, results)[0], results, tmp_path / "history"


FIELDS = ("status", "center", "fwhm", "com", "intensity")


def of_run(analysis, name, results, values, **more):
    numbers = np.array([result.settings_number for result in results])
    data = {name: values, "settings_number": numbers, **more}
    return analysis.update(Batch(np.arange(len(results)), np.full(len(results), np.nan), data))


def test_each_pulse_is_processed_with_the_settings_it_was_taken_with(changed):
    path, results, _ = changed
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        spectra = reader.read(layouts.SPECTRUM)
    settings = str(layouts.settings_path(path))
    analysis = SpectrumStatistics(
        columns=PICTURE.shape[1], rows=PICTURE.shape[0], settings=settings
    )
    live = np.array([result.spectrum.status for result in results], np.uint8)
    assert FitStatus.SATURATED in live
    rows = of_run(analysis, "spectrum", results, spectra, status=live)
    for number, result in enumerate(results):
        for name in FIELDS:
            np.testing.assert_equal(rows[name][number], getattr(result.spectrum, name))
    assert analysis.result()["mean_center"] < 9010.0
    assert analysis.result()["n_good"] == np.isin(live, GOOD).sum() == 4
    partial = pickle.loads(pickle.dumps(analysis.close()))
    assert bits(partial) == bits(analysis)
    given = {"smoothing": "savgol", "axis": [8990.0, 1.0]}
    of_given = SpectrumStatistics(**{**analysis.parameters, **given})
    assert of_given.settings_of(1).smoothing == "savgol"
    assert of_given.settings_of(1).axis[3] == 8993.0
    assert of_given.settings_of(1).signal_per_row == 0.5
    assert analysis.settings_of(-1) is analysis.settings  # of a pulse without a number
    with pytest.raises(DataError, match="has no settings 7"):
        analysis.settings_of(7)


def recorded(tmp_path, results):
    """Return the path of a recording of these results, and its spectra."""
    layout, path = layouts.SpectraLayout(), tmp_path / "run.h5"
    rows = [layout.row_group(result) for result in results]
    file = layout.open(path, rows, must_create=True)
    file.append(rows)
    file.close()
    with ColumnReader(path, layouts.PULSE_ID) as reader:
        return path, reader.read(layouts.SPECTRUM)


def test_pictures_that_became_narrower_have_their_axis(tmp_path):
    """The camera is set to fewer columns during a recording, and a client sets their axis."""
    columns = (slice(None), slice(40, 280))
    settings = [Settings(axis=X[part]) for part in columns]
    results = [
        process_pulse(
            make_pulse(n, image=pictures()[6 + n][:, columns[n // 20]]),
            *(n // 20, settings[n // 20], Counters()),
        )
        for n in range(40)
    ]
    path, spectra = recorded(tmp_path, results)
    analysis = SpectrumStatistics(
        columns=COLUMNS, rows=ROWS, settings=str(layouts.settings_path(path))
    )
    rows = of_run(analysis, "spectrum", results, spectra)
    assert {result.spectrum.status for result in results} == {FitStatus.OK}
    for number, result in enumerate(results):
        for name in FIELDS:
            np.testing.assert_equal(rows[name][number], getattr(result.spectrum, name))
    found = analysis.result()
    assert found["n_good"] == len(results)
    # Only spectra of the whole width are in these; the newest axis does not fit them
    assert found["mean_status"] == "NO_AXIS"
    assert found["g2_width"] > 1.0  # px
    assert np.isnan(found["pulse_length_g2"])


def test_an_axis_that_fits_no_spectrum_leaves_the_means_in_pixels(tmp_path):
    settings = Settings(axis=np.linspace(8990.0, 9010.0, PICTURE.shape[1] // 2))
    results = [process_pulse(make_pulse(n), 0, settings, Counters()) for n in range(4)]
    path, spectra = recorded(tmp_path, results)
    analysis = Spectra(
        columns=PICTURE.shape[1], rows=PICTURE.shape[0], settings=str(layouts.settings_path(path))
    )
    of_run(analysis, "spectrum", results, spectra)
    found = analysis.result()
    assert found["n_good"] == len(results)
    assert found["center_mean"] == pytest.approx(60.0, abs=1.0)
    assert np.isnan(found["pulse_length_spikes"])


def test_means_are_of_the_pulses_in_the_newest_unit(tmp_path):
    """The user sets the axis during a recording, or during a point of a scan."""
    axis = Settings(axis=np.linspace(8990.0, 9010.0, PICTURE.shape[1]))
    results = [
        process_pulse(make_pulse(n), int(n > 4), axis if n > 4 else Settings(), Counters())
        for n in range(12)
    ]
    path, spectra = recorded(tmp_path, results)
    analysis = Spectra(
        columns=PICTURE.shape[1], rows=PICTURE.shape[0], settings=str(layouts.settings_path(path))
    )
    of_run(analysis, "spectrum", results, spectra)
    found, point = analysis.result(), summarize_point(str(path), 0, len(results))
    centers = [result.spectrum.center for result in results[5:]]
    assert found["n_good"] == point["n_good"] == len(centers)
    assert found["center_mean"] == pytest.approx(np.mean(centers))
    assert found["spike_width_mean"] < 20.0  # eV, of all the axis
    assert point["mean_center"] == pytest.approx(np.mean(centers))
    assert point["center_scatter"] == pytest.approx(np.std(centers, ddof=1))


def test_brightness_is_found_where_the_energy_is_known():
    batch = stored()
    energies = np.linspace(100.0, 300.0, PULSES)
    data = {"spectrum": batch["spectrum"], "pulse_energy": energies}
    rows = Spectra(**PARAMETERS).update(Batch(batch.identities, batch.times, data))
    np.testing.assert_array_equal(rows["brightness"], energies / rows["fwhm"])
    assert np.isfinite(rows["brightness"]).sum() > PULSES / 2
    assert np.isnan(Spectra(**PARAMETERS).update(batch)["brightness"]).all()


def test_pictures_are_processed_as_when_they_were_taken_background_included(changed):
    path, results, history = changed
    parameters = {
        **{"columns": PICTURE.shape[1], "rows": PICTURE.shape[0]},
        **{"settings": str(layouts.settings_path(path)), "background": str(history)},
    }
    images = np.stack([result.pulse.image for result in results])
    rows = of_run(PictureSpectra(**parameters), "image", results, images)
    assert FitStatus.SATURATED in rows["status"]
    for number, result in enumerate(results):
        for name in FIELDS:
            np.testing.assert_equal(rows[name][number], getattr(result.spectrum, name))
    (file,) = history.glob("*.h5")
    of_file = PictureSpectra(background=str(file), background_mode="signed")
    np.testing.assert_allclose(of_file.settings_of(0).background, 50.4, rtol=1e-6)
    for bad in (history, path.with_name("absent")):
        with pytest.raises(DataError):
            PictureSpectra(**{**parameters, "settings": str(bad)}).settings_of(0)
    for each in history.iterdir():
        each.unlink()
    with pytest.raises(ConfigError, match="dark"):
        PictureSpectra(**parameters).settings_of(1)


def test_the_zeros_around_a_smaller_picture_are_no_pixels():
    small = PICTURE[:-4, :-30]
    padded = np.zeros((1, *PICTURE.shape), np.uint16)
    padded[0, : small.shape[0], : small.shape[1]] = small
    result = process_pulse(make_pulse(0, small), 0, Settings(), Counters())
    analysis = PictureSpectra(columns=PICTURE.shape[1])
    height, width = (np.array([n]) for n in small.shape)
    found = of_run(analysis, "image", [result], padded, picture_height=height, picture_width=width)
    for name in FIELDS:
        np.testing.assert_equal(found[name][0], getattr(result.spectrum, name))


def test_a_number_whose_name_ends_like_that_of_the_picture_is_no_picture():
    picture, count = {"shape": [240, 320], "dtype_numpy": "<u2"}, {"shape": [], "dtype": "integer"}
    wanted = RequiredKeys.of(PictureSpectra, {})
    assert wanted.find({"camera_image": picture, "loop_n_flat_image": count}) == {
        "image": "camera_image"
    }
    assert wanted.find({"loop_n_flat_image": count}) is None
    assert RequiredKeys.of(SpectrumStatistics, {}).find({"mean_spectrum": count}) is None


WARM = """
from numpy import hanning, ones
from skywright.instruments.psss import statistics
from skywright.instruments.psss.analysis import SpectrumStatistics

kernels = [statistics.correlate, statistics.walk_spikes]
SpectrumStatistics(columns=320).warm_up()
warm = [len(kernel.signatures) for kernel in kernels]
statistics.autocorrelation(ones(64), 8), statistics.find_spikes(hanning(128))
print(warm == [1, 1] == [len(kernel.signatures) for kernel in kernels])
"""


def test_once_warm_no_pulse_waits_for_the_statistics_to_be_compiled():
    # In a process of its own: other tests have used the kernels of this one.
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
