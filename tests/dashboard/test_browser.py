"""The live page as a person uses it: headless Chromium on real servers."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import epics
import httpx
import pytest
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from ioc_process import IocProcess, running_ioc
from PIL import Image
from store.stack import Stack, running_stack
from support.channels import channel
from support.page import LivePage, running_page
from support.sample_runs import DERIVED_V1, SCAN, T0, RunMaker, key, store_derived, store_scan
from support.seen_rotation import FACE_DEG, analysis, rotation

from benchmarks.headless import headless_chromium, show_as
from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.journal import Journal
from skywright.instruments.loop.series_run import RecordedDetection, SeriesRun
from skywright.instruments.loop.turn import LoopTurn

LIMIT_S = 120.0
SCENE = {"side": "left", "light": "backlight", "level": 180.0, "contrast": 0.9, "focus_um": 0.0,
         "nozzle": None, "ice_um": 0.0, "drop_um": 40.0}  # fmt: skip
BEAMLINE, CAMERA = "PAGE:", "AXIS1:"
PHONE = (360, 740)
VIEWS = ("/runs", f"/runs/{SCAN}", f"/runs/{DERIVED_V1}", "/loop", "/state")


@pytest.fixture(scope="module")
def stack(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("page")) as stack:
        client, assets = stack.client(), stack.directory / "assets"
        store_scan(TiledWriter(client["raw"]), assets)
        store_derived(TiledWriter(client["analysis"]), assets, DERIVED_V1, T0 + 60, "1.1")
        yield stack


@pytest.fixture(scope="module")
def camera(chromium: Path) -> Iterator[IocProcess]:
    args = ("--seed", "10", "--kind", "nylon", "--fps", "10", "--scene", json.dumps(SCENE))
    with running_ioc("iocs.axis", *args, prefix=BEAMLINE + CAMERA) as process:
        yield process


@pytest.fixture(scope="module")
def config(stack: Stack, camera: IocProcess) -> Path:
    file = stack.directory / "skywright.toml"
    file.write_text(
        f'prefix = "{BEAMLINE}"\n'
        f'[store]\ndirectory = "{stack.directory}"\n'
        f'tiled_uri = "{stack.uri}"\napi_key = "{stack.key}"\n'
        f'[iocs.axis]\nmodule = "iocs.axis"\nprefix = "{CAMERA}"\n'
        f'address = "127.0.0.1:{camera.port}"\n'
    )
    return file


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[LivePage]:
    with running_page(config, patient=True) as page:
        yield page


@pytest.fixture
def page(server: LivePage) -> str:
    return server.uri


@pytest.fixture(scope="module")
def chrome(server: LivePage) -> Iterator[Any]:
    with headless_chromium() as browser:
        yield browser


@pytest.fixture
def browser(chrome: Any) -> Iterator[Any]:
    """The browser, light and wide; what it complains of fails the test."""
    show_as(chrome, 1280, 900)
    chrome.get_log("browser")
    yield chrome
    severe = [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    chrome.get("about:blank")
    assert severe == []


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`, asked of the browser again and again."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    ignored = (StaleElementReferenceException,)
    waiting = WebDriverWait(None, LIMIT_S, 0.05, ignored)  # type: ignore[type-var]
    return waiting.until(lambda _: condition(), f"not within {LIMIT_S} s: {what}")


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def listed(browser: Any) -> list[str]:
    """Return the uids that the page lists."""
    script = "return [...document.querySelectorAll('tbody tr td:first-child a')].map(a => a.href)"
    return [href.rpartition("/")[2] for href in browser.execute_script(script)]


def store_run(stack: Stack, **metadata: Any) -> str:
    run = compose_run(metadata={"plan_name": "count", **metadata})
    writer = TiledWriter(stack.client()["raw"])
    writer("start", run.start_doc)
    writer("stop", run.compose_stop())
    return str(run.start_doc["uid"])


def test_search_and_look(browser: Any, page: str) -> None:
    """Type a word, open the run that is found, look through its frames, follow its lineage."""
    browser.get(page)
    until(lambda: SCAN in listed(browser), "the run is listed")
    box = find(browser, "input[type=search]")
    box.send_keys("nothing of the kind")
    until(lambda: "No run matches" in find(browser, "#runs").text, "nothing is found")
    box.clear()
    box.send_keys("lysozyme")
    until(lambda: set(listed(browser)) == {SCAN, DERIVED_V1}, "both are found")
    assert browser.current_url.endswith("?q=lysozyme")

    find(browser, f'a[href="/runs/{SCAN}"]').click()
    until(lambda: find(browser, "h1").text.startswith("scan"), "the run is shown")
    frames = find(browser, "figure.frames")
    image = find(frames, "img")
    slider = find(frames, "input")
    assert "of 5" in find(frames, "label").text
    slider.send_keys("\ue010")  # End
    until(lambda: image.get_attribute("src").endswith("/4.jpg"), "the last frame is asked for")
    until(lambda: image.get_property("naturalWidth") == 64, "it is shown")
    drawn = find(browser, ".gallery img")
    browser.execute_script("arguments[0].scrollIntoView()", drawn)
    until(lambda: drawn.get_property("naturalWidth") == 64, "what the analysis drew is shown")

    find(browser, f'.analysis a[href="/runs/{DERIVED_V1}"]').click()
    until(lambda: find(browser, ".lineage a").is_displayed(), "the derived run is shown")
    assert find(browser, ".lineage a").get_attribute("href").endswith(SCAN)


def test_what_a_reader_opened_and_typed_stays_when_the_page_follows(
    browser: Any, page: str, stack: Stack
) -> None:
    browser.get(f"{page}/runs/{SCAN}")
    find(browser, "figure.frames input").send_keys("\ue010")  # End
    until(lambda: find(browser, "figure.frames img").get_attribute("src").endswith("/4.jpg"), "end")
    browser.execute_script("[...document.querySelectorAll('details')].pop().open = true")
    find(browser, "input[name=with]").send_keys("-2")
    # As if the server's answer had changed: a run that grows would take long.
    browser.execute_script("served.clear(); document.querySelector('h1').dataset.old = 'yes'")
    store_run(stack)
    until(lambda: not browser.find_elements("css selector", "h1[data-old]"), "it is replaced")
    image = find(browser, "figure.frames img")
    assert image.get_attribute("src").endswith("/4.jpg")
    assert image.get_attribute("alt").startswith("frame 4 of")
    assert find(browser, "figure.frames output").text == "4"
    assert browser.execute_script("return [...document.querySelectorAll('details')].pop().open")
    assert len(browser.find_elements("css selector", "details[open]")) == 1
    box = find(browser, "input[name=with]")
    assert box.get_property("value") == "-2"
    assert browser.switch_to.active_element == box


def test_after_going_back_the_form_names_what_is_plotted(chrome: Any, page: str) -> None:
    from selenium.webdriver.support.select import Select

    show_as(chrome, 1280, 900)
    chrome.get(f"{page}/runs/{SCAN}")
    plotted = find(chrome, "form.plot select[name=x]").get_property("value")
    assert plotted != "row"
    Select(find(chrome, "form.plot select[name=x]")).select_by_visible_text("row")
    until(lambda: "x=row" in chrome.current_url, "the other plot is shown")
    chrome.back()
    until(lambda: "x=row" not in chrome.current_url, "the first plot is shown")
    assert find(chrome, "form.plot select[name=x]").get_property("value") == plotted
    chrome.get("about:blank")


def test_a_new_run_appears_by_itself(browser: Any, page: str, stack: Stack) -> None:
    browser.get(f"{page}/runs?q=fresh")
    browser.execute_script("window.stays = true")
    uid = store_run(stack, sample="fresh sample")
    until(lambda: listed(browser) == [uid], "the new run is listed")
    assert browser.execute_script("return window.stays")  # the page was not loaded again


def test_the_camera_is_live_with_what_is_found(browser: Any, page: str, camera: IocProcess) -> None:
    browser.get(f"{page}/loop")
    acquire = channel(camera.prefix + "cam1:Acquire")
    figure = find(browser, "figure.camera")
    acquire.put(1)
    try:
        until(lambda: int(figure.get_attribute("data-number") or 0) > 2, "pictures come")
        tip = until(
            lambda: re.findall(r"[\d.]+", find(figure, ".tip").get_attribute("d") or ""),
            "a tip is drawn",
        )
        assert "taking pictures" in find(figure, "[data-camera=status]").text
    finally:
        acquire.put(0)
    assert find(figure, "img").get_property("naturalWidth") == 704
    assert find(figure, "img").is_displayed()
    assert not find(figure, ".placeholder").is_displayed()
    assert "nylon" in find(figure, "[data-camera=caption]").text
    left, y, right = float(tip[0]), float(tip[1]), float(tip[3])
    truth = [epics.caget(f"{camera.prefix}SIM:Tip{axis}_RBV", timeout=90) for axis in "XY"]
    assert [(left + right) / 2, y] == pytest.approx(truth, abs=8.0)
    until(lambda: "idle" in find(figure, "[data-camera=status]").text, "it is said to be idle")


def test_a_camera_is_called_idle_only_when_it_has_answered(browser: Any, page: str) -> None:
    assert "Connecting to the camera" in httpx.get(f"{page}/loop", timeout=30).text
    browser.get(f"{page}/loop")
    message = '{"connected": true, "status": "idle", "bytes": 0}\n'
    browser.execute_script("onPicture(new TextEncoder().encode(arguments[0]).buffer)", message)
    shown = find(browser, ".placeholder").get_property("textContent")
    assert "the camera takes pictures while a plan runs" in shown


def test_a_picture_of_a_camera_that_is_away_says_when_it_was_received(
    browser: Any, page: str
) -> None:
    browser.get(f"{page}/loop")
    known = {"connected": True, "status": "idle", "received": "2026-05-02 11:00:00+02:00"}
    messages = [known, {"connected": False, "status": "away"}]
    script = """
      const status = document.querySelector("[data-camera=status]"), shown = [];
      for (const line of arguments[0]) {
        onPicture(new TextEncoder().encode(line).buffer);
        shown.push(status.textContent);
      }
      return shown;"""
    lines = [json.dumps(each | {"bytes": 0}) + "\n" for each in messages]
    assert browser.execute_script(script, lines) == [
        "idle",
        "away; what is shown was received at 2026-05-02 11:00:00+02:00",
    ]


def test_a_rotation_appears_with_its_fit(browser: Any, page: str, stack: Stack) -> None:
    browser.get(f"{page}/loop")
    assert "No rotation in the catalog yet" in find(browser, "#rotation").text
    emit = TiledWriter(stack.client()["analysis"])
    raw = {"uid": SCAN, "scan_id": 7}
    derived = DerivedRun(analysis(), raw, emit, stack.directory / "assets")
    derived.add(rotation(count=60))
    derived.close("success")
    until(
        lambda: len(browser.find_elements("css selector", "#rotation .chart")) == 2,
        "charts are drawn",
    )
    circles = browser.find_elements("css selector", "#rotation .chart .marks.a circle")
    assert len(circles) == 60 + 1  # and the legend
    fitted = find(browser, "#rotation .chart .curve.a").get_attribute("d")
    assert fitted.count("L") == 360
    assert f"face-on at {FACE_DEG:.0f}" in find(browser, "#rotation .words").text
    assert find(browser, f'#rotation a[href="/runs/{derived.uid}"]').is_displayed()


def test_a_series_of_a_dhs_grows_on_the_page(browser: Any, page: str, stack: Stack) -> None:
    browser.get(f"{page}/loop")
    journal, assets = Journal(stack.journals), stack.directory / "assets"
    with stack.ingester():
        run = SeriesRun(RecordedDetection(), journal, assets, {"plan_name": "collectLoopImages"})
        pictures = rotation(count=40)
        run.found(pictures.take(slice(0, 20)))
        run.derived.tick()
        until(lambda: browser.find_elements("css selector", "#series"), "the series is shown")
        run.found(pictures.take(slice(20, 40)))
        run.derive(LoopTurn(delta_deg=180.0, time_s=3.0), pictures, {})
        run.close(0, (0, 0))
        until(lambda: "face-on at" in find(browser, "#series").text, "the turn is fitted")
        marks = browser.find_elements("css selector", "#series .chart .marks.c circle")
        assert len(marks) == 40 + 1  # and the legend
        assert "40" in find(browser, "#series").text


def test_the_state_is_shown_and_examined(browser: Any, page: str) -> None:
    browser.get(f"{page}/state")
    assert "No skywright up runs on this store" in find(browser, "#processes").text
    assert "raw runs" in find(browser, "#store").text
    find(browser, "#checks button").click()
    until(lambda: "checked at" in find(browser, "#checks").text, "the examination is done")
    assert "versions" in find(browser, "#checks").text


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_and_a_dark_room(browser: Any, page: str, view: str) -> None:
    show_as(browser, *PHONE, dark=True)
    browser.get(page + view)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0]  # nothing is cut off, nobody scrolls sideways
    where = [link.rect for link in browser.find_elements("css selector", "nav a")]
    assert max(each["x"] + each["width"] for each in where) <= PHONE[0]  # every view can be seen
    paper = find(browser, "body").value_of_css_property("background-color")
    assert max(map(int, re.findall(r"\d+", paper)[:3])) < 64


@pytest.mark.parametrize("size", [PHONE, (1280, 900)])
def test_long_names_stay_within_the_page(
    browser: Any, page: str, stack: Stack, size: tuple[int, int]
) -> None:
    word = f"x{uuid4().hex}" * 100
    uid = store_run(stack, sample=word, plan_name="y" * 300)
    show_as(browser, *size)
    browser.get(f"{page}/runs?plan={'y' * 300}")
    until(lambda: uid in listed(browser), "the run is listed")
    extent = "const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]"
    width, height = browser.execute_script(extent)
    assert width <= size[0]
    assert height < 2 * PHONE[1]
    browser.get(f"{page}/runs/{uid}")
    assert browser.execute_script(extent)[0] <= size[0]


def test_a_name_is_on_one_line_where_there_is_room(browser: Any, page: str, stack: Stack) -> None:
    uid = store_run(stack, plan_name="find_time_zero")
    browser.get(f"{page}/runs?plan=find_time_zero")
    until(lambda: uid in listed(browser), "the run is listed")
    browser.execute_script(
        "document.querySelector('tbody td:last-child').textContent = 'm1_img16 2119, '.repeat(60)"
    )
    lines = "const range = document.createRange(); range.selectNodeContents(arguments[0]);"
    lines += "return range.getClientRects().length"
    assert browser.execute_script(lines, find(browser, "td.what")) == 1


def test_a_run_of_many_pictures_is_short_on_a_phone(browser: Any, page: str, stack: Stack) -> None:
    client, assets = stack.client(), stack.directory / "assets"
    raw = RunMaker(TiledWriter(client["raw"]), assets, str(uuid4()), T0, {"plan_name": "count"})
    raw.stop()
    about = {"raw_uid": raw.uid, "purpose": "analysis", "analysis": {"name": "loop"}}
    derived = RunMaker(TiledWriter(client["analysis"]), assets, str(uuid4()), T0, about)
    pictures = [assets / f"{derived.uid}-{k}.png" for k in range(20)]
    for each in pictures:
        Image.new("L", (704, 480), 180).save(each)
    derived.stream("result", {"pictures": key("string", "<U0", "loop")})
    derived.event("result", 1, pictures="\n".join(map(str, pictures)))
    derived.stop()
    show_as(browser, *PHONE)
    browser.get(f"{page}/runs/{raw.uid}")
    until(lambda: find(browser, ".gallery img").get_property("naturalWidth") == 704, "it is shown")
    assert len(browser.find_elements("css selector", ".gallery img")) == 20
    height = browser.execute_script("return document.documentElement.scrollHeight")
    assert height < 2 * PHONE[1]


def test_the_page_says_that_it_lost_its_server_and_finds_it_again(
    chrome: Any, server: LivePage, stack: Stack
) -> None:
    chrome.get(f"{server.uri}/runs?q=later")
    assert "No run matches" in find(chrome, "#runs").text
    server.stop()
    try:
        until(lambda: "connection lost" in find(chrome, "#connection").text, "the loss is shown")
        uid = store_run(stack, sample="later")
    finally:
        server.start()
    until(lambda: listed(chrome) == [uid], "what happened meanwhile is shown")
    until(lambda: find(chrome, "#connection").text == "", "all is well again")
    chrome.get("about:blank")


def test_a_line_that_has_gone_dead_is_noticed(chrome: Any, server: LivePage, stack: Stack) -> None:
    """After the sleep of a laptop its sockets look open, and nothing ever arrives."""
    chrome.get(f"{server.uri}/runs?q=dead-line")
    assert "No run matches" in find(chrome, "#runs").text
    assert find(chrome, "#runs").value_of_css_property("filter") == "none"
    server.freeze()
    try:
        until(lambda: "connection lost" in find(chrome, "#connection").text, "the loss is shown")
        assert find(chrome, "#runs").value_of_css_property("filter") != "none"
        uid = store_run(stack, sample="dead-line")
    finally:
        server.thaw()
    until(lambda: listed(chrome) == [uid], "what happened meanwhile is shown")
    until(lambda: find(chrome, "#connection").text == "", "all is well again")
    assert find(chrome, "#runs").value_of_css_property("filter") == "none"
    chrome.get("about:blank")


def test_a_search_that_failed_is_repeated(chrome: Any, server: LivePage) -> None:
    """The list must not go on to show what an earlier search had found."""
    chrome.get(f"{server.uri}/runs")
    until(lambda: SCAN in listed(chrome), "the run is listed")
    # Only requests fail: the sockets stay open and have nothing to tell.
    chrome.execute_script(
        "window.reallyFetch = window.fetch;"
        "window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))"
    )
    find(chrome, "input[type=search]").send_keys("nothing of the kind")
    until(lambda: "connection lost" in find(chrome, "#connection").text, "the loss is shown")
    chrome.execute_script("window.fetch = window.reallyFetch")
    until(lambda: "No run matches" in find(chrome, "#runs").text, "the search is repeated")
    until(lambda: find(chrome, "#connection").text == "", "all is well again")
    chrome.get("about:blank")


def test_the_page_of_a_proxy_does_not_replace_this_one(chrome: Any, server: LivePage) -> None:
    chrome.get(f"{server.uri}/runs")
    until(lambda: SCAN in listed(chrome), "the run is listed")
    chrome.execute_script(
        "window.stays = true; window.reallyFetch = window.fetch;"
        "window.fetch = async () => new Response('<h1>Bad Gateway</h1>', { status: 502 });"
        "refresh()"
    )
    until(lambda: "connection lost" in find(chrome, "#connection").text, "the loss is shown")
    chrome.execute_script("window.fetch = window.reallyFetch")
    until(lambda: find(chrome, "#connection").text == "", "all is well again")
    assert chrome.execute_script("return window.stays")
    chrome.get("about:blank")


@pytest.mark.parametrize(
    ("path", "selector"),
    [
        ("/runs", f"#runs a[href='/runs/{SCAN}']"),
        (f"/runs/{SCAN}", "details:last-of-type summary"),
        pytest.param(f"/runs/{SCAN}", ".export a:last-of-type", marks=pytest.mark.soak),
        pytest.param(f"/runs/{SCAN}", "form.plot button", marks=pytest.mark.soak),
    ],
)
def test_the_keyboard_stays_where_it_is_when_the_page_follows(
    browser: Any, page: str, stack: Stack, path: str, selector: str
) -> None:
    browser.get(page + path)
    find(browser, selector)
    browser.execute_script(
        "document.querySelector(arguments[0]).focus(); served.clear();"
        "document.querySelector('#run h1, #runs table').dataset.old = 'yes'",
        selector,
    )
    store_run(stack)
    until(lambda: not browser.find_elements("css selector", "[data-old]"), "it is replaced")
    assert browser.switch_to.active_element == find(browser, selector)
