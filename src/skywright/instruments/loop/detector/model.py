"""The network: picture in, maps out, by onnxruntime on one thread.

The file says in its metadata what its maps, sides and kinds are, and from which revisions of code
and data it was trained; ``tools/train_loop`` writes it.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit, softmax

from skywright.errors import ConfigError
from skywright.instruments.loop.onnx_session import open_session

Floats = NDArray[np.float32]
OUTPUTS = ("maps", "edges", "side", "kind")
MIRRORED = {"top": "bottom", "bottom": "top"}


@dataclass(frozen=True)
class Maps:
    """What the network says of a picture that is not higher than wide.

    Attributes
    ----------
    masks : dict of (R, C) float32
        Probability of each part, by name: pin, stem, head, content, other.
    tip, begin : (R, C) float32
        Probability that the tip, the end of the pin, is in a cell.
    tip_offset : (2, R, C) float32
        Of the tip from the center of a cell, cells, x and y.
    tip_error : (R, C) float32
        Expected absolute error of that, cells.
    edges, edge_errors : (4, R / 2, C / 2) float32
        xmin, ymin, xmax, ymax of the head, and the expected absolute errors; parts of width or
        height of the picture; of a bare pin: of the pin.
    side, kind : dict of float
        Probabilities by name.
    """

    masks: dict[str, Floats]
    tip: Floats
    begin: Floats
    tip_offset: Floats
    tip_error: Floats
    edges: Floats
    edge_errors: Floats
    side: dict[str, float]
    kind: dict[str, float]


class LoopModel:
    """The network of a file.

    Parameters
    ----------
    path
        ONNX file.

    Raises
    ------
    ConfigError
        If onnxruntime is absent, or the file is no such network.
    """

    def __init__(self, path: Path) -> None:
        self.session = open_session(str(path), f"loop network {path}")
        self.notes: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        try:
            self._maps, self._sides, self._kinds = (
                list(json.loads(self.notes[name])) for name in ("maps", "sides", "kinds")
            )
        except KeyError as error:
            raise ConfigError(
                f"loop network {path}: no {error} in its metadata, expected a file of "
                "tools/train_loop"
            ) from error
        _, _, self.rows, self.columns = self.session.get_inputs()[0].shape

    def run(self, gray: NDArray[np.uint8]) -> Maps:
        """Run the network on a picture, (H, W) uint8 with W >= H, and on its mirror image.

        Both go through the network together; the mean of their maps is returned.
        """
        size = (self.columns, self.rows)
        small = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.HAMMING))
        fed = np.stack([small, small[::-1]])[:, None].astype(np.float32)
        maps, edges, side, kind = self.session.run(list(OUTPUTS), {"gray": fed})
        maps, edges = _mean_of_mirrored(maps, self._maps.index("tip_dy")), _edges(edges)
        likely_maps = expit(maps[: self._maps.index("tip_dx")])
        by_name = dict(zip(self._maps, (*likely_maps, *maps[len(likely_maps) :]), strict=True))
        columns = by_name["tip"].shape[1]
        sides = softmax(side, axis=1).tolist()
        likely = dict(zip(self._sides, sides[0], strict=True))
        mirrored = dict(zip(self._sides, sides[1], strict=True))
        kinds = softmax(kind, axis=1).mean(0, dtype=float)
        return Maps(
            masks={n: by_name[n] for n in self._maps[: self._maps.index("tip")]},
            tip=by_name["tip"],
            begin=by_name["begin"],
            tip_offset=np.stack([by_name["tip_dx"], by_name["tip_dy"]]),
            tip_error=np.exp(np.clip(by_name["tip_log_error"], -4, 4)),
            edges=edges[:4],
            # The network was trained with errors in cells of the tip's map along x.
            edge_errors=np.exp(np.clip(edges[4:], -4, 4)) / columns,
            side={
                name: (value + mirrored[MIRRORED.get(name, name)]) / 2
                for name, value in likely.items()
            },
            kind=dict(zip(self._kinds, map(float, kinds), strict=True)),
        )


def _mean_of_mirrored(maps: Floats, tip_dy: int) -> Floats:
    """Return the mean of the maps of a picture and of those of its image upside down."""
    turned = maps[1, :, ::-1].copy()
    turned[tip_dy] *= -1
    return np.asarray((maps[0] + turned) / 2, np.float32)


def _edges(edges: Floats) -> Floats:
    """Return the same of the edges, as places in the picture, and of their errors."""
    here = _centers(edges.shape[2], edges.shape[3])
    places, turned = edges[0, :4] + here, (edges[1, :4] + here)[:, ::-1]
    ymin, ymax = 1 - turned[3], 1 - turned[1]
    turned = np.stack([turned[0], ymin, turned[2], ymax])
    errors = (edges[0, 4:] + edges[1, [4, 7, 6, 5], ::-1]) / 2
    return np.concatenate([(places + turned) / 2, errors]).astype(np.float32)


@cache
def _centers(rows: int, columns: int) -> Floats:
    """Return where the centers of cells are, (4, rows, columns): x, y, x, y, parts of the size."""
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    return np.stack([x / columns, y / rows] * 2).astype(np.float32)
