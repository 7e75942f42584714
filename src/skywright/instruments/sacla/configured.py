"""Parameters of the analyses that the device's configuration in a run gives."""

from collections.abc import Mapping
from typing import Any

from skywright.errors import ConfigError
from skywright.instruments.sacla.layouts import room_for
from skywright.instruments.sacla.report import parse_bins


def curve_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return regions and bins of `ShotCurves`.

    Parameters
    ----------
    configuration
        By data key; ``NAME_bins``, START:STOP:N, ``NAME_binned_by`` and ``NAME_regions`` are used.

    Raises
    ------
    ConfigError
        If there are no bins in it.
    """
    for key, value in configuration.items():
        if key.endswith("_bins") and value:
            regions = str(configuration.get(f"{key.removesuffix('_bins')}_regions", ""))
            room = room_for(len(regions.split()))
            by = str(configuration.get(f"{key.removesuffix('_bins')}_binned_by", "delay"))
            return {
                "regions": room,
                "edges": parse_bins(str(value)).tolist(),
                "binned_by": "scanned" if by == "delay" else by,
            }
    raise ConfigError(f"sacla_curves: no bins among {', '.join(sorted(configuration))}")
