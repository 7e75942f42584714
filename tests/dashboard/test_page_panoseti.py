"""PANOSETI's view: what the page shows of messages, and in a browser over simulated modules."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ioc_process import running_ioc
from PIL import Image
from starlette.testclient import TestClient
from store.stack import running_stack
from support.channels import channel
from support.page import client_of, fake_checks, running_page, settings_of, settings_with
from support.waiting import until

from benchmarks.headless import headless_chromium, show_as
from dashboard.app import make_app
from dashboard.chart import Marks
from dashboard.panoseti import pano_worker, view
from dashboard.panoseti.pano_worker import encode_facts
from dashboard.panoseti.view import IOC, PanosetiBoard, draw_largest
from devices.panoseti.array import Panoseti
from devices.panoseti.session import make_devices
from devices.panoseti.view import PanosetiFacts, PanosetiImage, PanosetiView
from skywright.callbacks.derived import RESULT
from skywright.config import IocSettings
from skywright.session.context import SessionContext
from skywright.store.export.contents import RunContents
from skywright.store.lookup import summarize
from skywright.words import local_time

PIXELS = np.arange(256, dtype=np.int32).reshape(16, 16)


def facts(sequence: float = 1.0, flags: str = "") -> PanosetiFacts:
    image = PanosetiImage(
        1, 254, "ph256", 1.7e9, flags, 7.0, 1000.25, 17.0, "Unlocked", (182.987, 79.4016, -1.4321),
        sequence, PIXELS,
    )  # fmt: skip
    return PanosetiFacts("obs <1>.pffd", "Recording", "following", 1234.0, (image,))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(settings_with(tmp_path, "panoseti", "PANO1:")) as client:
        yield client


def test_page_shows_modules_with_their_images(page: TestClient) -> None:
    assert "waiting for the IOC of PANOSETI" in page.get("/panoseti").text
    assert page.get("/panoseti/image/1/ph256").status_code == 404
    board = IOC.board_of(page.app.state.site)  # type: ignore[attr-defined]
    board.take(encode_facts(facts(flags="clock not in step with UTC")))
    text = page.get("/panoseti").text
    assert "obs &lt;1&gt;.pffd" in text
    assert "module 254 · ph256" in text
    assert "clock not in step" in text
    assert "1000.2/s" in text
    assert "17 packets lost" in text
    low, high = np.percentile(PIXELS, (1, 99.5))
    assert f"{low:.4g} to {high:.4g} ADC" in text
    assert local_time(facts().images[0].seconds, offset=True) in text
    assert "az 182.987°, el 79.402°, PA -1.432°" in text
    assert "clock not locked" in text
    assert "1234" in text
    with Image.open(io.BytesIO(page.get("/panoseti/image/1/ph256?n=1").content)) as image:
        assert image.size == (16, 16)
        corners = [image.convert("RGB").getpixel(place) for place in ((0, 0), (15, 15))]
    assert corners == [(0, 34, 78), (254, 232, 56)]
    board.take(b'{"connected": false, "status": "the IOC does not answer", "bytes": 0}\n')
    text = page.get("/panoseti").text
    assert "the IOC does not answer" in text
    assert "module 254" in text  # what was known stays


def test_a_number_that_is_not_known_is_null() -> None:
    image = replace(facts().images[0], rate_hz=np.nan)
    header = encode_facts(replace(facts(), images=(image,))).split(b"\n")[0]
    assert json.loads(header, parse_constant=pytest.fail)["images"][0]["rate_hz"] is None


@pytest.mark.parametrize(
    ("args", "slots"),
    [((), 4), (("--module-id", "254", "--modules", "2"), 2), (("--modules=6",), 6)],
)
def test_page_and_session_have_as_many_slots_as_the_ioc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], slots: int
) -> None:
    ioc = IocSettings(module="iocs.panoseti", prefix="PANO1:", args=args)
    settings = settings_of(tmp_path, "", "", tmp_path, iocs={"panoseti": ioc})
    device = make_devices(SessionContext(settings))["panoseti"]
    assert f"m{slots}_img16" in device.streams
    assert f"m{slots + 1}_img16" not in device.streams

    given: list[str] = []
    monkeypatch.setattr(
        "dashboard.live_board.worker_messages", lambda *each: given.extend(each[3:])
    )
    site = make_app(settings, fake_checks()).state.site
    IOC.feeds(site)["panoseti"]()
    monkeypatch.setattr("sys.argv", ["pano_worker", "--prefix", "NO:SUCH:", *given])
    views: list[PanosetiView] = []

    def run(messages: Callable[[], Iterator[bytes]]) -> None:
        monkeypatch.setattr(pano_worker, "each_period", lambda read, period_s: read())
        monkeypatch.setattr(PanosetiView, "facts", lambda view: views.append(view) or facts())
        messages()

    monkeypatch.setattr(pano_worker, "write_messages", run)
    pano_worker.main()
    assert list(views[0]._modules) == list(range(1, slots + 1))


def test_each_image_has_its_own_pixels_and_each_module_its_own_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = facts().images[0]
    others = [
        replace(first, slot=2, module=3, pixels=PIXELS + np.int32(500)),
        replace(first, slot=2, module=3, product="img8", pixels=np.ones((32, 32), np.int32)),
    ]
    board = PanosetiBoard()
    board.take(encode_facts(replace(facts(), images=(first, *others))))
    for key, image in (((1, "ph256"), first), ((2, "ph256"), others[0]), ((2, "img8"), others[1])):
        np.testing.assert_array_equal(board.pixels[key], image.pixels)
    drawn: list[Marks] = []
    monkeypatch.setattr(view, "draw_chart", lambda marks, *_: drawn.extend(marks))
    draw_largest(board)
    assert [marks.label for marks in drawn] == ["3 (1)", "254 (1)"]
    for marks, largest in zip(drawn, (755, 255), strict=True):
        assert marks.x == pytest.approx([largest], abs=4.0)


def test_the_distribution_of_largest_pixels(page: TestClient) -> None:
    site = page.app.state.site  # type: ignore[attr-defined]
    times = iter([0.0, 300.0, 300.0, 700.0])
    board = PanosetiBoard(clock=times.__next__)
    site.live["panoseti"] = board
    assert "Largest pixels" not in page.get("/panoseti").text

    def take(sequence: float, brighter: int, product: str = "ph256", module: int = 254) -> None:
        image = replace(
            facts(sequence).images[0], slot=module, module=module, product=product,
            pixels=PIXELS + np.int32(brighter),
        )  # fmt: skip
        board.take(encode_facts(PanosetiFacts("", "Recording", "", 0.0, (image,))))

    take(1.0, 0)
    take(2.0, 100, module=3)
    take(2.0, 500, module=3)  # the image that was there before
    assert [(module, value) for _, module, value in board.largest] == [(254, 255), (3, 355)]
    text = page.get("/panoseti").text
    assert "Largest pixels" in text
    assert "254 (1)" in text
    assert ">3 (1)" in text
    take(1.0, 0, "img16")  # a movie does not count, and the first image is too old by now
    assert [(module, value) for _, module, value in board.largest] == [(3, 355)]


def test_results_of_a_search_that_is_over_are_read_once(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the catalog loads the page again; each reading is several requests to tiled."""
    read: list[str] = []

    async def ask(question: Callable[..., object], *arguments: object) -> tuple[object, str]:
        return question(None, *arguments), ""

    def results(_: None, uid: str) -> dict[str, float]:
        read.append(uid)
        return {"n_events": 1234.0, "n_bright": 5.0, "n_candidates": 2.0, "n_expected": 0.1}

    runs = [
        summarize({"uid": uid, "time": 0.0, "purpose": "analysis"}, None, status)
        for uid, status in (("over", "success"), ("open", "running"))
    ]
    site = page.app.state.site  # type: ignore[attr-defined]
    monkeypatch.setattr(site.catalog, "try_ask", ask)
    monkeypatch.setattr(view, "newest_results", lambda *_: list(runs))
    monkeypatch.setattr(view, "read_results", results)
    for _ in range(2):
        assert page.get("/panoseti").text.count("1234") == 2
    assert read == ["over", "open", "open"]
    runs.clear()
    assert "1234" not in page.get("/panoseti").text
    assert not IOC.board_of(site).final


