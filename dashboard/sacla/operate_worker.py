"""Put regions or a reset: ``python -m dashboard.sacla.operate_worker --prefix P --regions TEXT``.

It prints what the IOC has afterwards as JSON: the regions, and the message if they were refused.
"""

import argparse
import json
import sys

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO

from devices.camera_view import text_of

LIMIT_S = 8.0


class Operated(Device):
    """The PVs that the page may put."""

    regions = Cpt(EpicsSignal, "Regions", string=True)
    regions_readback = Cpt(EpicsSignalRO, "Regions_RBV", string=True)
    reset = Cpt(EpicsSignal, "Reset")
    message = Cpt(EpicsSignalRO, "Message_RBV", string=True)


def main() -> None:
    """Put, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True, help="PV prefix of the IOC, with its colon")
    parser.add_argument("--regions", help="NAME:DETECTOR:x,y;x,y;... with blanks between them")
    parser.add_argument("--reset", action="store_true", help="begin curves and images anew")
    options = parser.parse_args()
    device = Operated(options.prefix, name="operated")
    try:
        device.wait_for_connection(timeout=LIMIT_S)
    except TimeoutError:
        sys.stdout.write(json.dumps({"error": "the IOC does not answer"}) + "\n")
        return
    wrong = ""
    if options.regions is not None:
        device.regions.put(options.regions, wait=True, timeout=LIMIT_S)
        if device.regions.alarm_severity:
            wrong = text_of(device.message.get(use_monitor=False))
    if options.reset:
        device.reset.put(1, wait=True, timeout=LIMIT_S)
    now = text_of(device.regions_readback.get(use_monitor=False))
    sys.stdout.write(json.dumps({"regions": now, "error": wrong}) + "\n")


if __name__ == "__main__":
    main()
