"""The number of modules that the configured IOC has PVs for."""

import argparse

from skywright.config import Settings
from skywright.instruments.panoseti.tracking import SLOTS


def configured_slots(settings: Settings) -> int:
    """Return the ``--modules`` of the IOC in the configuration, else the IOC's default."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--modules", type=int, default=SLOTS)
    known, _ = parser.parse_known_args(settings.ioc_args("panoseti"))
    return int(known.modules)
