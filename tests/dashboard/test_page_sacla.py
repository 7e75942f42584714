"""The shots' view: messages, charts, who may put what, and regions drawn in a real browser."""

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from epics.ca import ChannelAccessException
from ioc_process import running_ioc
from markupsafe import Markup
from PIL import Image
from starlette.testclient import TestClient
from support.page import client_of, running_page, settings_with
from support.waiting import until

from benchmarks.headless import headless_chromium
from dashboard.chart import Curve, Marks
from dashboard.color_map import false_color_png
from dashboard.sacla import operate_worker, view
from dashboard.sacla.board import ShotBoard
from dashboard.sacla.shots_worker import encode_facts
from dashboard.sacla.view import (
    IOC,
    correlation,
    draw_curves,
    draw_histogram,
    draw_scatter,
    draw_values,
)
from dashboard.worker import BUFFER_BYTES, _read
from devices.sacla.operated import OperatedShots
from devices.sacla.view import RECENT, ShotFacts
from skywright.config import Settings
from skywright.instruments.sacla.mean_images import autocorrelation
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.shots import COUNTS, CURVES

NAME = "MPCCD-1N0-M06-004"
REGIONS = f"spot:{NAME}:1,1;9,1;9,9 rim:{NAME}:0,0;3,0;3,3"
SAME = {"origin": "http://127.0.0.1"}


def facts(**more: Any) -> ShotFacts:
    edges = np.linspace(-1.0, 1.0, 5)
    curve = np.array([[1.0, 2.0, np.nan, 4.0], [0.1, 0.2, 0.3, 0.4]])
    count = 700
    image = np.arange(48, dtype=np.float32).reshape(8, 6)
    image[3, 2] = np.nan
    recent = {key: np.arange(count, dtype=float) for key in RECENT}
    return ShotFacts(
        **{
            "run": 501,
            "tag": 400_000_077.0,
            "rate": 59.9,
            "message": "taking shots",
            "regions": REGIONS,
            "regions_number": 3,
            "detectors": NAME,
            "shown_detector": NAME,
            "counts": dict.fromkeys(COUNTS, 7),
            "edges": edges,
            "curves": dict.fromkeys(CURVES, curve),
            "photon_hist": np.full((2, 8), 5.0),
            "recent": recent | {"laser_on": np.arange(count) % 2.0},
            "shown_region": "spot",
            "center": (10.0, 12.0),
            "image": image,
            "step": 4,
            "image_shots": 33,
            **more,
        }
    )


def test_a_message_with_the_most_curves_is_read() -> None:
    """64 regions of 400 bins each are 5 MB of text."""
    curves = {key: np.full((64, 400), 1 / 3) for key in CURVES}
    message = encode_facts(facts(edges=np.linspace(-1.0, 1.0, 401), curves=curves), 500)
    assert message.index(b"\n") > 4 * BUFFER_BYTES

    async def scenario() -> list[bytes]:
        output = asyncio.StreamReader(limit=BUFFER_BYTES)
        output.feed_data(2 * message)
        output.feed_eof()
        return [each async for _, each in _read(output)]

    assert asyncio.run(scenario()) == [message, message]


def test_a_worker_that_stops_within_a_message_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.worker.START_S", 0.05)

    async def scenario() -> list[bytes]:
        output = asyncio.StreamReader()
        output.feed_data(b'{"connected": true, "bytes": 5}\nab')
        return [each async for _, each in _read(output)]

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == []


def test_a_message_carries_the_newest_shots_and_the_image() -> None:
    board = ShotBoard()
    message = encode_facts(facts(), 500)
    header = json.loads(message.split(b"\n")[0])
    assert header["curves"]["diff"][0][2] is None
    board.take(message)
    assert board.status == ""
    tags = board.array("recent", "tag")
    assert (len(tags), tags[-1]) == (500, 699.0)
    assert np.isnan(board.array("curves", "diff")[0, 2])
    picture = np.asarray(Image.open(io.BytesIO(false_color_png(board.image))))
    assert picture.shape == (8, 6, 4)
    assert picture[3, 2, 3] == 0  # a bad pixel
    assert picture[7, 5, :3].sum() > picture[0, 0, :3].sum()


