"""Show views of live images: in windows, as PNG files, or as printed lines."""

import asyncio
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.panoseti.live.client import stream
from skywright.instruments.panoseti.live.views import Speed, View

BACKENDS = ("tk", "qt", "gtk", "wx", "macosx", "webagg", "nb")
"""What the names of matplotlib's backends with windows begin with."""


async def show(
    views: Mapping[str, View],
    host: str = "localhost",
    *,
    movie: bool = True,
    pulse_height: bool = True,
    interval_s: float = -1.0,
    modules: Collection[int] = (),
    period_s: float = 1.0,
    png: Path | None = None,
    seconds: float = 0.0,
) -> None:
    """Feed views with the images of a server, and draw them again and again.

    Parameters
    ----------
    views
        By name: the title of a window, or a file ``NAME.png``. A `Speed` is printed.
    host, movie, pulse_height, interval_s, modules
        Of the stream, see `client.stream`.
    period_s
        Time between two pictures.
    png
        Directory for PNG files; None for windows.
    seconds
        End after this time; 0: when the server ends the stream.

    Raises
    ------
    ConfigError
        If there is no display for windows, or `png` cannot be made.
    HardwareError
        If the server does not answer, refuses the stream, or sends no image for `seconds`.
    """
    drawn = {name: view for name, view in views.items() if not isinstance(view, Speed)}
    windows = {} if png is not None else _windows(list(drawn))
    if png is not None:
        try:
            png.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"directory {png} cannot be made: {error.strerror}") from error
    drawing = asyncio.create_task(_draw(views, windows, png, period_s))
    images = stream(
        host, movie=movie, pulse_height=pulse_height, interval_s=interval_s, modules=modules
    )
    count = 0
    try:
        async with asyncio.timeout(seconds or None):
            async for image in images:
                count += 1
                for view in views.values():
                    view.update(image)
                if drawing.done():
                    drawing.result()  # raises what it failed with
        sys.stderr.write(f"{host}: the server has ended the stream\n")
    except TimeoutError:
        if not seconds:
            raise
        if not count:
            which = f" of modules {', '.join(map(str, sorted(modules)))}" if modules else ""
            raise HardwareError(f"{host}: no image{which} came in {seconds:g} s") from None
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])
        if png is not None:
            for name, view in drawn.items():
                view.save(png / f"{name}.png")


async def _draw(
    views: Mapping[str, View], windows: Mapping[str, Figure], png: Path | None, period_s: float
) -> None:
    while True:
        await asyncio.sleep(period_s)
        for name, view in views.items():
            if isinstance(view, Speed):
                for key, rate in view.rates().items():
                    sys.stdout.write(f"{key}: {rate:.1f} images/s\n")
                sys.stdout.flush()
            elif png is not None:
                await _save(view, png / f"{name}.png")
            else:
                figure = windows[name]
                figure.clear()
                view.draw(figure)
                figure.canvas.draw_idle()
                figure.canvas.flush_events()


async def _save(view: View, path: Path) -> None:
    """Write a picture in another thread; when this is cancelled, wait for that thread."""
    saving = asyncio.create_task(asyncio.to_thread(view.save, path))
    try:
        await asyncio.shield(saving)
    except asyncio.CancelledError:
        await asyncio.wait([saving])
        raise


def _windows(names: list[str]) -> dict[str, Figure]:
    if not names:
        return {}
    import matplotlib.pyplot as plt

    if not plt.get_backend().lower().startswith(BACKENDS):
        raise ConfigError("no display for windows; use --png DIRECTORY for files")
    plt.ion()
    return {name: plt.figure(name, layout="constrained") for name in names}
