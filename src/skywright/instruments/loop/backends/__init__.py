"""What finds the loop in a picture: our network, another one here, or a service; one interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.arguments import check_keys
from skywright.errors import ConfigError
from skywright.instruments import resolve
from skywright.instruments.loop.detection import Detection

BACKENDS = {
    "network": "skywright.instruments.loop.backends:NetworkDetector",
    "automl": "skywright.instruments.loop.backends.automl:AutoMLDetector",
    "onnx": "skywright.instruments.loop.backends.onnx:OnnxDetector",
}
"""By name; imported when asked for."""
FORMER_NAMES = {"classical": "network"}
"""In settings and runs of earlier versions, whose detector of that name our network replaces."""


@dataclass(frozen=True)
class Found:
    """What a back-end says of a picture."""

    detection: Detection
    backend: str
    """That found it, one of `BACKENDS`."""
    why: str = ""
    """Why our network stood in; empty if it did not."""


class Detector(ABC):
    """A back-end; all methods may be called from any thread."""

    color = False
    """Whether color tells it more than gray, so that files are worth decoding to RGB."""

    @abstractmethod
    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        """Look at a picture.

        Parameters
        ----------
        picture
            (H, W) gray or (H, W, 3) RGB uint8, at least 32 x 32.
        file
            The image file that it came as, for back-ends that send it on.
        key
            Name of the picture in a service's log, e.g. ``operation:handle:index``; unique.

        Raises
        ------
        DataError
            If `picture` is not such an array.
        """

    def __call__(self, picture: NDArray[np.uint8]) -> Detection:
        """Return what a picture shows."""
        return self.find(picture).detection

    def warm_up(self) -> None:
        """Load what `find` needs: our network, which each back-end asks too."""
        from skywright.instruments.loop.detect import warm_up

        warm_up()

    def trouble(self) -> str:
        """Return why the detector cannot be used at present; empty if it can. May take 1 s."""
        return ""


class NetworkDetector(Detector):
    """Finds the mount by our network; never fails on a picture."""

    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        """Look at a picture."""
        from skywright.instruments.loop.detect import find_loop
        from skywright.instruments.loop.picture import to_gray

        return Found(find_loop(to_gray(picture)), "network")


def check_number(name: str, value: Any, least: float, most: float, whole: bool = False) -> None:
    """Raise `ConfigError` if a setting is no number, or no whole number, from `least` to `most`."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise ConfigError(f"{name}: {value!r}, expected {what} from {least:g} to {most:g}")


def make_detector(backend: str = "network", **settings: Any) -> Detector:
    """Return the back-end of a name in `BACKENDS`, made with `settings`, JSON values, of its class.

    Raise `ConfigError` if there is no such back-end, or it cannot do with the settings.
    """
    kind = detector_class(backend, **settings)
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"backend {backend}: settings {settings}: {error}") from error


def detector_class(backend: str = "network", **settings: Any) -> type[Detector]:
    """Return the class of a back-end that takes the settings, as of `make_detector`.

    Raises
    ------
    ConfigError
        If there is no such back-end, or it does not take a key.
    ImportError
        If what the back-end needs is not installed.
    """
    backend = FORMER_NAMES.get(backend, backend)
    if backend not in BACKENDS:
        raise ConfigError(f"backend: {backend!r}, expected one of {', '.join(BACKENDS)}")
    kind: type[Detector] = resolve(BACKENDS[backend])
    try:
        check_keys(settings, kind)
    except ConfigError as error:
        raise ConfigError(f"backend {backend}: {error}") from error
    return kind
