"""Loop detection in the pictures of a run: columns of each picture, results over all of them."""

import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.files.columns import Column
from skywright.instruments.loop import backends
from skywright.instruments.loop.detection import CLASS_NAMES as KINDS
from skywright.instruments.loop.detection import ERROR_NAMES, NAN, SIDE_MIN_PX, Detection, as_row
from skywright.instruments.loop.detection import SIDE_NAMES as SIDES
from skywright.instruments.loop.detection import SIGN_NAMES as SIGNS

BACKENDS = tuple(backends.BACKENDS)
GRAY = {"units": "gray levels"}
LIT_SHARE = 0.5
"""Part of pixels that are not black. A picture that is smaller than the frames of its recording has
more, and so have its last row and its last column. In a dark picture, the rectangle up to the last
pixel that is not black, or the last row or column of this rectangle, has less. Fitted to 11 real
pictures whose background was made black."""


def px_column(name: str, description: str) -> Column:
    """Return the column of a length in a picture."""
    return Column(name, "<f4", attrs={"units": "px", "description": description})


def code_column(name: str, names: Sequence[str], description: str) -> Column:
    """Return the column of a code: an index into `names`."""
    return Column(name, "|u1", attrs={"names": list(names), "description": description})


COLUMNS = (
    px_column("tip_x", "end of the mount farthest from the pin side, to the right; NaN: none"),
    px_column("tip_y", "the same, downwards"),
    px_column("xmin", "box around the loop without stem and pin; NaN: none"),
    px_column("ymin", "box, top"),
    px_column("xmax", "box, right"),
    px_column("ymax", "box, bottom"),
    code_column("kind", KINDS, "kind of mount"),
    Column("kind_odds", "<f4", attrs={"units": "", "description": "log odds that kind is right"}),
    px_column("width", "extent of the loop across the pin's axis; NaN: none"),
    code_column("side", SIDES, "side of the pin"),
    Column("score", "<f4", attrs={"units": "", "description": "0..1, near 0 for an empty view"}),
    px_column("pin_base_x", "where the pin ends and the stem begins, to the right; NaN: not seen"),
    px_column("pin_base_y", "the same, downwards"),
    px_column("fiber_width", "thickness of the stem; NaN: none"),
    Column("clipped", "|b1", attrs={"description": "leaves the frame not only on the pin side"}),
    Column("tip_in_view", "|b1"),
    code_column("tip_sign", SIGNS, "+: past the far edge, -: at the pin side"),
    Column("level", "<f4", attrs={**GRAY, "description": "mean level"}),
    Column("saturated", "<f4", attrs={"units": "", "description": "part at the scale's ends"}),
    Column("contrast", "<f4", attrs={**GRAY, "description": "mount against light"}),
    Column("sharpness", "<f4", attrs={"units": "gray levels/px"}),
    Column("noise", "<f4", attrs={**GRAY, "description": "standard deviation of the background"}),
    Column("flat", "|b1", attrs={"description": "no light or no structure"}),
    *(px_column(name, "its expected absolute error") for name in ERROR_NAMES),
    code_column("backend", BACKENDS, "what found it; network may stand in"),
)


def _count(name: str, description: str) -> Column:
    return Column(name, "<i8", attrs={"description": description})


def real_column(name: str, units: str, description: str) -> Column:
    """Return the column of a real number with its unit."""
    return Column(name, "<f8", attrs={"units": units, "description": description})


RESULTS = (
    _count("n_found", "pictures that show a mount"),
    _count("n_stood_in", "pictures for which our network stood in for the back-end"),
    *(_count(f"n_{kind}", f"pictures that show: {kind}") for kind in KINDS),
    Column("kind", "<U8", attrs={"description": "kind with the most votes, weighted by kind_odds"}),
    real_column("kind_share", "", "its part of all votes for a kind of mount"),
    Column("side", "<U8", attrs={"description": "side of the pin with the most votes"}),
    _count("n_tips", "pictures with the tip in view"),
    real_column("tip_x_mean", "px", "mean over the tips in view"),
    real_column("tip_y_mean", "px", "mean over the tips in view"),
    real_column("tip_x_min", "px", "range of the tips in view"),
    real_column("tip_x_max", "px", "range of the tips in view"),
    real_column("tip_y_min", "px", "range of the tips in view"),
    real_column("tip_y_max", "px", "range of the tips in view"),
    real_column("width_max", "px", "largest width: the loop seen face on"),
    real_column("score_mean", "", "mean score of the pictures that show a mount"),
    real_column("last_tip_x", "px", "tip in the last picture; NaN if none is in view"),
    real_column("last_tip_y", "px", "tip in the last picture; NaN if none is in view"),
    real_column("last_score", "", "score of the last picture"),
    Column("last_kind", "<U8", attrs={"description": "kind of mount in the last picture"}),
)


