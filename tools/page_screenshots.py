"""Take the pictures of the live page: ``python tools/page_screenshots.py [OUT] [--all]``.

Shows the runs that ``skywright demo`` has left, over the simulated beamline, in headless Chromium.
``--all`` takes every view light and dark, wide and on a phone, into OUT.
"""

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.headless import headless_chromium, show_as
from skywright.config import Settings, load_settings
from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.stack import attach

ROOT = Path(__file__).parents[1]
LIMIT_S = 240.0
WIDE, PHONE = (1280, 860), (360, 740)
COLORS = 256
PULSES_SHOWN = 60
SHOTS_SHOWN = 3000
REGIONS = (
    "spot:MPCCD-1N0-M06-004:40,60;216,60;216,450;40,450 "
    "roi1:MPCCD-1N0-M06-004:64,128;150,128;150,230;64,230 "
    "roi2:MPCCD-1N0-M06-004:130,320;190,330;170,415"
)
"""Two rectangles and a triangle, as a person draws them."""
IS_READY = "i => i.complete || !i.checkVisibility() || i.getBoundingClientRect().top > innerHeight"
"""Of an image: those that cannot be seen are loaded later."""


@contextmanager
def running(*command: str) -> Iterator[dict[str, Any]]:
    """Run a command of skywright for the time of a with block; gives its ready line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skywright.cli", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, SUPERVISED: "1"},
    )
    assert process.stdout is not None
    try:
        yield next(
            json.loads(line)["ready"] for line in process.stdout if line.startswith('{"ready"')
        )
    finally:
        process.terminate()
        process.wait(10)


def wait(condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition`."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(None, LIMIT_S, 0.1).until(lambda _: condition())


def shoot(chrome: Any, file: Path) -> None:
    """Save what is seen, in few colors: the documentation must stay small."""
    wait(lambda: chrome.execute_script(f"return [...document.images].every({IS_READY})"))
    with Image.open(io.BytesIO(chrome.get_screenshot_as_png())) as image:
        image.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3).save(
            file, optimize=True
        )
    sys.stdout.write(f"{file}, {file.stat().st_size / 1000:.0f} kB\n")


def camera_shows(chrome: Any) -> bool:
    """Tell whether the live camera shows a picture with something found in it."""
    script = "return document.querySelector('.tip')?.getAttribute('d')"
    return bool(chrome.execute_script(script))


def is_settled(chrome: Any, uri: str) -> bool:
    """Tell whether the ingester has brought all runs in."""
    chrome.get(f"{uri}/runs")
    return not chrome.find_elements("css selector", ".status.incomplete")


def visit(chrome: Any, uri: str, paths: dict[str, str]) -> Iterator[str]:
    """Open each page, wait until what is live in it is there, and yield its name."""
    for name, path in paths.items():
        chrome.get(uri + path)
        if name == "loop":
            wait(lambda: camera_shows(chrome))
        yield name


def fitted_rotation(chrome: Any, uri: str) -> tuple[str, str]:
    """Return the paths of the newest rotation with a fit, and of the run that made it."""
    chrome.get(f"{uri}/loop")
    script = "return [...document.querySelectorAll('.earlier a')].map(a => a.href)"
    for href in chrome.execute_script(script):
        chrome.get(href)
        if any(p.get_attribute("d") for p in chrome.find_elements("css selector", ".curve.c")):
            _, raw = chrome.find_elements("css selector", "#rotation a[href^='/runs/']")[:2]
            return href.removeprefix(uri), raw.get_attribute("href").removeprefix(uri)
    sys.exit("no rotation with a fit among the newest; run `skywright demo --only centering`")


def take(uri: str, out: Path, everything: bool) -> None:
    """Take the pictures into `out`."""
    with headless_chromium(*WIDE) as chrome:
        wait(lambda: is_settled(chrome, uri))
        loop, run = fitted_rotation(chrome, uri)
        paths = {"runs": "/runs", "loop": loop, "state": "/state", "run": run}
        looks = [("", WIDE, False, paths), ("-phone", PHONE, True, {"loop": loop})]
        if everything:
            looks += [("-dark", WIDE, True, paths), ("-phone-light", PHONE, False, paths)]
            looks += [("-phone-dark", PHONE, True, paths)]
        for suffix, size, dark, shown in looks:
            show_as(chrome, *size, dark=dark)
            for name in visit(chrome, uri, shown):
                shoot(chrome, out / f"page-{name}{suffix}.png")


def take_spectra(uri: str, out: Path, everything: bool) -> None:
    """Take the pictures of the spectrometer's view, once its trend is long enough to be one."""
    looks = [("", WIDE, False)] + ([("-dark", WIDE, True), ("-phone", PHONE, True)] * everything)
    with headless_chromium(*WIDE) as chrome:
        for suffix, size, dark in looks:
            show_as(chrome, *size, dark=dark)
            chrome.get(f"{uri}/psss")
            wait(
                lambda: len(chrome.find_elements("css selector", ".marks.a circle")) > PULSES_SHOWN
            )
            shoot(chrome, out / f"page-psss{suffix}.png")


def take_shots(uri: str, out: Path, everything: bool) -> None:
    """Take the pictures of the view of shots, once its curves are of many shots."""
    looks = [("", WIDE, False)] + ([("-dark", WIDE, True), ("-phone", PHONE, True)] * everything)
    with headless_chromium(*WIDE) as chrome:
        for suffix, size, dark in looks:
            show_as(chrome, *size, dark=dark)
            chrome.get(f"{uri}/sacla")
            wait(lambda: accepted_shots(chrome) > SHOTS_SHOWN)
            wait(lambda: len(chrome.find_elements("css selector", ".marks circle")) > 3)
            shoot(chrome, out / f"page-sacla{suffix}.png")


def accepted_shots(chrome: Any) -> int:
    """Return how many shots the page says are accepted; 0 if it says nothing yet."""
    script = "return document.querySelector('#facts')?.textContent.match(/accepted\\s*(\\d+)/)?.[1]"
    return int(chrome.execute_script(script) or 0)


@contextmanager
def beamline(demo: Path) -> Iterator[tuple[str, Settings]]:
    """Run what the demos ran on, and the page, for the time of a with block; yields its address."""
    config = demo / "skywright.toml"
    if not config.is_file():
        sys.exit(f"{config}: not there; run `make demo` first")
    with (
        running("up", "--config", str(config)),
        running("dashboard", "--port", "0", "--operate", "--config", str(config)) as page,
    ):
        settings = load_settings(config)
        attach(settings.directory)
        yield page["uri"], settings


def put(pv: str, value: int | str) -> None:
    """Put to a PV of the beamline that runs."""
    code = (
        f"import epics; pv = epics.PV({pv!r}); assert pv.wait_for_connection({LIMIT_S}); "
        f"pv.put({value!r}); epics.poll(evt=0.5)"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True)  # Channel Access learns its servers once a process


def main() -> None:
    """Start the beamline and the page, start what is to be seen, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "docs" / "images")
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="what a demo has left")
    parser.add_argument("--all", action="store_true", help="every view in every look")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with beamline(options.demo) as (uri, settings):
        put(settings.pv_prefix("axis") + "cam1:Acquire", 1)
        take(uri, options.out, options.all)
        put(settings.pv_prefix("psss") + "PROCESSING", 1)
        take_spectra(uri, options.out, options.all)
        put(settings.pv_prefix("sacla") + "Regions", REGIONS)
        put(settings.pv_prefix("sacla") + "TakeShots", 1)
        take_shots(uri, options.out, options.all)


if __name__ == "__main__":
    main()
