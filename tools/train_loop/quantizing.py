"""From the network of a training to one whose convolutions compute with integers of 8 bits.

These are all convolutions of 3 x 3 but the first one. They take about a third of the time of those
with floats. The rest keeps floats: the first one sees the light, the last ones give places and
errors. `adapting` prepares the weights for it.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from generators import sample_of
from names import TURN
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

PARTS = r"(down\.\d|merge\.\d|fine)\b"
"""The modules of `network.LoopNetwork` that compute with integers."""
INTEGERS = re.compile(rf"/network/{PARTS}/.*(Conv|Relu)")
"""Names of their nodes."""
FIRST_PICTURE = 90_000_000
"""Seed of the first picture that says how large values become; the training used none of them."""


class Pictures(CalibrationDataReader):
    """What the network is fed in its looks at pictures of each generator.

    Parameters
    ----------
    model
        The network's file.
    count
        Pictures of each generator.
    """

    def __init__(self, model: Path, count: int) -> None:
        self._looks = looks_at_pictures(model, count)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next input, None after the last."""
        return next(self._looks, None)


def looks_at_pictures(model: Path, count: int) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Yield the network's inputs, {"gray": (1, 1, R, C) uint8}, for pictures of each generator."""
    from skywright.instruments.loop.detector.readout import LoopFinder

    finder = LoopFinder(model)
    fed = keep_inputs(finder)
    for generator in TURN:
        for seed in range(FIRST_PICTURE, FIRST_PICTURE + count):
            gray = sample_of(generator, seed).gray
            finder.find(np.clip(np.round(gray), 0, 255).astype(np.uint8))
            yield from fed
            fed.clear()


def keep_inputs(finder: Any) -> list[dict[str, NDArray[np.uint8]]]:
    """Let a `LoopFinder` keep what its network is fed; return the list that it appends to."""
    session, fed = finder.model.session, []

    class Listening:
        """The session, which keeps what it is fed."""

        def run(self, outputs: list[str], inputs: dict[str, Any]) -> Any:
            fed.append({name: values.copy() for name, values in inputs.items()})
            return session.run(outputs, inputs)

    finder.model.session = Listening()
    return fed


def quantize(model: Path, out: Path, count: int) -> None:
    """Write the network with integers to `out`; `model` is the file that ``export`` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(prepared).graph.node]
        integers = [name for name in names if INTEGERS.fullmatch(name)]
        assert len(integers) == 32, f"{model}: {len(integers)} nodes, expected 16 Conv, 16 Relu"
        quantize_static(
            str(prepared),
            str(out),
            Pictures(model, count),
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_quantize=integers,
            per_channel=True,
            # Weights of 7 bits: a processor without VNNI adds products in 16 bits, which saturate.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
        )
