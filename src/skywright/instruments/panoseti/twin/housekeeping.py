"""Housekeeping of simulated boards, as the observatory writes it: all values are texts."""

from collections.abc import Mapping

import numpy as np

from skywright.instruments.panoseti.products import QUABOS
from skywright.instruments.panoseti.twin.sky import ArraySettings

BIAS_V, DETECTOR_C, FPGA_C = -55.6, 25.0, 55.0


def board_objects(
    settings: ArraySettings, unix_s: float, rng: np.random.Generator
) -> dict[str, Mapping[str, str]]:
    """Return the object of each board, by its key.

    Parameters
    ----------
    settings
        Of the array.
    unix_s
        When the computer gets them.
    rng
        Of the noise of the readings.
    """
    found: dict[str, Mapping[str, str]] = {}
    for module in settings.modules:
        for quabo in range(QUABOS):
            boardloc = QUABOS * module + quabo
            bias = {f"HVMON{n}": BIAS_V + rng.normal(0, 0.05) for n in range(4)}
            current = {f"HVIMON{n}": 1.1e-4 * (1 + rng.normal(0, 0.01)) for n in range(4)}
            numbers = {
                **bias, **current, "RAWHVMON": 72.5, "V12MON": 1.18, "V18MON": 1.78, "V33MON": 3.28,
                "V37MON": 3.71, "I10MON": 1.46, "I18MON": 0.36, "I33MON": 0.13,
                "TEMP1": DETECTOR_C + rng.normal(0, 0.1), "TEMP2": FPGA_C + rng.normal(0, 0.1),
                "VCCINT": 0.988, "VCCAUX": 1.785, "SHUTTER_STATUS": int(settings.shutter_open),
                "LIGHT_SENSOR_STATUS": 0,
            }  # fmt: skip
            texts = {name: str(value) for name, value in numbers.items()}
            found[f"QUABO_{boardloc}"] = {
                "Computer_UTC": f"{unix_s:.6f}",
                "BOARDLOC": str(boardloc),
                **texts,
                "UID": f"0x{boardloc:016x}",
                "FWVER": "0208",
            }
    return found
