"""Compile every numba kernel into its cache, before beam: ``python -m skywright.warm``.

`make install` does it, so that no session, test or demo waits for a compiler.
"""

from skywright.loop import centering, detect
from skywright.loop.twin import render
from skywright.psss import processing
from skywright.psss.twin.instrument import Instrument
from skywright.psss.twin.settings import InstrumentSettings


def main() -> None:
    """Run everything that is compiled once, on small input."""
    for kernels in (detect, centering, render, processing):
        kernels.warm_up()
    Instrument(InstrumentSettings(columns=64, rows=16, pool_bytes=1)).take(0)


if __name__ == "__main__":
    main()