def test_a_center_that_is_not_known_is_null() -> None:
    header = encode_facts(facts(center=(np.nan, 12.0)), 500).split(b"\n")[0]
    assert json.loads(header, parse_constant=pytest.fail)["center"] == [None, 12.0]


def test_an_ioc_that_is_away_is_told_and_the_last_curves_stay() -> None:
    board = ShotBoard()
    board.take(encode_facts(facts(), 10))
    before = board.number
    board.take(b'{"connected": false, "status": "the IOC does not answer", "bytes": 0}\n')
    assert board.status == "the IOC does not answer"
    assert board.facts["run"] == 501
    assert board.number > before


def test_the_charts_of_a_message_are_drawn_once_for_all_who_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(view, "draw_curves", lambda _: drawn.append(1) or drawn[:])
    board = ShotBoard()
    for count in (1, 2):
        board.take(encode_facts(facts(), 500))
        assert view.draw_all(board)["curves"] == view.draw_all(board)["curves"] == [1] * count


@pytest.mark.parametrize("before", [0.0, 2e6], ids=["a pause", "tags that begin anew"])
def test_shots_from_before_do_not_squeeze_the_plot_over_the_tag(before: float) -> None:
    tags = np.arange(700.0) + np.where(np.arange(700) < 600, before, 1e6)
    board = ShotBoard()
    board.take(encode_facts(facts(recent={**facts().recent, "tag": tags}), 500))
    charts = {title.partition(",")[0]: chart for title, chart in draw_scatter(board)}
    assert charts["spot against I0"].count("<circle") == 251  # one in the legend
    assert charts["spot against the tag"].count("<circle") == 51


def test_a_point_without_an_error_does_not_look_like_a_precise_one() -> None:
    curve = np.array([[1.0, 2.0, np.nan, 4.0], [0.1, 0.2, 0.3, 0.4]])
    error = np.array([[0.1, 0.2, np.nan, np.nan], [0.1, 0.1, 0.1, 0.1]])
    curves = {key: error if key.endswith("_sem") else curve for key in CURVES}
    board = ShotBoard()
    board.take(encode_facts(facts(curves=curves), 10))
    charts = dict(draw_curves(board.facts))
    spot = charts["spot: laser on - off against the delay"]
    groups = dict(re.findall(r'<g class="marks ([a-z ]+)">\n(.*?)</g>', spot, re.DOTALL)[:2])
    assert groups["a"].count("<circle") == 2
    assert groups["a open"].count("<circle") == 1
    assert "difference, error not known" in spot
    assert "open" not in charts["rim: laser on - off against the delay"]


