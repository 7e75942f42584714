"""A twin of the instrument: the machine's spectra, the spectrometer, the camera, and the truth.

`sase` makes spectra of single pulses, `optics` lays them on the sensor, `camera` adds what a sensor
adds. The twin shares no code with the processing that is tested against it.
"""

from skywright.instruments.psss.twin.instrument import Instrument, Truth
from skywright.instruments.psss.twin.settings import InstrumentSettings

__all__ = ["Instrument", "InstrumentSettings", "Truth"]
