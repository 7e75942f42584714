"""The simulated beamline: shots with a known effect, and the faults of real ones."""

from skywright.instruments.sacla.twin.beamline import OCTAL, SINGLE, Beamline, TwinSettings
from skywright.instruments.sacla.twin.faults import Faults, parse_faults

__all__ = ["OCTAL", "SINGLE", "Beamline", "Faults", "TwinSettings", "parse_faults"]
