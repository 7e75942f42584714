"""A trained network in an ONNX file, run here by onnxruntime.

The file's own names say what is what: one input of rank 4, uint8 or float32 (0..1), channels (1 or
3) first or last; outputs ``detection_boxes`` (1, n, 4) as ymin, xmin, ymax, xmax in parts of the
picture, ``detection_scores`` (1, n), ``detection_classes`` (1, n) counted from 1, as detection
models of TensorFlow have them; the names of the classes, with commas between, in the metadata's
``classes``.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skywright.errors import ConfigError
from skywright.instruments.loop.backends import Detector, Found, check_number
from skywright.instruments.loop.backends.boxes import CLASSES, from_boxes
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.detector.model import open_session
from skywright.instruments.loop.picture import to_gray
from skywright.wire.automl import Box

OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")
DEFAULT_SIZE = 320
"""Of a side that the file leaves open."""


class OnnxDetector(Detector):
    """Runs a network on each picture, on one thread.

    Parameters
    ----------
    model
        Path of the file.
    threshold
        Score below which a box is nothing.
    classes
        Names by number, from 1, where the file has none.
    sha256
        Of the file, hexadecimal, when it must be a certain one; the attribute always has it.

    Raises
    ------
    ConfigError
        If onnxruntime is absent, the file is no such network, or `threshold` is out of range.
    """

    def __init__(
        self,
        model: str | Path,
        threshold: float = 0.5,
        classes: list[str] | None = None,
        sha256: str = "",
    ) -> None:
        check_number("onnx: threshold", threshold, 0, 1)
        try:
            data = Path(model).expanduser().read_bytes()
        except (OSError, RuntimeError, ValueError) as error:  # also ~NAME of nobody, and NUL
            why = getattr(error, "strerror", error)
            raise ConfigError(f"onnx: model {model}: {why}") from error
        self.sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in ("", self.sha256):
            raise ConfigError(f"onnx: model {model}: sha256 {self.sha256}, expected {sha256}")
        self.threshold = threshold
        self._session = open_session(data, f"onnx: model {model}")
        self._input = _Input(self._session, str(model))
        self.color = self._input.channels == 3
        named = self._session.get_modelmeta().custom_metadata_map.get("classes", "")
        self._classes = classes or [name.strip() for name in named.split(",") if name.strip()]
        if not set(self._classes) & set(CLASSES):
            raise ConfigError(
                f"onnx: model {model}: classes {self._classes}, expected some of "
                f"{', '.join(CLASSES)}; write them into its metadata, or name them by `classes`"
            )

    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        """Look at a picture."""
        gray = to_gray(picture)
        found = self._session.run(list(OUTPUTS), {self._input.name: self._input.fill(picture)})
        corners, scores, numbers = (np.asarray(each)[0] for each in found)
        boxes = [
            Box(self._classes[int(number) - 1], float(score), *map(float, box))
            for box, score, number in zip(corners, scores, numbers, strict=True)
            if 0 < number <= len(self._classes) and np.isfinite(box).all()
        ]
        boxes.sort(key=lambda box: box.score, reverse=True)
        return Found(from_boxes(boxes, find_loop(gray), gray.shape, self.threshold), "onnx")

    def warm_up(self) -> None:
        """Load our network too, and let this one allocate."""
        super().warm_up()
        self.find(np.zeros((64, 64), np.uint8))


class _Input:
    """How a picture goes into the network."""

    def __init__(self, session: Any, model: str) -> None:
        inputs, outputs = session.get_inputs(), {each.name for each in session.get_outputs()}
        first = inputs[0]
        shape = [side if isinstance(side, int) else None for side in first.shape]
        self.name = first.name
        self.channels_last = len(shape) == 4 and shape[3] in (1, 3)
        self.whole = first.type == "tensor(uint8)"
        sized = shape[1:3] if self.channels_last else shape[2:]
        self.channels = shape[3 if self.channels_last else 1] if len(shape) == 4 else None
        known = first.type in ("tensor(uint8)", "tensor(float)") and self.channels in (1, 3)
        if len(inputs) != 1 or not known or not set(OUTPUTS) <= outputs:
            raise ConfigError(
                f"onnx: model {model}: input {first.type} {first.shape} and outputs "
                f"{sorted(outputs)}, expected one uint8 or float picture and {', '.join(OUTPUTS)}"
            )
        height, width = (side or DEFAULT_SIZE for side in sized)
        self.size = width, height

    def fill(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """Return a picture, (H, W) or (H, W, 3) uint8, as the network wants it."""
        mode = "L" if self.channels == 1 else "RGB"
        image = Image.fromarray(picture).convert(mode)
        pixels = np.asarray(image.resize(self.size, Image.Resampling.BILINEAR))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if not self.channels_last:
            pixels = pixels.transpose(2, 0, 1)
        return pixels[np.newaxis] if self.whole else pixels[np.newaxis].astype(np.float32) / 255.0
