"""Parameters of the analyses that the device's configuration in a run gives."""

import json
from collections.abc import Mapping
from typing import Any

from skywright.errors import ConfigError
from skywright.instruments.sacla.layouts import room_for
from skywright.instruments.sacla.report import parse_bins
from skywright.instruments.sacla.shot_curves import parse_hits


def curve_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return regions and bins of `ShotCurves`.

    Parameters
    ----------
    configuration
        By data key; ``NAME_bins``, START:STOP:N, ``NAME_binned_by``, ``NAME_hits``,
        PHOTONS:PIXELS, and ``NAME_regions`` are used.

    Raises
    ------
    ConfigError
        If there are no bins in it.
    """
    for key, value in configuration.items():
        if key.endswith("_bins") and value:
            name = key.removesuffix("_bins")
            regions = str(configuration.get(f"{name}_regions", ""))
            by = str(configuration.get(f"{name}_binned_by", "delay"))
            hits = configuration.get(f"{name}_hits")
            return {
                **({"hits": list(parse_hits(str(hits)))} if hits else {}),
                "regions": room_for(len(regions.split())),
                "edges": parse_bins(str(value)).tolist(),
                "binned_by": "scanned" if by == "delay" else by,
            }
    raise ConfigError(f"sacla_curves: no bins among {', '.join(sorted(configuration))}")


def bin_image_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return bins, and how the pixels were measured, for `BinImages`.

    Parameters
    ----------
    configuration
        As of `curve_parameters` and `image_parameters`.

    Raises
    ------
    ConfigError
        As these.
    """
    curves = curve_parameters(configuration)
    bins = {key: curves[key] for key in ("edges", "binned_by")}
    return image_parameters(configuration) | bins


def value_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of regions of `ShotValues`.

    Parameters
    ----------
    configuration
        By data key; ``NAME_regions`` is used.
    """
    texts = [value for key, value in configuration.items() if key.endswith("_regions")]
    return {"regions": room_for(len(str(texts[0]).split()))} if texts else {}


def image_parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the pixels were measured, for `RunningImages` and `FrameImages`.

    Parameters
    ----------
    configuration
        By data key; ``NAME_measuring``, the JSON of `describe_measuring`, is used.

    Raises
    ------
    ConfigError
        If it is missing, as in runs of older versions, or no JSON.
    """
    for key, value in configuration.items():
        if key.endswith("_measuring") and value:
            try:
                return {"measuring": json.loads(str(value))}
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{key}: no JSON: {error}") from error
    raise ConfigError(
        "images: the configuration of the run does not say how its pixels were measured "
        f"(NAME_measuring is not among {', '.join(sorted(configuration))})"
    )