Drawn = list[tuple[list[Marks], list[Curve]]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is given to be drawn."""
    found: Drawn = []

    def draw(marks: list[Marks], curves: list[Curve], *_: str) -> Markup:
        found.append((marks, curves))
        return Markup()

    monkeypatch.setattr(view, "draw_chart", draw)
    return found


def test_points_are_in_the_middle_of_their_bins_with_their_errors(drawn: Drawn) -> None:
    board = ShotBoard()
    keys = ("diff", "on_mean", "off_mean")
    curves = {key: np.full((2, 4), float(k)) for k, key in enumerate(keys)}
    errors = {key: np.full((2, 4), 0.25) for key in CURVES if key.endswith("_sem")}
    board.take(encode_facts(facts(curves=facts().curves | curves | errors), 10))
    draw_curves(board.facts)
    (difference, _), ((on, off), bars) = drawn[:2]
    assert difference[0].x.tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert (difference[0].y == 0.0).all()
    assert [(each.label, each.style) for each in (on, off)] == [
        ("laser on", "a"),
        ("laser off", "b"),
    ]
    assert ((on.y == 1.0) & (off.y == 2.0)).all()
    assert bars[0].y[:2].tolist() == [0.75, 1.25]
    assert bars[1].y[:2].tolist() == [1.75, 2.25]


def test_shots_with_and_without_laser_are_told_apart(drawn: Drawn) -> None:
    recent = {**facts().recent, "laser_on": (np.arange(700) < 100) * 1.0}
    board = ShotBoard()
    board.take(encode_facts(facts(recent=recent), 700))
    draw_scatter(board)
    (on, off), _ = drawn[0]
    assert [(each.label, len(each.x)) for each in (on, off)] == [
        ("laser on", 100),
        ("laser off", 600),
    ]
    assert off.x.tolist() == list(range(100, 700))


def test_pixels_are_shown_as_powers_of_ten_and_hits_as_parts_of_a_hundred(drawn: Drawn) -> None:
    board = ShotBoard()
    counts, rates = np.full((2, 8), 1000.0), np.array([0.25, np.nan])
    board.take(encode_facts(facts(photon_hist=counts, hit_rate=rates), 10))
    ((title, _),) = draw_histogram(board)
    assert title.endswith("; hit rate: spot 25.0 %")
    assert drawn[0][0][0].y == pytest.approx(np.full(8, 3.0))


def test_few_or_equal_values_have_no_correlation() -> None:
    x = np.arange(20.0)
    assert correlation(x, -x) == ", r = -1.000 without laser"
    assert correlation(x[:9], x[:9]) == ""
    assert correlation(np.where(x < 9, x, np.nan), x) == ""
    assert correlation(np.ones(20), x) == correlation(x, np.ones(20)) == ""


@pytest.mark.parametrize("side", ["on", "off"])
def test_a_curve_of_one_side_is_a_curve(side: str) -> None:
    none = dict.fromkeys(CURVES, np.full((2, 4), np.nan))
    board = ShotBoard()
    board.take(encode_facts(facts(curves=none), 10))
    assert not board.curve_facts
    board.take(encode_facts(facts(curves={**none, f"{side}_mean": np.ones((2, 4))}), 10))
    assert board.curve_facts is board.facts


def test_regions_of_a_histogram_can_be_told_apart() -> None:
    names = [f"region{k}" for k in range(6)]
    regions = " ".join(f"{name}:{NAME}:1,1;9,1;9,9" for name in names)
    board = ShotBoard()
    board.take(encode_facts(facts(regions=regions, photon_hist=np.full((6, 8), 5.0)), 10))
    ((_, chart),) = draw_histogram(board)
    groups = re.findall(r'<g class="marks (.)">\n<(circle|rect) [^>]*>\n</g>\n<text', chart)
    assert len(groups) == len(set(groups)) == len(names)


def test_bins_of_another_value_name_their_axis_and_values_have_histograms() -> None:
    random = np.random.default_rng(1)
    i0 = random.normal(1.0, 0.2, 700)
    laser_on = np.arange(700) % 2.0
    recent = {**facts().recent, "i0": i0, "sum": 300 * i0, "laser_on": laser_on}
    board = ShotBoard()
    board.take(encode_facts(facts(recent=recent, binned_by="i0"), 700))
    assert draw_curves(board.facts)[0][0] == "spot: laser on - off against I0"
    assert draw_scatter(board)[0][0] == "spot against I0, r = 1.000 without laser"
    (title, _), (linear, _), (logarithmic, _) = draw_values(board)
    assert linear.startswith("spot of the last 700 analyzed shots: mean ")
    assert logarithmic == "spot of the same shots, logarithmic bins; 0 at or below 0"
    assert title.startswith("I0 of the last 700 analyzed shots: mean ")
    words = title.replace(",", "").split()
    assert float(words[words.index("mean") + 1]) == pytest.approx(i0.mean(), rel=1e-3)
    assert float(words[-2]) == pytest.approx(i0.std(), rel=0.1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with(tmp_path, "sacla", "SACLA1:")


@pytest.mark.parametrize("error", [TimeoutError(), ChannelAccessException("disconnected")])
def test_an_operation_says_that_the_ioc_is_lost(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lost(shots: OperatedShots) -> str:
        raise error

    monkeypatch.setattr(OperatedShots, "wait_for_connection", lambda shots, timeout: None)
    monkeypatch.setattr(OperatedShots, "regions_now", lost)
    answer = operate_worker.operate("NO:SUCH:", {"remove": "spot"})
    assert answer == {"error": "the IOC does not answer"}


@pytest.fixture(params=[False, True], ids=["shows", "operates"])
def page(request: pytest.FixtureRequest, settings: Settings) -> Iterator[TestClient]:
    with client_of(settings, operate=request.param) as client:
        yield client


def operates(page: TestClient) -> bool:
    return bool(page.app.state.site.operate)  # type: ignore[attr-defined]


def test_page_before_and_after_the_first_shot(page: TestClient) -> None:
    before = page.get("/sacla").text
    assert "waiting for the IOC of the shots" in before
    assert "No curve of the present regions and bins yet. Shots are taken" in before
    for image in ("mean", "autocorrelation"):
        assert page.get(f"/sacla/{image}.png").status_code == 404
    IOC.board_of(page.app.state.site).take(encode_facts(facts(), 500))  # type: ignore[attr-defined]
    after = page.get("/sacla").text
    assert "400000077" in after
    assert 'title="shots that pass all filters"><dt>accepted</dt>' in after
    assert "<div><dt>" not in after
    for title in (
        "spot: laser on - off against the delay",
        "rim: sum / I0 against the delay",
        "rim: sum of sums / sum of I0 against the delay",
        "spot against I0",
        "spot against the tag",
        "pixels by their photons",
    ):
        assert title in after
    assert page.get("/sacla/mean.png").headers["content-type"] == "image/png"
    now = page.get("/sacla/now").json()
    assert now["shape"] == [8, 6]
    assert now["detector"] == NAME
    assert now["colors"] == [f"{each:.4g}" for each in np.nanpercentile(facts().image, (1, 99.5))]
    assert (now["region"], now["center"]) == ("spot", [10.0, 12.0])
    image = np.nan_to_num(facts().image)
    rows, columns = (4 * np.arange(length) + 1.5 for length in image.shape)
    mass = [image.sum(axis=0) @ columns, image.sum(axis=1) @ rows] / image.sum()
    assert now["mass"] == pytest.approx(mass, abs=0.01)
    correlated = autocorrelation(facts().image).astype(np.float32)
    assert page.get("/sacla/autocorrelation.png").content == false_color_png(correlated)
    assert (now["step"], now["regions"], now["operate"]) == (4, REGIONS, operates(page))
    assert page.get("/static/sacla/regions.js").status_code == 200


def test_the_curve_of_a_scan_stays_when_its_bins_are_put_back(page: TestClient) -> None:
    board = IOC.board_of(page.app.state.site)  # type: ignore[attr-defined]
    none, note = np.full((2, 8), np.nan), "these curves are of those before"
    absent = "No curve of the present regions and bins yet. Shots are taken"
    restored = facts(edges=np.linspace(-2.0, 3.0, 9), curves=dict.fromkeys(CURVES, none))
    board.take(encode_facts(restored, 500))
    assert absent in page.get("/sacla").text
    board.take(encode_facts(facts(), 500))
    scan = page.get("/sacla").text
    board.take(encode_facts(restored, 500))
    after = page.get("/sacla").text
    charts = [re.findall("<svg.*?</svg>", text, re.DOTALL) for text in (scan, after)]
    assert charts[0] == charts[1]
    assert (note in scan, note in after) == (False, True)


def test_only_a_page_that_operates_may_put_and_only_for_itself(page: TestClient) -> None:
    wanted = json.dumps({"add": "MPCCD-1:0,0;4,0;4,4"})
    for origin in ({}, {"origin": "http://elsewhere"}):
        assert page.post("/sacla/put", content=wanted, headers=origin).status_code == 403
    own = page.post("/sacla/put", content=wanted, headers=SAME)
    assert own.status_code == (503 if operates(page) else 403)  # 503: no skywright up runs
    if operates(page):
        assert "no skywright up runs" in own.text
        for wrong in (b"", b"[1]", b'{"add": 3}', b'{"add": "-x"}', b"{"):
            assert page.post("/sacla/put", content=wrong, headers=SAME).status_code == 400
        large = b'{"add": "' + b"x" * 40_000 + b'"}'
        assert page.post("/sacla/put", content=large, headers=SAME).status_code == 413


ROWS, COLUMNS = 128, 96
FIRST, SECOND = (f"MPCCD-8N0-3-002-{k}" for k in (1, 2))


@pytest.fixture(scope="module")
def operated(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page that operates a simulated beamline; there is no catalog."""
    store = tmp_path_factory.mktemp("shots")
    whole = f"all:{FIRST}:-0.5,-0.5;95.5,-0.5;95.5,127.5;-0.5,127.5"
    size = (
        "--rows",
        str(ROWS),
        "--columns",
        str(COLUMNS),
        "--pool",
        "16",
        "--tiles",
        "2",
        "--rate",
        "5",  # the page is the same, and the browser draws a sixth as often
        "--roi",
        whole,
    )
    with running_ioc("iocs.sacla", "--source", "sim", *size, prefix="PAGE:SACLA1:") as ioc:
        config = store / "skywright.toml"
        config.write_text(
            'prefix = "PAGE:"\n'
            f'[store]\ndirectory = "{store}"\ntiled_uri = "http://127.0.0.1:1"\napi_key = "none"\n'
            '[iocs.sacla]\nmodule = "iocs.sacla"\nprefix = "SACLA1:"\n'
            f'address = "127.0.0.1:{ioc.port}"\n'
        )
        with running_page(config, "--operate") as running:
            yield running.uri


def test_a_mask_has_the_outline_of_its_pixels_and_of_its_hole(tmp_path: Path) -> None:
    ring = np.zeros((ROWS, COLUMNS), bool)
    ring[10:30, 20:60] = True
    ring[15:20, 30:50] = False
    np.save(tmp_path / "ring.npy", ring)
    texts = f"{REGIONS} ring:{NAME}:mask={tmp_path}/ring.npy gone:{NAME}:mask={tmp_path}/gone.npy"
    header = json.loads(encode_facts(facts(regions=texts), 10).split(b"\n")[0])
    assert list(header["outlines"]) == ["ring"]
    outer, inner = (np.array(curve) for curve in header["outlines"]["ring"])
    for curve, corners in (
        (outer, [[19.5, 9.5], [59.5, 29.5]]),
        (inner, [[29.5, 14.5], [49.5, 19.5]]),
    ):
        np.testing.assert_allclose([curve.min(axis=0), curve.max(axis=0)], corners, atol=0.51)


def test_regions_drawn_with_the_mouse_hold_from_the_next_shot_on(
    operated: str, tmp_path: Path
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    with headless_chromium(1280, 1400) as browser:

        def find(selector: str) -> Any:
            return browser.find_element("css selector", selector)

        def names() -> list[str]:
            shown = "[...document.querySelectorAll('figure.regions text')]"
            return list(browser.execute_script(f"return {shown}.map(t => t.textContent)"))

        def regions() -> dict[str, Any]:
            script = "return fetch('/sacla/now').then(a => a.json()).then(a => a.regions)"
            found = map(parse_region, browser.execute_script(script).split())
            return {region.name: np.array(region.points) for region in found}

        def detectors() -> dict[str, str]:
            script = "return fetch('/sacla/now').then(a => a.json()).then(a => a.regions)"
            found = map(parse_region, browser.execute_script(script).split())
            return {region.name: region.detector for region in found}

        browser.get(f"{operated}/sacla")
        until(lambda: names() == ["all"], 90, "the region of the start is shown")
        assert not find("figure.regions img").is_displayed()  # no broken picture before the first
        find("[data-draw=run]").click()
        until(lambda: find("figure.regions img").get_property("naturalHeight"), 90, "an image")
        drawing = find("figure.regions svg")
        width, height = drawing.size["width"], drawing.size["height"]

        find("[data-draw=rectangle]").click()
        mouse = ActionChains(browser).move_to_element_with_offset(drawing, -width // 4, 0)
        mouse.click_and_hold().move_by_offset(width // 4, height // 4).release().perform()
        until(lambda: "roi1" in names(), 60, "the rectangle is shown")
        until(lambda: "roi1" in regions(), 60, "the IOC has the rectangle")
        box = regions()["roi1"]
        # A pixel of the screen is less than two of the detector.
        np.testing.assert_allclose(box.min(axis=0), [COLUMNS / 4, ROWS / 2], atol=2.0)
        np.testing.assert_allclose(box.max(axis=0), [COLUMNS / 2, ROWS * 3 / 4], atol=2.0)

        find("[data-draw=polygon]").click()
        ActionChains(browser).move_to_element(drawing).click().pause(0.6).move_by_offset(
            width // 4, 0
        ).click().pause(0.6).move_by_offset(0, height // 4).click().perform()
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        until(lambda: "roi2" in regions(), 60, "the IOC has the polygon")
        polygon = regions()["roi2"]
        np.testing.assert_allclose(polygon[0], [COLUMNS / 2, ROWS / 2], atol=2.0)
        np.testing.assert_allclose(polygon[2], [COLUMNS * 3 / 4, ROWS * 3 / 4], atol=2.0)
        until(lambda: "roi2: laser on - off" in browser.page_source, 90, "its curve is drawn")

        # The image goes on with the shots, as the curves do.
        def caption() -> str:
            return str(find("[data-regions=caption]").text)

        before, source = caption(), find("figure.regions img").get_attribute("src")
        until(lambda: caption() != before, 60, "the caption of the mean image has more shots")
        until(lambda: find("figure.regions img").get_attribute("src") != source, 60, "and shown")

        # Another page adds a region that this one does not show yet: it stays.
        add = {"add": f"{FIRST}:1,1;9,1;9,9"}
        request = {"method": "POST", "body": json.dumps(add)}
        browser.execute_script("fetch('/sacla/put', arguments[0])", request)
        ActionChains(browser).double_click(find("[aria-label='Remove roi1']")).perform()
        until(lambda: list(regions()) == ["all", "roi2", "roi3"], 60, "the rectangle is gone")
        until(lambda: "roi1" not in names(), 60, "the page shows that it is gone")
        assert find("[data-regions=error]").text == ""

        ring = np.ones((ROWS, COLUMNS), bool)
        ring[9:-9, 9:-9] = False
        np.save(tmp_path / "ring.npy", ring)
        request["body"] = json.dumps({"add": f"{FIRST}:mask={tmp_path}/ring.npy"})
        browser.execute_script("fetch('/sacla/put', arguments[0])", request)
        drawn = (
            "[...document.querySelectorAll('figure.regions path:not(.mass)')].map(p => p.outerHTML)"
        )
        until(
            lambda: any(path.count("M") == 2 for path in browser.execute_script(f"return {drawn}")),
            60,
            "the mask is drawn with its hole",
        )

        # The single shots of another region are plotted.
        Select(find("[data-regions=region]")).select_by_value("roi2")
        until(lambda: "roi2 against I0" in browser.page_source, 60, "its shots are plotted")

        # Nothing is put while the server is away: the page says so, and shows what holds.
        browser.execute_script(
            "const fetched = window.fetch; window.fetch = (...all) => all[1].method"
            " ? (window.fetch = fetched, Promise.reject(new Error('away'))) : fetched(...all)"
        )
        Select(find("[data-regions=region]")).select_by_value("all")
        error = find("[data-regions=error]")
        until(lambda: error.text == "not put: away", 60, "the failure is shown")
        chosen = find("[data-regions=region]")
        until(lambda: chosen.get_property("value") == "roi2", 60, "what holds is shown")
        # The next look at the regions fails; the page's other requests are not counted.
        browser.execute_script(
            "const fetched = window.fetch; window.fetch = (...all) => all[0].endsWith('/sacla/now')"
            " ? (window.fetch = fetched, Promise.reject(new Error('away'))) : fetched(...all)"
        )
        until(lambda: error.text == "", 60, "the server is back")

        # The other tile: no region of the first one is drawn on it, and a new one is its own.
        Select(find("[data-regions=detector]")).select_by_value(SECOND)
        until(lambda: SECOND in caption(), 60, "the other tile is shown")
        assert names() == []
        assert find("[data-regions=detector]").get_property("value") == SECOND
        find("[data-draw=rectangle]").click()
        drawing = find("figure.regions svg")
        mouse = ActionChains(browser).move_to_element_with_offset(drawing, -width // 4, 0)
        mouse.click_and_hold().move_by_offset(width // 4, height // 4).release().perform()
        until(names, 60, "the rectangle is shown")
        (new,) = names()
        shown = dict.fromkeys(("all", "roi1", "roi2", "roi3"), FIRST)
        until(lambda: detectors() == {**shown, new: SECOND}, 60, "each is on its own tile")

        # An IOC that has begun again has no mean image: the one of before is not shown as its own.
        browser.execute_script(
            "const fetched = window.fetch; window.fetch = (...all) =>"
            " all[0].endsWith('/sacla/now') ? fetched(...all).then(a => a.json()).then(now =>"
            " new Response(JSON.stringify({...now, shape: [0, 0], shots: 0}))) : fetched(...all)"
        )
        until(lambda: not find("figure.regions img").is_displayed(), 60, "no image is shown")
        assert caption() == "No mean image yet."
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []
