"""The spectrometer's view: what it keeps of the messages, and what the page shows of it."""

import asyncio
import base64
import io
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.page import client_of, settings_of, settings_with

from dashboard.psss.spectra import COLUMNS, ROWS, TREND_S, SpectrumBoard
from dashboard.psss.spectrum_worker import encode_spectra
from dashboard.psss.view import IOC, PLANS, draw_spectra, draw_trends, figure
from devices.psss.view import SpectrumFacts
from plans.psss import spectrum as spectrum_plans
from skywright.config import Settings

X = np.linspace(8970.0, 9030.0, 2560)
FACTS: dict[str, Any] = {
    **SpectrumFacts(
        center=9001.5, fwhm=12.25, fit_status="OK", unit="EV", state="processing"
    ).__dict__,
    "connected": True,
    "center_error": float("nan"),
}


def spectrum(center: float) -> np.ndarray:
    return 100.0 + 900.0 * np.exp(-(((X - center) / 5.0) ** 2) / 2.0)


def message(pulse_id: int, center: float = 9001.5) -> bytes:
    y = spectrum(center)
    return encode_spectra({**FACTS, "pulse_id": float(pulse_id), "center": center}, (X, y, 0.5 * y))


def test_messages_become_spectrum_waterfall_and_trend() -> None:
    board = SpectrumBoard(clock=count(1000.0, 0.5).__next__)
    for n in range(ROWS + 5):
        board.take(message(n, 9000.0 + n / 10.0))
    assert len(board.x) <= COLUMNS
    assert board.x[np.argmax(board.y)] == pytest.approx(9000.0 + (ROWS + 4) / 10.0, abs=0.2)
    np.testing.assert_allclose(board.average, 0.5 * board.y, rtol=1e-6)
    seconds, centers, _ = board.trend
    assert (seconds[0], seconds[-1]) == (-(ROWS + 4) / 2.0, 0.0)
    assert centers[0] == pytest.approx(9000.0)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(board.waterfall().split(",")[1]))))
    assert picture.shape == (ROWS, len(board.x), 3)
    bright = picture.sum(axis=2).argmax(axis=1)
    assert bright[0] > bright[-1]  # newest on top, and the line moves up


def test_a_pulse_from_before_a_pause_leaves_the_trend() -> None:
    board = SpectrumBoard(clock=iter([0.0, TREND_S, TREND_S + 3600.0, TREND_S + 3600.5]).__next__)
    for n in range(2):
        board.take(message(n))
    assert list(board.trend[0]) == [-TREND_S, 0.0]
    for n in range(2, 4):
        board.take(message(n))
    assert list(board.trend[0]) == [-0.5, 0.0]


def test_a_step_of_the_clock_of_the_computer_is_not_in_the_trend() -> None:
    assert SpectrumBoard().clock is time.monotonic


def test_centers_in_pixels_and_in_ev_are_not_in_one_trend() -> None:
    board = SpectrumBoard()
    board.take(message(1))
    board.take(encode_spectra({**FACTS, "unit": "PIXEL", "pulse_id": 2.0}, (X, X, X)))
    assert len(board.trend[0]) == 1


def test_an_ioc_that_begins_again_leaves_nothing_of_the_spectra_before() -> None:
    board = SpectrumBoard()
    board.take(message(1))
    began = {**SpectrumFacts(unit="PIXEL", fit_status="NO_IMAGE").__dict__, "connected": True}
    board.take(encode_spectra(began))
    assert draw_spectra(board) == draw_trends(board) == []  # else with the unit of the new start
    assert board.waterfall() == ""


def test_a_picture_of_another_size_begins_a_new_waterfall() -> None:
    board = SpectrumBoard()
    board.take(message(1))
    board.take(encode_spectra({**FACTS, "pulse_id": 2.0}, (X[:400], X[:400], X[:400])))
    assert len(board.y) == 400
    assert (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(board.waterfall()[22:])))).shape[0] == 1
    )


def test_another_axis_begins_a_new_waterfall() -> None:
    board = SpectrumBoard()
    for axis, rows in ((X, 1), (X, 2), (X + 1.0, 1)):
        board.take(encode_spectra({**FACTS, "pulse_id": 1.0}, (axis, X, X)))
        with Image.open(io.BytesIO(base64.b64decode(board.waterfall()[22:]))) as image:
            assert image.height == rows


def test_an_ioc_that_is_away_is_said_and_the_last_spectrum_stays() -> None:
    board = SpectrumBoard()
    board.take(message(1))
    board.take(encode_spectra({"connected": False, "status": "the IOC does not answer"}))
    assert board.status == "the IOC does not answer"
    assert len(board.y)
    board.take(message(2))
    assert board.status == ""