def test_of_a_search_only_the_results_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each other stream of the run takes two requests to tiled, or more."""
    read: list[object] = []

    def note(run: str, only: object = None) -> RunContents:
        read.append((run, only))
        return RunContents({}, None, "success", (), ())

    monkeypatch.setattr(view, "find_run", lambda _, uid: uid)
    monkeypatch.setattr(view, "read_contents", note)
    assert view.read_results(None, "over") == {}
    assert read == [("over", (RESULT,))]


@pytest.mark.timeout(300)
def test_simulated_modules_in_a_browser(chromium: Path, tmp_path: Path) -> None:
    """The page shows images that change, without a complaint of the browser."""
    with (
        running_stack(tmp_path / "store") as stack,
        running_ioc("iocs.panoseti", "--source", "sim", prefix="PAGE:PANO1:") as ioc,
    ):
        file = stack.directory / "skywright.toml"
        file.write_text(
            f'prefix = "PAGE:"\n[store]\ndirectory = "{stack.directory}"\n'
            f'tiled_uri = "{stack.uri}"\napi_key = "{stack.key}"\n'
            f'[iocs.panoseti]\nmodule = "iocs.panoseti"\nprefix = "PANO1:"\n'
            f'address = "127.0.0.1:{ioc.port}"\n'
        )
        with running_page(file) as live, headless_chromium() as browser:
            show_as(browser, 1280, 1300)
            browser.get(f"{live.uri}/panoseti")
            running = channel("PAGE:PANO1:SIM:Running")
            running.put(1)
            array = Panoseti("PAGE:PANO1:", assets=tmp_path, name="array")
            array.wait_for_connection(timeout=60)
            array.track().wait(60)
            seen = "return [...document.querySelectorAll('img.pixels')].map(i => i.naturalWidth)"
            until(lambda: {16, 32} & set(browser.execute_script(seen)))
            first = browser.find_element("css selector", "img.pixels").get_attribute("src")
            address = "return document.querySelector('img.pixels').src"
            until(lambda: browser.execute_script(address) != first)
            first = browser.execute_script(address)
            until(lambda: browser.execute_script(address) != first)  # by the same worker
            assert "begun anew" not in browser.find_element("css selector", "main").text
            if out := os.environ.get("SKYWRIGHT_TEST_PICTURES"):
                browser.save_screenshot(f"{out}/panoseti.png")
            running.put(0)
            severe = [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
            assert severe == []
