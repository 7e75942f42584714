"""Any order, repetition and assignment of whole blocks gives the same bits: live, batch, Dask."""

import pickle
from functools import lru_cache

import numpy as np
import pytest
from pulse_spectra import Detector, energy_axis, gaussian, sase

from skywright.analyses import make_analysis
from skywright.analysis import Batch, name_of, whole_blocks
from skywright.blocks import analyze_part
from skywright.errors import ConfigError, DataError
from skywright.frames import FrameTable, Segment, Track
from skywright.psss.analysis import PictureSpectra, SpectrumStatistics
from skywright.psss.processing import FitStatus, Settings, process
from skywright.records import Column, ColumnWriter

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
    assert analysis.held_blocks <= 2
    assert bits(analysis) == expected()


def test_on_dask():
    dask = pytest.importorskip("dask")
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
    tracks = {name: Track() for name in ("spectrum", "pulse_id", "time")}
    for name, track in tracks.items():
        track.add(Segment(str(path), f"/{name}", 0, PULSES, 1))
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
    assert result["mean_spectrum"].shape == (COLUMNS,)
    assert 1.2 < result["g2"][1] < 2.2
    assert np.isfinite(result["pulse_length_g2"])


def test_no_pulse_gives_every_result():
    result = Spectra(**PARAMETERS).result()
    assert result.keys() == {name_of(column) for column in Spectra(**PARAMETERS).results}
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
    ):
        with pytest.raises(ConfigError):
            Spectra(**{**PARAMETERS, **wrong})
    with pytest.raises(DataError, match="columns"):
        Spectra(columns=100).update(stored())


def test_a_fresh_analysis_has_the_same_parameters():
    analysis = Spectra(**PARAMETERS, smoothing="none", resolution_ev=0.1)
    assert analysis.fresh().parameters == analysis.parameters
    assert analysis.fresh().settings.smoothing == "none"
