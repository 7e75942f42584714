"""Plots on the page of a run: which columns, against what, of which runs."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.page import fake_checks, settings_of
from support.sample_runs import (
    CURRENT,
    DERIVED_V1,
    FLY,
    OMEGA,
    SCAN,
    SampleStore,
    shared_sample_store,
)
from tiled.client.container import Container

from dashboard.app import make_app
from dashboard.chart import MARK, WIDTH, Marks, draw_chart
from dashboard.plots import (
    BINS,
    MARKS_MAX,
    ROW,
    Choice,
    Plot,
    _default_column,
    _read,
    _Series,
    _subtract_first_values,
    choose,
    draw_plot,
)
from skywright.errors import DataError
from skywright.store.export.contents import Column, RunContents, Stream
from skywright.store.lookup import find_run
from skywright.store.show import ColumnView, RunView, StreamView, view_run
from skywright.words import local_time


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


@pytest.fixture
def page(store: SampleStore, tmp_path: Path) -> Iterator[TestClient]:
    app = make_app(settings_of(tmp_path, store.uri, store.api_key, store.assets), fake_checks())
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def plot(store: SampleStore, uid: str, **asked: str) -> tuple[Choice, Plot]:
    view = view_run(store.client, find_run(store.client, uid))
    choice = choose(view, asked)
    assert choice is not None
    return choice, draw_plot(store.client, uid, choice)


def marks(plot: Plot) -> list[tuple[float, float]]:
    """Return the places of the circles."""
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', str(plot.drawing))
    return [(float(x), float(y)) for x, y in found]


def test_a_scan_is_plotted_against_its_motor_as_its_documents_hint(store: SampleStore) -> None:
    choice, drawn = plot(store, SCAN)
    assert choice == Choice("primary", "diode_current", "omega")
    known = np.isfinite(CURRENT)
    x, y = np.array(marks(drawn)).T
    # The places on the screen are linear in the values; y grows downwards.
    assert np.corrcoef(x, OMEGA[known])[0, 1] > 0.9999
    assert np.corrcoef(y, CURRENT[known])[0, 1] < -0.9999
    for words in ("omega, deg", "diode_current, uA"):
        assert words in str(drawn.drawing)


def test_any_column_is_plotted_against_any_other_the_time_or_the_row(store: SampleStore) -> None:
    choice, drawn = plot(store, SCAN, y="primary/diode_counts", x="cam_frame_number")
    assert choice == Choice("primary", "diode_counts", "cam_frame_number")
    assert "cam_frame_number" in str(drawn.drawing)
    assert "s from the run" in str(plot(store, SCAN, x="time")[1].drawing)
    assert plot(store, SCAN, x="row")[0].x == "row"
    assert plot(store, SCAN, x="of another stream")[0].x == "omega"
    assert plot(store, FLY)[0] == Choice("primary", "cam_frame_time", "row")


def test_numbers_of_pulses_are_drawn_from_the_first() -> None:
    ids, signal = 179_512_345_678 + np.arange(8.0), np.linspace(1.0, 2.0, 8)
    (curve,), notes = _subtract_first_values(
        [_Series("a1b2c3d4", "", ids, signal, "pulse_id", "signal")]
    )
    assert (list(curve.x), list(curve.y)) == (list(range(8)), list(signal))
    assert (curve.x_label, curve.y_label) == ("pulse_id, from the first", "signal")
    assert notes == (
        "pulse_id is drawn from its first value, 179512345678 in run a1b2c3d4",
    )  # fmt: skip
    for values in (ids[:1], np.full(8, np.nan), np.full(8, 7.0), signal):
        same = [_Series("a1b2c3d4", "", values, values, "x", "y")]
        assert _subtract_first_values(same) == (same, ())


def run_of_pulses(uid: str, first: int, column: tuple[int, ...] = ()) -> RunContents:
    """Return a run of eight pulses whose numbers begin at `first`; rows of `column` numbers."""
    values = {
        "pulse_id": first + np.arange(8),
        "signal": np.arange(8.0 * np.prod(column, dtype=int)).reshape(8, *column),
    }
    columns = tuple(
        Column(name, each.shape, each.dtype, {}, each.__getitem__) for name, each in values.items()
    )
    stream = Stream("primary", {}, columns, {})
    return RunContents({"uid": uid, "time": 0.0}, None, "success", (stream,), ())


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plot]:
    """Return a function that draws the signal of runs against the number of the pulse."""

    def draw(*runs: RunContents) -> Plot:
        by_uid = {run.start["uid"]: run for run in runs}
        monkeypatch.setattr("dashboard.plots.find_run", lambda client, uid: uid)
        monkeypatch.setattr("dashboard.plots.read_contents", lambda uid, **_: by_uid[uid])
        uid, *others = by_uid
        client = cast(Container, None)
        return draw_plot(client, uid, Choice("primary", "signal", "pulse_id", tuple(others)))

    return draw


def test_curves_that_are_laid_over_one_another_have_one_offset(
    overlay: Callable[..., Plot],
) -> None:
    """The second run has the four pulses before the first one's, and its first four."""
    drawn = overlay(
        run_of_pulses("a1b2c3d4", 179_512_345_678), run_of_pulses("b2c3d4e5", 179_512_345_674)
    )
    squares = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width', str(drawn.drawing))
    first = np.array([x for x, _ in marks(drawn)])
    second = np.array([float(left) for left in squares[:8]]) + MARK  # the ninth: in the legend
    np.testing.assert_allclose(second[4:], first[:4], atol=0.11)
    assert (second[:4] < first[0] - 1).all()
    assert "pulse_id, from the first<" in str(drawn.drawing)
    assert drawn.notes == (
        "pulse_id is drawn from its first value, 179512345678 in run a1b2c3d4",
    )  # fmt: skip


