"""Housekeeping of simulated boards, as the observatory writes it: all values are texts."""

from collections.abc import Mapping

import numpy as np

from skywright.instruments.panoseti.products import QUABOS
from skywright.instruments.panoseti.twin.sky import ArraySettings

BIAS_V, DETECTOR_C, FPGA_C = -55.6, 25.0, 55.0
STEP_C = 0.25
"""Step of the thermometer of a detector."""
CLOSED_A, OPEN_A = -1.2e-6, -1.07e-4
"""Currents of the detectors of a board, A."""


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
            detector_c = STEP_C * round((DETECTOR_C + rng.normal(0, 0.1)) / STEP_C)
            numbers = {
                **bias, **current, "RAWHVMON": 72.5, "V12MON": 1.18, "V18MON": 1.78, "V33MON": 3.28,
                "V37MON": 3.71, "I10MON": 1.46, "I18MON": 0.36, "I33MON": 0.13,
                "TEMP1": detector_c, "TEMP2": FPGA_C + rng.normal(0, 0.1),
                "VCCINT": 0.988, "VCCAUX": 1.785,
            }  # fmt: skip
            light_a = OPEN_A if settings.shutter_open else CLOSED_A
            detectors = {f"DETR{n}_CURR": light_a * (1 + rng.normal(0, 0.01)) for n in range(4)}
            found[f"QUABO_{boardloc}"] = {
                "Computer_UTC": f"{unix_s:.6f}",
                "BOARDLOC": str(boardloc),
                **_texts(numbers),
                "UID": f"0x{boardloc:016x}",
                "SHUTTER_STATUS": str(int(settings.shutter_open)),
                "LIGHT_SENSOR_STATUS": "0",
                "PCBREV_N": "1",
                "FWTIME": "0x28b4667a",
                "FWVER": "0208",
                "StartUp": "0",
                "STATUS_MSG": "",
                "AGG_STATUS_MSG": "ok,",
                "AGG_STATUS_LEVEL": "0",
                **_texts(detectors),
            }
    return found


def _texts(numbers: Mapping[str, float]) -> dict[str, str]:
    return {name: str(value) for name, value in numbers.items()}