def test_each_message_is_a_version() -> None:
    async def versions() -> list[str]:
        async def messages() -> AsyncIterator[bytes]:
            yield message(1)
            yield message(2)

        return [version async for version in SpectrumBoard().changes(messages())]

    first, second = asyncio.run(versions())
    assert int(second) == int(first) + 1


def test_nan_is_null_on_the_wire() -> None:
    assert json.loads(message(1).split(b"\n")[0])["center_error"] is None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with(tmp_path, "psss", "PSSS1:")


@pytest.fixture
def page(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as client:
        yield client


def test_page_before_and_after_the_first_pulse(page: TestClient) -> None:
    before = page.get("/psss").text
    assert "waiting for the spectrometer" in before
    assert "No pulse yet" in before
    IOC.board_of(page.app.state.site).take(message(77))  # type: ignore[attr-defined]
    after = page.get("/psss").text
    assert "9001.5 eV" in after
    assert "12.25 eV" in after
    assert 'href="data:image/png' in after
    assert "photon energy, eV" in after
    assert "time from the newest pulse, s" in after
    assert ">77<" in after
    # A word of explanation on hover, for each figure.
    assert 'title="full width at half maximum of that Gaussian"><dt>FWHM</dt>' in after
    assert "<div><dt>" not in after
    columns = {**FACTS, "unit": "PIXEL", "pulse_id": 78.0}
    IOC.board_of(page.app.state.site).take(encode_spectra(columns, (X, X, X)))  # type: ignore[attr-defined]
    without_axis = page.get("/psss").text
    assert "9001.5 px" in without_axis
    assert "column, px" in without_axis
    assert " eV" not in without_axis


def test_values_that_are_not_followed_any_more_are_not_shown_as_live(page: TestClient) -> None:
    """Nobody has looked for an hour: the first page then has the values of an hour ago."""
    board = IOC.board_of(page.app.state.site)  # type: ignore[attr-defined]

    async def look() -> str:
        async def messages() -> AsyncIterator[bytes]:
            yield message(77)

        async for _ in board.changes(messages()):
            live = await asyncio.to_thread(lambda: page.get("/psss").text)
        return live

    live = asyncio.run(look())
    assert "9001.5 eV" in live
    assert 'class="note"' not in live
    assert 'class="stale"' not in live
    later = page.get("/psss").text
    assert "9001.5 eV" in later
    assert "waiting for the spectrometer; what is shown was received at 2" in later
    assert 'class="stale"' in later


@pytest.mark.parametrize("axis", [X, X[::-1]])
def test_a_line_is_at_one_place_in_the_spectrum_and_in_the_waterfall(axis: np.ndarray) -> None:
    y = spectrum(8985.0)[:: 1 if axis is X else -1]
    board = SpectrumBoard()
    board.take(encode_spectra({**FACTS, "pulse_id": 1.0}, (axis, y, y)))
    root = ET.fromstring(draw_spectra(board)[0])
    path = next(each for each in root.iter("path")).get("d") or ""
    points = np.array([list(map(float, each.split())) for each in re.split("[ML]", path)[1:]])
    top_of_curve = points[points[:, 1].argmin(), 0]
    image = next(root.iter("image"))
    left, width = float(image.get("x") or ""), float(image.get("width") or "")
    png = base64.b64decode((image.get("href") or "").split(",")[1])
    brightness = np.asarray(Image.open(io.BytesIO(png))).sum(axis=2)[0]
    place = left + width * (np.median(np.flatnonzero(brightness == brightness.max())) + 0.5) / len(
        brightness
    )
    if moved := re.match(r"translate\((\S+) 0\) scale\(-1 1\)", image.get("transform") or ""):
        place = float(moved[1]) - place
    assert place == pytest.approx(top_of_curve, abs=2.0)
    assert bool(moved) == (axis is not X)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(9001.2345, 0.4666, "9001.23 ± 0.47 eV"), (12.5, 13.0, "12 ± 13 eV"), (None, None, "–")],
)
def test_a_figure_has_as_many_digits_as_its_error(
    value: float | None, error: float | None, text: str
) -> None:
    assert figure(value, error, "eV") == text


def test_page_without_a_spectrometer(tmp_path: Path) -> None:
    bare = settings_of(tmp_path, "", "", tmp_path)
    bare = bare.model_copy(update={"iocs": {k: v for k, v in bare.iocs.items() if k != "psss"}})
    with client_of(bare) as client:
        assert "No spectrometer is configured" in client.get("/psss").text


def test_runs_of_every_plan_are_listed() -> None:
    plans = {name for name in spectrum_plans.__all__ if name.islower()}
    assert set(PLANS) == plans - {"record_pulses"}  # it goes around any plan