class Votes(NamedTuple):
    """The statistic of a block, or of folded blocks; the defaults are those of no picture."""

    kinds: NDArray[np.int64] = np.zeros(len(KINDS), np.int64)
    """Pictures of each kind."""
    weights: NDArray[np.float64] = np.zeros(len(KINDS))
    """Sum of their log odds, by kind; a negative one counts as 0."""
    score: float = 0.0
    """Sum of the scores of the pictures that show a mount."""
    sides: NDArray[np.int64] = np.zeros(len(SIDES), np.int64)
    """Pictures with the pin on each side."""
    backends: NDArray[np.int64] = np.zeros(len(BACKENDS), np.int64)
    """Pictures that each back-end analyzed."""
    tips: int = 0
    tip_sum: NDArray[np.float64] = np.zeros(2)
    """x, y."""
    tip_min: NDArray[np.float64] = np.full(2, np.inf)
    tip_max: NDArray[np.float64] = np.full(2, -np.inf)
    """x, y; infinite when there is no tip."""
    width_max: float = -np.inf
    last: tuple[float, float, float, int] = (NAN, NAN, NAN, 0)
    """tip x, y, score and kind in the last picture."""


_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "tip_min": np.minimum,
    "tip_max": np.maximum,
    "width_max": max,
    "last": lambda _, newer: newer,
}
"""Functions that fold two values of a field of `Votes`; other fields are added."""


def as_columns(found: Iterable[tuple[Detection, str]]) -> dict[str, NDArray[Any]]:
    """Return `COLUMNS` of detections, each given with the name of its back-end."""
    rows = [{**as_row(each), "backend": BACKENDS.index(backend)} for each, backend in found]
    return {c.path: np.array([row[c.path] for row in rows], dtype=c.dtype) for c in COLUMNS}