def test_times_are_counted_from_the_start_and_rows_without_a_time_are_left_out() -> None:
    run = run_of_pulses("a1b2c3d4", 1)
    times = Column("frame_time", (7,), np.dtype("f8"), {}, (1.7e9 + np.arange(7.0)).__getitem__)
    stream = replace(run.streams[0], columns=(run.streams[0].columns[1], times))
    start = {"uid": "a1b2c3d4", "time": 1.7e9 - 5.0}
    choice = Choice("primary", "signal", "frame_time")
    series = _read(replace(run, start=start, streams=(stream,)), choice)
    assert series.x.tolist() == [5.0 + k for k in range(7)]
    assert len(series.y) == 7


def test_curves_whose_numbers_differ_much_have_no_offset(overlay: Callable[..., Plot]) -> None:
    """As each alone is counted from its first pulse, both would begin at 0."""
    drawn = overlay(
        run_of_pulses("a1b2c3d4", 179_512_345_678), run_of_pulses("b2c3d4e5", 250_000_000_000)
    )
    assert drawn.notes == ()
    assert "from the first" not in str(drawn.drawing)
    assert "200G" in str(drawn.drawing)


def test_the_note_of_an_image_says_what_the_pulses_are_counted_from(
    overlay: Callable[..., Plot],
) -> None:
    run = run_of_pulses("a1b2c3d4", 179_512_345_678, column=(5,))
    drawn = overlay(run)
    signal = next(each for each in run.streams[0].columns if each.name == "signal")
    low, high = np.percentile(signal.read(slice(None)), (1, 99.5))
    assert drawn.notes == (
        "signal: from the top pulse_id, from the first 0 to 7, "
        f"colors from {low:.4g} to {high:.4g} (1st and 99.5th percentile)",
        "pulse_id is drawn from its first value, 179512345678 in run a1b2c3d4",
    )


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("signal", np.full(8, "in"), "the column signal has no numbers that can be plotted"),
        ("signal", np.empty(0), "the column signal has no numbers that can be plotted"),
        ("signal", np.empty((8, 2, 2)), "the column signal has no numbers that can be plotted"),
        ("signal", np.empty((8, 2)), "a row of signal is not one number"),
        ("pulse_id", np.full(8, "in"), "the column pulse_id has no numbers that can be plotted"),
        ("pulse_id", np.empty((8, 2)), "the column pulse_id has no numbers that can be plotted"),
    ],
)
def test_a_run_that_cannot_be_laid_over_is_a_note(
    overlay: Callable[..., Plot], name: str, values: np.ndarray, reason: str
) -> None:
    first, other = run_of_pulses("a1b2c3d4", 1), run_of_pulses("b2c3d4e5", 1)
    column = Column(name, values.shape, values.dtype, {}, values.__getitem__)
    stream = other.streams[0]
    columns = (*(each for each in stream.columns if each.name != name), column)
    odd = replace(other, streams=(replace(stream, columns=columns),))
    drawn = overlay(first, odd)
    assert len(marks(drawn)) == 8
    assert drawn.notes == (f"run b2c3d4e5: {reason}",)


