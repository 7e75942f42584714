"""How the pixels of a run are measured, as JSON values: a part of the run's configuration.

With it, images that were stored can be analyzed again, as they were when the shots came.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.tile import PixelRules, Tile


def describe_measuring(info: RunInfo, block_tags: int) -> dict[str, Any]:
    """Return what the images of a run depend on, beside its frames.

    Parameters
    ----------
    info
        The run.
    block_tags
        Tags of a block: sums are made block by block.

    Returns
    -------
    dict
        ``block_tags``; ``detectors``: of each the name, shape, gain, `PixelRules` and the bad
        pixels, as bits, compressed, base64; ``shots``: `ShotRules` and the ``tag_step``.
    """
    return {
        "block_tags": block_tags,
        "shots": {**asdict(info.shot_rules), "tag_step": info.grid.step},
        "detectors": [
            {
                "name": name,
                "shape": list(tile.bad.shape),
                "gain": tile.gain,
                "bad": _encode(tile.bad),
                **asdict(info.rules_of(name)),
            }
            for name, tile in info.tiles.items()
        ],
    }


def read_measuring(measuring: Mapping[str, Any]) -> list[tuple[Tile, PixelRules]]:
    """Return the detectors of `describe_measuring`.

    Raises
    ------
    DataError
        If a value is missing or has another form.
    """
    rules = PixelRules.__dataclass_fields__
    try:
        return [
            (
                Tile(each["name"], float(each["gain"]), _decode(each["bad"], tuple(each["shape"]))),
                PixelRules(**{key: float(each[key]) for key in rules}),
            )
            for each in measuring.get("detectors", [])
        ]
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise DataError(f"measuring: {type(error).__name__}: {error}") from error


def read_shot_rules(measuring: Mapping[str, Any]) -> tuple[ShotRules, int]:
    """Return the rules of the shots, and the tag step, of `describe_measuring`.

    Raises
    ------
    DataError
        If a value is missing, as in runs of older versions, or has another form.
    """
    try:
        found = measuring["shots"]
        rules = {key: float(found[key]) for key in ShotRules.__dataclass_fields__}
        return ShotRules(**rules), int(found["tag_step"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"measuring: shots: {type(error).__name__}: {error}") from error


def _encode(bad: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(bad).tobytes())).decode()


def _decode(text: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    if len(bits) != -(-int(np.prod(shape)) // 8):
        raise ValueError(f"{len(bits)} bytes of bad pixels, for a detector of shape {shape}")
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
