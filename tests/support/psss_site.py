"""A site's own IOC for the spectrometer's PVs, as the old service expects one."""

import argparse
from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

from iocs.common import argument_parser, run


class Site(PVGroup):
    spectrum_x = pvproperty(value=[0.0], max_length=4096, name="SPECTRUM_X")
    spectrum_y = pvproperty(value=[0.0], max_length=4096, name="SPECTRUM_Y")
    center = pvproperty(value=0.0, name="SPECTRUM_CENTER")
    fwhm = pvproperty(value=0.0, name="SPECTRUM_FWHM")
    ymin = pvproperty(value=0, name="SPC_ROI_YMIN")
    ymax = pvproperty(value=0.0, name="SPC_ROI_YMAX")  # floating-point, as some sites have it
    # It has some of the new PVs, with types of its own.
    com = pvproperty(value=0.0, name="SPECTRUM_COM")
    status = pvproperty(value=0, name="FIT_STATUS")
    unit = pvproperty(value="", dtype=ChannelType.STRING, name="FIT_UNIT")
    pulse_id = pvproperty(value=0.0, name="PULSE_ID")
    average_pulses = pvproperty(value=0, name="AVG_PULSES")
    state = pvproperty(
        value="off", dtype=ChannelType.ENUM, enum_strings=["off", "on"], name="STATE"
    )
    message = pvproperty(value="", dtype=ChannelType.CHAR, max_length=20, name="MESSAGE")
    pulses = pvproperty(value=0, name="N_PULSES")


def build(args: argparse.Namespace) -> tuple[PVGroup, dict[str, Any]]:
    return Site(args.prefix), {}


if __name__ == "__main__":
    run(build, argument_parser("", "SITE:"))