class LoopDetection(Analysis[Votes]):
    """Finds tip, box, width and kind of the mount in each picture of a sample camera.

    The parameters are those of `skywright.instruments.loop.backends.make_detector`, which raises
    `ConfigError` if they are wrong. The hash of an ONNX file is added to them, so that a derived
    run identifies the network.
    """

    name = "loop_detection"
    stream = "pictures"
    version = "16"
    inputs: ClassVar[Sequence[str]] = ("image",)
    # Only of video cameras, not of telescope modules or X-ray detectors in the same session
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"image": ArrayInput(2, ("uint8",), 64)}
    columns = COLUMNS
    results = RESULTS
    pictures = 12

    def __init__(self, **parameters: Any) -> None:
        if backend := backends.FORMER_NAMES.get(parameters.get("backend", "")):
            parameters["backend"] = backend
        if {"backend": BACKENDS[0], **parameters} != {"backend": BACKENDS[0]}:
            if "sha256" not in parameters:
                with suppress(OSError, RuntimeError, ValueError):  # the back-end reports it
                    model = Path(str(parameters.get("model", ""))).expanduser().read_bytes()
                    parameters["sha256"] = hashlib.sha256(model).hexdigest()
            # Wrong settings must be an error now, not at the first picture
            _detector(json.dumps(parameters, sort_keys=True))
        super().__init__(**parameters)

    @property
    def recorded_parameters(self) -> Mapping[str, Any]:
        """The parameters without user and password in the address of a service."""
        if "url" not in self.parameters:
            return self.parameters
        from skywright.wire.axis_client import hide_login

        return self.parameters | {"url": hide_login(self.parameters["url"])}

    @property
    def detector(self) -> backends.Detector:
        """The back-end; analyses with the same parameters share it, because it may be large."""
        return _detector(json.dumps(self.parameters, sort_keys=True))

    def warm_up(self) -> None:
        """Load the detector."""
        self.detector.warm_up()

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Detect the mount in each picture, (H, W) uint8 gray or (H, W, 3) uint8 color."""
        found = (self.detector.find(without_padding(picture)) for picture in batch["image"])
        return as_columns((each.detection, each.backend) for each in found)

    def statistic(self, members: Batch) -> Votes:
        """Count the votes of a block."""
        kind, score = members["kind"], members["score"].astype(np.float64)
        odds = np.maximum(members["kind_odds"].astype(np.float64), 0.0)
        seen = members["tip_in_view"]
        tips = np.stack([members["tip_x"], members["tip_y"]], axis=1)[seen].astype(np.float64)
        widths = members["width"][~np.isnan(members["width"])]
        return Votes(
            kinds=np.bincount(kind, minlength=len(KINDS)),
            weights=np.array([odds[kind == code].sum() for code in range(len(KINDS))]),
            score=float(score[kind > 0].sum()),
            sides=np.bincount(members["side"], minlength=len(SIDES)),
            backends=np.bincount(members["backend"], minlength=len(BACKENDS)),
            tips=len(tips),
            tip_sum=tips.sum(axis=0),
            tip_min=tips.min(axis=0, initial=np.inf),
            tip_max=tips.max(axis=0, initial=-np.inf),
            width_max=float(widths.max(initial=-np.inf)),
            last=(
                float(members["tip_x"][-1]),
                float(members["tip_y"][-1]),
                float(score[-1]),
                int(kind[-1]),
            ),
        )

    def fold(self, prefix: Votes | None, statistic: Votes) -> Votes:
        """Add the votes of the next block."""
        if prefix is None:
            return statistic
        pairs = zip(Votes._fields, prefix, statistic, strict=True)
        return Votes(*(_FOLD.get(name, operator.add)(a, b) for name, a, b in pairs))

    def summarize(self, state: Votes | None) -> Mapping[str, Any]:
        """Return the results of the votes; NaN or "none" where there are no votes."""
        votes = state or Votes()
        found = int(votes.kinds[1:].sum())
        total = float(votes.weights[1:].sum())
        winner = 1 + int(np.argmax(votes.weights[1:])) if found else 0
        side = 1 + int(np.argmax(votes.sides[1:])) if votes.sides[1:].any() else 0
        mean = votes.tip_sum / votes.tips if votes.tips else (NAN, NAN)
        low, high = _finite(votes.tip_min), _finite(votes.tip_max)
        tip_x, tip_y, score, kind = votes.last
        wanted = self.parameters.get("backend", BACKENDS[0])
        return {
            "n_found": found,
            "n_stood_in": int(votes.backends[0]) if wanted != BACKENDS[0] else 0,
            **{f"n_{name}": int(n) for name, n in zip(KINDS, votes.kinds, strict=True)},
            "kind": KINDS[winner],
            "kind_share": votes.weights[winner] / total if total > 0 else NAN,
            "side": SIDES[side],
            "n_tips": votes.tips,
            "tip_x_mean": mean[0],
            "tip_y_mean": mean[1],
            "tip_x_min": low[0],
            "tip_x_max": high[0],
            "tip_y_min": low[1],
            "tip_y_max": high[1],
            "width_max": float(_finite(np.array(votes.width_max))),
            "score_mean": votes.score / found if found else NAN,
            "last_tip_x": tip_x,
            "last_tip_y": tip_y,
            "last_score": score,
            "last_kind": KINDS[kind],
        }

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        """Draw box and tip into the pictures, and put all of them on a contact sheet."""
        from skywright.analysis.display import contact_sheet
        from skywright.instruments.loop.draw import annotate
        from skywright.instruments.loop.picture import encode_jpeg, encode_png

        pictures = map(without_padding, batch["image"])
        # Detect them again: `draw` does not get the rows of `measure`
        drawn = {
            number: annotate(picture, self.detector(picture), str(number))
            for number, picture in zip(batch.identities.tolist(), pictures, strict=True)
        }
        return {
            "contact_sheet.png": encode_png(contact_sheet(list(drawn.values()))),
            **{f"frame_{n:06d}.jpg": encode_jpeg(each, 90, "444") for n, each in drawn.items()},
        }


@lru_cache(maxsize=4)
def _detector(parameters: str) -> backends.Detector:
    """Return the back-end of some parameters, as JSON."""
    return backends.make_detector(**json.loads(parameters))


def without_padding(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a view of a picture without the zeros below and to the right of it.

    (H, W) or (H, W, 3) uint8. A recording has smaller pictures in the upper left corner, so pixel
    coordinates do not change. Zeros are kept if the rest of the picture is also mostly black (a
    mount that is lit from the front), if its last row or column is, or if the rest is too small to
    be a picture (a caption in a black one).
    """
    if picture[-1].any() and picture[:, -1].any():
        return picture
    lit: NDArray[np.bool_] = np.any(picture, axis=2) if picture.ndim == 3 else picture > 0
    height, width = (int(np.flatnonzero(lit.any(axis)).max(initial=-1)) + 1 for axis in (1, 0))
    inner = lit[:height, :width]
    if min(height, width) < SIDE_MIN_PX or inner.mean() <= LIT_SHARE:
        return picture
    rows = height if inner[-1].mean() > LIT_SHARE else None
    columns = width if inner[:, -1].mean() > LIT_SHARE else None
    return picture[:rows, :columns]


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, NAN)
