"""The simulated beamline: shots with a known effect, and the faults of real ones."""

from skywright.instruments.sacla.twin.beamline import Beamline, TwinSettings
from skywright.instruments.sacla.twin.faults import Faults, parse_faults

__all__ = ["Beamline", "Faults", "TwinSettings", "parse_faults"]
