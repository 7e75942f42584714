"""Compile every numba kernel into its cache, before beam: ``python -m skywright.warm``.

`make install` does it, so that no session, test or demo waits for a compiler.
"""

from concurrent.futures import ProcessPoolExecutor

from skywright.loop import centering, detect
from skywright.loop.twin import render
from skywright.psss import processing, statistics
from skywright.psss.twin.instrument import Instrument
from skywright.psss.twin.settings import InstrumentSettings


def main() -> None:
    """Run everything that is compiled once, on small input, on two cores."""
    # No kernel is in both parts: of one that two processes compile, either may spoil the cache.
    with ProcessPoolExecutor(2) as pool:
        for part in [pool.submit(warm_up_analysis), pool.submit(warm_up_rest)]:
            part.result()


def warm_up_analysis() -> None:
    """Compile the analysis of loops."""
    detect.warm_up()
    centering.warm_up()


def warm_up_rest() -> None:
    """Compile the simulated loops, the spectrometer and its simulation."""
    render.warm_up()
    processing.warm_up()
    statistics.warm_up()
    Instrument(InstrumentSettings(columns=64, rows=16, pool_bytes=1)).take(0)


if __name__ == "__main__":
    main()
