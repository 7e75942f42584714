"""Headless Chromium on the page, for tests, benchmarks and screenshots (needs selenium)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skywright.errors import ConfigError

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Each starts a renderer that is not needed: a third of the processor time of a short page
    "--disable-features=SpareRendererForSitePerProcess,ProactivelySwapBrowsingInstance",
    "--hide-scrollbars",
)
BROWSERS = ("chromium", "chromium-browser")


@contextmanager
def headless_chromium(width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator[Any]:
    """Run a browser for the time of a with block.

    Parameters
    ----------
    width, height
        Of the page, CSS pixels.
    dark
        Whether its user prefers dark pages.

    Yields
    ------
    selenium.webdriver.Chrome

    Raises
    ------
    ConfigError
        If there is no Chromium, or no chromedriver, on PATH.
    """
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise ConfigError(f"{' or '.join(BROWSERS)}, with chromedriver: not on PATH; install them")
    options = ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    chrome = Chrome(options, Service(driver))
    try:
        show_as(chrome, width, height, dark=dark)
        yield chrome
    finally:
        chrome.quit()


def show_as(chrome: Any, width: int, height: int, *, dark: bool = False) -> None:
    """Give the page another size, or its user another preference."""
    chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