def test_runs_of_which_there_are_too_many_are_named(overlay: Callable[..., Plot]) -> None:
    drawn = overlay(*(run_of_pulses(f"a1b2c3d{k}", 1) for k in range(6)))
    assert len(re.findall('class="legend"', str(drawn.drawing))) == 4
    assert drawn.notes == ("only 4 runs are drawn, without a1b2c3d4 a1b2c3d5",)


def test_a_run_without_the_abscissa_is_a_note_and_not_drawn_on_an_axis_that_is_not_its_own(
    overlay: Callable[..., Plot],
) -> None:
    first, other = run_of_pulses("a1b2c3d4", 1), run_of_pulses("b2c3d4e5", 1)
    stream = other.streams[0]
    signal = tuple(each for each in stream.columns if each.name == "signal")
    drawn = overlay(first, replace(other, streams=(replace(stream, columns=signal),)))
    assert len(marks(drawn)) == 8
    assert "<rect" not in str(drawn.drawing)
    assert drawn.notes == ("run b2c3d4e5 has no column pulse_id in the stream primary",)


def test_a_narrow_line_is_in_the_image_and_what_is_not_drawn_in_the_notes(
    overlay: Callable[..., Plot], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of_pulses("a1b2c3d4", 1, column=(2000,))
    values = np.zeros((500, 2000))
    values[:, 1] = 5.0
    values[:, 3] = np.nan
    pulses, signal = run.streams[0].columns
    columns = (
        replace(pulses, shape=(500,), read=np.arange(500).__getitem__),
        replace(signal, shape=values.shape, dtype=values.dtype, read=values.__getitem__),
    )
    pictures: list[np.ndarray] = []
    monkeypatch.setattr(
        "dashboard.plots.false_color_png", lambda pixels: pictures.append(pixels) or b""
    )
    drawn = overlay(replace(run, streams=(replace(run.streams[0], columns=columns),)))
    (picture,) = pictures
    assert picture.shape == (167, 667)
    assert (picture[:, 0] == 5.0).all()
    assert (picture[:, 1:] == 0.0).all()
    assert drawn.notes[0] == (
        "run a1b2c3d4, signal: 1 of 3 rows is drawn, a pixel is the maximum of 3 columns"
    )


def test_a_column_of_the_name_row_is_plotted_against_the_row() -> None:
    """A stream without events and without a column of times has nothing else to plot it against."""
    stream = StreamView("events", 0, 5, (ColumnView("row", (5,), "int64", None, None),))
    view = cast(RunView, SimpleNamespace(streams=(stream,), start={}))
    assert choose(view, {}) == Choice("events", "row", ROW)


def test_a_measured_value_is_plotted_before_the_number_of_a_frame() -> None:
    columns = tuple(
        ColumnView(name, (5,), dtype, None, None)
        for name, dtype in (("identity", "int64"), ("frame_time", "float64"), ("tip_x", "float32"))
    )
    stream = StreamView("pictures", 0, 5, columns)
    assert _default_column(stream, []) == "tip_x"
    assert _default_column(StreamView("pictures", 0, 5, columns[:2]), []) == "identity"


def test_rows_of_numbers_are_drawn_as_an_image(store: SampleStore) -> None:
    _, drawn = plot(store, SCAN, y="primary/diode_vector")
    assert str(drawn.drawing).startswith('<img class="waterfall" src="data:image/png;base64,')
    assert drawn.notes[0].startswith("diode_vector, V: from the top omega, deg 0 to 90")


def test_runs_are_laid_over_one_another(store: SampleStore) -> None:
    choice, drawn = plot(store, SCAN, **{"with": f"{SCAN[:8]} {FLY[:8]} no-such-run"})
    assert choice.others == (SCAN[:8], FLY[:8], "no-such-run")
    legend = re.findall(r'class="legend" x="[\d.]+" y="(-?\d+)">(.*?)<', str(drawn.drawing))
    started = local_time(find_run(store.client, SCAN).metadata["start"]["time"])
    assert [text for _, text in legend] == [f"scan {started}"] * 2
    assert [int(y) for y, _ in legend] == [16, 16]
    assert f"run {FLY[:8]} has no column diode_current in the stream primary" in drawn.notes
    assert any("no-such-run" in note for note in drawn.notes)


def test_a_legend_that_is_too_wide_has_lines_of_its_own_above_the_chart() -> None:
    x = np.arange(3.0)
    marks = [Marks(f"acquire_spectra 2026-11-25 14:03:0{k}", x, x, "abcd"[k]) for k in range(4)]
    drawn = str(draw_chart(marks, [], "x", "y", "title"))
    places = re.findall(
        r'class="legend" x="([\d.]+)" y="(-?\d+)">acquire_spectra \S+ (\S+)<', drawn
    )
    assert sorted((float(y), clock) for _, y, clock in places) == [
        (-35.0, "14:03:00"),
        (-18.0, "14:03:01"),
        (-1.0, "14:03:02"),
        (16.0, "14:03:03"),
    ]
    assert f'viewBox="0 -51 {WIDTH} 351"' in drawn


def test_what_a_run_does_not_have_is_said(store: SampleStore, page: TestClient) -> None:
    with pytest.raises(DataError, match="has no numbers primary/diode_state"):
        plot(store, SCAN, y="primary/diode_state")
    answer = page.get(f"/runs/{SCAN}?y=primary/nothing")
    assert answer.status_code == 404
    assert "has no numbers primary/nothing" in answer.text


def test_a_run_whose_file_is_gone_has_its_page_with_the_reason_in_place_of_the_plot(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: Container, only: object) -> RunContents:
        raise DataError("primary/omega (/gone.h5): the tiled server cannot read it")

    monkeypatch.setattr("dashboard.plots.read_contents", fail)
    answer = page.get(f"/runs/{SCAN}")
    assert answer.status_code == 200
    assert "primary/omega (/gone.h5): the tiled server cannot read it" in answer.text
    assert "Export" in answer.text
    assert '<svg class="chart"' not in answer.text


def test_the_page_has_the_plot_and_a_form_that_keeps_the_choice(page: TestClient) -> None:
    text = page.get(f"/runs/{SCAN}?y=primary/diode_counts&x=time&with={FLY[:8]}").text
    assert '<svg class="chart"' in text
    assert '<option value="primary/diode_counts" selected>' in text
    assert "<option selected>time</option>" in text
    assert f'name="with" value="{FLY[:8]}"' in text
    assert "baseline/energy" in text
    assert "primary/diode_state" not in text
    assert '<svg class="chart"' in page.get(f"/runs/{DERIVED_V1}").text


def test_many_points_become_a_band_between_the_least_and_the_largest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dashboard import plots

    rng = np.random.default_rng(0)
    x = rng.permutation(np.arange(10.0 * MARKS_MAX))
    y = np.sin(x / 500.0) + rng.normal(0.0, 0.01, len(x))
    y[7] = np.nan
    places, values = plots._band(x, y)
    assert len(places) == 3 * plots.BINS
    assert (np.diff(places) >= 0).all()
    assert (values[::3] <= values[1::3]).all()
    assert np.nanmin(values) == np.nanmin(y)
    assert np.nanmax(values) == np.nanmax(y)
    assert np.isnan(values[2::3]).all()  # no line from one part to the next


def test_a_band_has_no_slopes_that_the_values_do_not_have() -> None:
    from dashboard import plots

    x = np.arange(2.0 * plots.BINS)
    places, values = plots._band(x, x % 2.0)  # 0 and 1 in turn, and nothing between them in time
    known = np.isfinite(values)
    steps = [
        (one, other)
        for one, other, drawn in zip(places, places[1:], known[:-1] & known[1:], strict=False)
        if drawn
    ]
    assert all(one == other for one, other in steps)


@pytest.mark.parametrize("count", [MARKS_MAX + 1, 500, 2 * BINS, 10 * BINS])
def test_every_part_of_a_band_has_several_points(count: int) -> None:
    """Parts of one point are dots that nobody sees, beside the lines of the other parts."""
    from dashboard import plots

    x = np.arange(float(count))
    _, values = plots._band(x, x)
    lengths = values[1::3] - values[::3]
    assert lengths.min() >= plots.POINTS_MIN - 1
    assert lengths.max() <= lengths.min() + 1


@pytest.mark.parametrize("column", ["signal", "pulse_id"])
def test_numbers_near_the_largest_of_all_are_left_out(
    column: str, overlay: Callable[..., Plot]
) -> None:
    number = np.arange(10.0 * MARKS_MAX)
    values = {"pulse_id": number.copy(), "signal": np.sin(number)}
    values[column][::10] = sys.float_info.max
    values[column][1] = -sys.float_info.max
    columns = tuple(
        Column(name, each.shape, each.dtype, {}, each.__getitem__) for name, each in values.items()
    )
    stream = Stream("primary", {}, columns, {})
    drawn = overlay(RunContents({"uid": "a" * 8, "time": 0.0}, None, "success", (stream,), ()))
    path = re.search(r'<path class="curve a" d="([^"]*)"', str(drawn.drawing))
    assert path is not None
    assert path[1].count("L") == path[1].count("M") == BINS


@pytest.mark.parametrize("shape", [(8,), (8, 3)])
def test_a_column_without_a_value_is_a_note_that_holds_of_a_run_that_is_over(
    overlay: Callable[..., Plot], shape: tuple[int, ...]
) -> None:
    run = run_of_pulses("a" * 8, 1)
    signal = Column("signal", shape, np.dtype("f8"), {}, np.full(shape, np.nan).__getitem__)
    stream = replace(run.streams[0], columns=(run.streams[0].columns[0], signal))
    drawn = overlay(replace(run, streams=(stream,)))
    assert drawn == Plot(None, ("signal has no value that can be drawn",))


def test_a_run_without_numbers_has_no_plot() -> None:
    text = ColumnView("state", (5,), "text", None, None)
    one = ColumnView("energy", (1,), "float64", None, None)
    stream = StreamView("primary", 5, 5, (text, one))
    view = RunView.__new__(RunView)
    object.__setattr__(view, "streams", (stream,))
    assert choose(view, {}) is None


def test_rows_of_numbers_are_read_of_the_first_run_only(overlay: Callable[..., Plot]) -> None:
    others = [run_of_pulses(f"b2c3d4e{k}", 1, column=(2000,)) for k in range(5)]
    drawn = overlay(run_of_pulses("a1b2c3d4", 1, column=(5,)), *others)
    assert drawn.notes[1:] == ("rows of numbers are drawn of the first run only",)


@pytest.mark.parametrize("first", [True, False])
def test_a_run_without_a_value_is_a_note(overlay: Callable[..., Plot], first: bool) -> None:
    run, empty = run_of_pulses("a1b2c3d4", 1), run_of_pulses("b2c3d4e5", 1)
    pulses, signal = empty.streams[0].columns
    nothing = replace(signal, read=np.full(8, np.nan).__getitem__)
    empty = replace(empty, streams=(replace(empty.streams[0], columns=(pulses, nothing)),))
    drawn = overlay(*((empty, run) if first else (run, empty)))
    assert drawn.drawing is not None
    assert drawn.notes == ("run b2c3d4e5: signal has no value that can be drawn",)
