"""Compiling the kernels of the spectrometer and its twin ahead of their use."""

from skywright.instruments.psss import processing, statistics
from skywright.instruments.psss.twin.instrument import Instrument
from skywright.instruments.psss.twin.settings import InstrumentSettings


def warm_up() -> None:
    """Compile processing, statistics and twin by running them on small input."""
    processing.warm_up()
    statistics.warm_up()
    Instrument(InstrumentSettings(columns=64, rows=16, pool_bytes=1)).take(0)
