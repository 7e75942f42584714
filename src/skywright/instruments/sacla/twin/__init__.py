"""The simulated beamline: shots with a known effect, and the faults of real ones."""

from skywright.instruments.sacla.twin.beamline import Beamline, Faults, TwinSettings

__all__ = ["Beamline", "Faults", "TwinSettings"]
