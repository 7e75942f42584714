"""Shots of a free-electron laser (SACLA): point detectors and MPCCD images, joined by tag."""

from skywright.instruments import Instrument

__all__ = ["INSTRUMENT"]

INSTRUMENT = Instrument(
    name="sacla",
    title="Shots of a free-electron laser, joined by tag",
    summary="SACLA online analysis: shots joined by tag, regions of interest, delay curves.",
    extra="sacla",
    commands="skywright.instruments.sacla.cli:app",
    kernels=("skywright.instruments.sacla.warm:warm_up",),
)
