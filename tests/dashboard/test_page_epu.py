"""EPU's view: what the page shows of messages, and in a real browser over a simulated visit."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ioc_process import running_ioc
from starlette.testclient import TestClient
from store.stack import running_stack
from support.page import client_of, running_page, settings_with
from support.waiting import until

from benchmarks.headless import headless_chromium, show_as
from dashboard.color_map import css_colors
from dashboard.epu.view import IOC, SIDE, draw_places
from devices.epu.view import EpuFacts

GRID = {
    "name": "grid <1>",
    "current": "11",
    "states": {"Completed": 1, "None": 2},
    "squares": [
        ["11", 100.0, 200.0, 30, 0.8],
        ["12", 900.0, 200.0, 4, None],
        ["13", 5, 9, 0, None],
    ],
    "holes": [["7", 10.0, 20.0, 6, 0.5], ["8", 50.0, None, 0, None]],
    "newest": [["0123456789abcdef", "11", "7", 3.456], ["fedcba9876543210", "11", "7", None]],
    "micrographs": 34,
    "results": 30,
    "good": 24,
}
SUGGESTION = {
    "squares": ["11", "12"],
    "skipped": ["13"],
    "reason": "stay in 11",
    "holes": ["1107"],
    "skipped_holes": ["1108", "1109"],
}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(settings_with(tmp_path, "epu", "EPU1:")) as client:
        yield client


def say(page: TestClient, **facts: Any) -> str:
    message = {"connected": True, **EpuFacts(**facts).__dict__, "bytes": 0}
    IOC.board_of(page.app.state.site).take(json.dumps(message).encode() + b"\n")  # type: ignore[attr-defined]
    return page.get("/epu").text


def test_page_draws_the_largest_grid_that_is_watched(page: TestClient) -> None:
    """50,000 micrographs: 800 squares, and 1500 holes in the present one."""
    squares = [[str(n), 5.0 * n, 3.0 * (n % 7), n % 60, (n % 101) / 100] for n in range(800)]
    holes = [[str(n), n % 40, n // 40, n % 9, None if n % 5 else n / 1500] for n in range(1500)]
    text = say(page, overview={**GRID, "squares": squares, "holes": holes})
    assert text.count("<rect") == 800 + 1500 + 8
    for name, *_, count, share in squares:
        fill = css_colors([share])[0] if count else "none"
        title = f"square {name}: {count} micrographs" if count else f"square {name}<"
        found = re.search(rf'fill="([^"]+)"[^>]*><title>{title}', text)
        assert found, name
        assert found[1] == fill, name


def test_page_before_the_first_message_and_before_the_first_file(page: TestClient) -> None:
    assert "waiting for the IOC of EPU" in page.get("/epu").text
    assert "Nothing is recorded yet" in say(page, state="Watching", message="watching")


def test_page_shows_grid_troubles_and_suggestion(page: TestClient) -> None:
    troubles = {"orphans": 3.0, "late": 2.0, "message": "watching"}
    health = {"rate": 0.254, "latency": 0.0417}
    text = say(page, overview=GRID, suggestion=SUGGESTION, **troubles, **health)
    assert "grid &lt;1&gt;" in text
    assert "1 Completed, 2 None" in text
    assert "2 micrographs have waited for their foil hole" in text
    assert "skip 1 squares" in text
    assert "<code>1107</code>" in text
    assert "skip 2 holes" in text
    assert "3.46" in text
    assert "square 11: 30 micrographs, 80% good" in text
    assert re.search('fill="none"[^>]* stroke-dasharray="[^>]*><title>square 12: 4 ', text)
    assert "square 12: 4 micrographs, no results yet" in text
    assert "<div><dt>" not in text  # each figure is explained on hover
    assert text.count("hole 7:") == 1
    assert "hole 8" not in text  # it has no place
    shown = dict(re.findall(r"<dt>([^<]*)</dt>\s*<dd>([^<]*)</dd>", text))
    assert (shown["per second"], shown["file to database"]) == ("0.25", "42 ms")


def test_places_are_as_they_lie_and_the_present_one_has_a_frame() -> None:
    places = [
        ["1", 100.0, 500.0, 0, None],
        ["2", 300.0, 500.0, 0, None],
        ["3", 100.0, 900.0, 0, None],
    ]
    svg = str(draw_places(places, "2", "square"))
    marks = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" [^>]*stroke="([^"]+)"', svg)
    (x1, y1), (x2, y2), (x3, y3) = ((float(x), float(y)) for x, y, _ in marks)
    assert (x3, y2) == (x1, y1)
    assert y3 - y1 == pytest.approx(2 * (x2 - x1))  # y grows downwards, as in the picture
    assert x2 > x1
    assert y3 < SIDE
    assert [stroke for *_, stroke in marks] == ["var(--faint)", "var(--a)", "var(--faint)"]


def test_colors_go_from_bad_to_good() -> None:
    bad, medium, best, below = css_colors([0.0, 0.5, 1.0, -1.0])
    assert bad != medium != best
    assert below == bad
    assert draw_places([], "", "hole") is None


@pytest.mark.timeout(400)
def test_a_visit_in_a_browser(chromium: Path, tmp_path: Path) -> None:
    """The page shows a simulated visit as it is written, without a complaint of the browser."""
    sim = ("--source", "sim", "--speed", "inf", "--grids", "1", "--squares", "36", "--imaged", "5",
           "--holes", "16", "--seed", "5")  # fmt: skip
    with (
        running_stack(tmp_path / "store") as stack,
        running_ioc("iocs.epu", *sim, prefix="PAGE:EPU1:") as ioc,
    ):
        file = stack.directory / "skywright.toml"
        file.write_text(
            f'prefix = "PAGE:"\n[store]\ndirectory = "{stack.directory}"\n'
            f'tiled_uri = "{stack.uri}"\napi_key = "{stack.key}"\n'
            f'[iocs.epu]\nmodule = "iocs.epu"\nprefix = "EPU1:"\n'
            f'address = "127.0.0.1:{ioc.port}"\n'
        )
        with running_page(file) as live, headless_chromium() as browser:
            show_as(browser, 1280, 1300)
            browser.get(f"{live.uri}/epu")
            script = (
                "return [...document.querySelectorAll('svg.places title')].map(t => t.textContent)"
            )
            until(lambda: sum("% good" in each for each in browser.execute_script(script)) >= 12)
            assert sum(each.startswith("square") for each in browser.execute_script(script)) == 36
            assert "Suggested" in browser.find_element("css selector", "#visit").text
            if out := os.environ.get("SKYWRIGHT_TEST_PICTURES"):
                browser.save_screenshot(f"{out}/epu.png")
                show_as(browser, 360, 740, dark=True)
                browser.save_screenshot(f"{out}/epu-phone.png")
            show_as(browser, 360, 740, dark=True)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
            severe = [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]
            assert severe == []
