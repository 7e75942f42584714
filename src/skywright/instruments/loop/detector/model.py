"""The network: picture in, maps out, by onnxruntime on one thread.

The file says in its metadata what its maps, sides and kinds are, and from which revisions of code
and data it was trained; ``tools/train_loop`` writes it.
"""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skywright.errors import ConfigError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Maps:
    """What the network says of a picture that is not higher than wide.

    Attributes
    ----------
    masks : dict of (R, C) float32
        Probability of each part, by name: pin, stem, head, content, other.
    near : dict of (R, C) float32
        Its highest value at most `NEAR_CELLS` rows and columns away, of pin, stem and head.
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
    near: dict[str, Floats]
    tip: Floats
    begin: Floats
    tip_offset: Floats
    tip_error: Floats
    edges: Floats
    edge_errors: Floats
    side: dict[str, float]
    kind: dict[str, float]


NEAR_CELLS = 3
OUTPUTS = [each.name for each in fields(Maps)]


def open_session(network: str | bytes, what: str, blocks: bool = True) -> Any:
    """Load an ONNX file; return onnxruntime's ``InferenceSession``.

    Parameters
    ----------
    network
        Path, or content of the file.
    what
        Name of the network in messages.
    blocks
        Let onnxruntime keep values in blocks of channels where that suits convolutions with floats.
        A network with integers only loses time by the conversion.

    Raises
    ------
    ConfigError
        If onnxruntime is absent, or it cannot load the network.

    Notes
    -----
    Since version 1.29 onnxruntime for Linux, when it is imported, writes a device id below
    ``~/.cache/Microsoft`` and sends to Microsoft what models are loaded. A beamline wants neither,
    so ``ORT_DISABLE_TELEMETRY`` is set first; ``disable_telemetry_events()`` comes too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{what}: onnxruntime is not installed; install skywright[loop]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not blocks:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions have no common base but Exception.
    except Exception as error:
        raise ConfigError(f"{what}: {error}") from error


class LoopModel:
    """The network of an ONNX file.

    Raises
    ------
    ConfigError
        If onnxruntime is absent, or the file is no such network.
    """

    def __init__(self, path: Path) -> None:
        self.session = open_session(str(path), f"loop network {path}", blocks=False)
        notes: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        try:
            self._masks, self._sides, self._kinds = (
                list(json.loads(notes[name])) for name in ("masks", "sides", "kinds")
            )
        except KeyError as error:
            raise ConfigError(
                f"loop network {path}: no {error} in its metadata, expected a file of "
                "tools/train_loop"
            ) from error
        given = {output.name for output in self.session.get_outputs()}
        if missing := [name for name in OUTPUTS if name not in given]:
            raise ConfigError(
                f"loop network {path}: it does not give {', '.join(missing)}; write it again with "
                "tools/train_loop"
            )
        _, _, self.rows, self.columns = self.session.get_inputs()[0].shape

    def run(self, gray: NDArray[np.uint8]) -> Maps:
        """Run the network on a picture, (H, W) uint8 with W >= H."""
        size = (self.columns, self.rows)
        # Means of whole pixels first, where a picture is much larger: a third of the time.
        small = np.asarray(
            Image.fromarray(gray).resize(size, Image.Resampling.HAMMING, reducing_gap=1.5)
        )
        outputs = self.session.run(OUTPUTS, {"gray": small[None, None]})
        found = dict(zip(OUTPUTS, outputs, strict=True))
        found["masks"] = dict(zip(self._masks, found["masks"], strict=True))
        found["near"] = dict(zip(self._masks, found["near"], strict=False))  # the first three
        for name, parts in (("side", self._sides), ("kind", self._kinds)):
            found[name] = dict(zip(parts, found[name].tolist(), strict=True))
        return Maps(**found)
