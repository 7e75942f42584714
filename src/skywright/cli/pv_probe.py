"""Ask every PV of the profile's devices: ``python -m skywright.cli.pv_probe``, for `doctor`.

A process of its own because Channel Access reads its environment once, and complains on stderr.
"""

import json
import sys
import time
from typing import Any

from skywright.config import load_settings
from skywright.processes import stack
from skywright.session.profile import find_devices, load_devices, pvs_of, signals_of, silent_pvs

CONNECT_LIMIT_S = 5.0


def main() -> None:
    """Print one JSON object: by device, how many PVs there are, which are silent, newest time."""
    settings = load_settings()
    stack.attach(settings.directory)
    devices = find_devices(load_devices(settings))
    silent = silent_pvs(devices.values(), CONNECT_LIMIT_S)
    report = {}
    for name, device in devices.items():
        signals = [signal for signal in signals_of(device) if hasattr(signal, "pvname")]
        report[name] = {
            "pvs": len(pvs_of(signals)),
            "silent": silent.get(device.name, []),
            "newest_age_s": _newest_age_s(signals),
        }
    sys.stdout.write(json.dumps(report) + "\n")


def _newest_age_s(signals: list[Any]) -> float | None:
    """Return how long ago, by the clocks of IOC and host, a PV changed; below 0: in the future."""
    stamps = []
    for signal in signals:
        if signal.connected:
            signal.get()
            stamps.append(signal.timestamp)
    return time.time() - max(stamps) if stamps else None


if __name__ == "__main__":
    main()
