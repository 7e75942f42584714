"""The operations that answer from one picture, or from a list of single ones."""

import asyncio
import math
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.files.replacing import replacing
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs.replies import (
    FLAT_IMAGE,
    OperationError,
    check_light,
    fraction,
    loop_words,
    number,
    tip_words,
    why_failed,
)
from skywright.instruments.loop.dhs.server import Call, Operation
from skywright.instruments.loop.dhs.snapshots import Snapshot, Snapshots
from skywright.instruments.loop.limits import Limits, find_limits
from skywright.instruments.loop.picture import Size, decode, encode_png, read_picture
from skywright.wire.xos2 import harmless

TAKE_BACKGROUND, CLEAR_BACKGROUND, LOAD_BACKGROUND = -1, -2, -3
DIAMETERS_MAX = 8
CUTS_MAX = 30
"""Columns of one vertical cut: their reply must fit into one message."""
BAD_NUMBER = "RequireTooManyDiametersOrNegativeNumber"
NOT_A_PIN = "ScanDeltaWidthListIsNotGoodForPinIDDetction"  # spelled as in the field
TEST_PICTURE = "test_picture.jpg"
TURN_DEG = 180.0
"""Pictures without an angle are taken to be spread evenly over half a turn."""
FARTHEST_DEG = 30.0
"""From +90 deg: a picture farther off shows neither the edge nor a right angle."""


@dataclass(frozen=True)
class Listed:
    """One picture of the list; `angle_deg` is None where DCSS gave no angle."""

    index: int
    found: Detection
    size: Size
    angle_deg: float | None = None

    @property
    def height_px(self) -> float:
        """Extent of the loop down the picture, px."""
        assert self.found.bbox is not None
        return self.found.bbox[3] - self.found.bbox[1]


@dataclass
class ImageList:
    """Pictures of one sample at several angles."""

    axis_row: float = 0.5
    """Row of the rotation axis as a fraction of the height."""
    pictures: list[Listed] = field(default_factory=list)

    def add(self, picture: Listed) -> str:
        """Take in a picture and return the reply; index 0 starts the list anew.

        Raises
        ------
        OperationError
            If it is no picture of a loop near the axis. Unless it is only the tip that is out of
            view, the list is empty then.
        """
        if picture.index == 0:
            self.pictures.clear()
        found, height = picture.found, picture.size[1]
        if found.kind != "none" and not found.tip_in_view:
            raise OperationError(f"TipNotInView {found.tip_sign or '+'}")
        if found.bbox is None or picture.height_px <= 0:
            self.pictures.clear()
            raise OperationError("NoHeightInfo")
        middle = 0.5 * (found.bbox[1] + found.bbox[3] + 1.0)
        if abs(middle - self.axis_row * height) > 0.5 * picture.height_px:
            self.pictures.clear()
            raise OperationError("PhaseICenterResultIsNotGood")
        self.pictures = [each for each in self.pictures if each.index != picture.index]
        self.pictures.append(picture)
        return f"normal {number(picture.height_px)} {number(picture.height_px / height)}"

    def bounding_box(self) -> str:
        """Return the reply of ``findBoundingBox``, and empty the list.

        Raises
        ------
        OperationError
            If there is no list, or no picture about 90 deg from the one with the highest loop.
        """
        if not self.pictures:
            raise OperationError("no image list")
        angles = self._angles()
        face = max(self.pictures, key=lambda each: each.height_px)
        # A turn by 180 deg mirrors the picture and changes no height: angles count modulo 180.
        from_edge = {
            each.index: abs((angles[each.index] - angles[face.index]) % TURN_DEG - 90.0)
            for each in self.pictures
        }
        edge = min(self.pictures, key=lambda each: from_edge[each.index])
        if from_edge[edge.index] > FARTHEST_DEG:
            raise OperationError("CurrentSettingsAreNotSuitableForCentering")
        self.pictures.clear()
        corners = [*_corners(face), *_corners(edge)]
        return f"normal {face.index} {edge.index} {' '.join(corners)}"

    def _angles(self) -> dict[int, float]:
        """Return the angle of each picture, deg, by its index."""
        given = {p.index: p.angle_deg for p in self.pictures if p.angle_deg is not None}
        # The extra word of addImageToList is an angle only if it differs from picture to picture.
        if len(given) == len(self.pictures) and len(set(given.values())) == len(given):
            return given
        step = TURN_DEG / (max(each.index for each in self.pictures) + 1)
        return {each.index: each.index * step for each in self.pictures}


def _corners(picture: Listed) -> list[str]:
    """Return x, y of the upper left and of the lower right corner of the box, fractions."""
    assert picture.found.bbox is not None
    return [*map(fraction, picture.found.bbox, picture.size * 2)]


@dataclass
class SnapshotOperations:
    """What can be asked of one picture."""

    snapshots: Snapshots
    """Takes them."""
    images: ImageList
    """The list for ``findBoundingBox``."""
    fps: float
    """Pictures per second of the camera, as ``initializeCamera`` reports it."""
    background_file: Path
    """Where the background picture is kept."""

    def table(self) -> dict[str, Operation]:
        """Return the operations by name."""
        return {
            "initializeCamera": self.initialize_camera,
            "getLoopTip": self.get_loop_tip,
            "getLoopInfo": self.get_loop_info,
            "getPinDiameters": self.get_pin_diameters,
            "getVerticalCut": self.get_vertical_cut,
            "addImageToList": self.add_image_to_list,
            "findBoundingBox": self.find_bounding_box,
            "testAutoML": self.test_automl,
        }

    async def initialize_camera(self, call: Call) -> str:
        """``initializeCamera name`` -> ``normal name width height fps``."""
        name = argument(call, 0, "name of the camera")
        if name.split() != [harmless(name)]:
            raise OperationError("the name of the camera must be one word, of plain characters")
        try:
            _, gray = await self.snapshots.picture(call)
        except OperationError as error:
            raise OperationError("camera_unreachable") from error
        return f"normal {name} {gray.shape[1]} {gray.shape[0]} {number(self.fps)}"

    async def get_loop_tip(self, call: Call) -> str:
        """``getLoopTip [flag]`` -> ``normal tipX tipY ...``, see `tip_words`."""
        flag = integer(call, 0, "flag", default=0)
        shot = await self.snapshots.take(call)
        return tip_words(shot.found, shot.size, flag)

    async def get_loop_info(self, call: Call) -> str:
        """``getLoopInfo [pinBaseSizeHint]`` -> ``normal`` and 13 values, see `loop_words`."""
        real(call, 0, "pinBaseSizeHint", default=0.0)
        shot = await self.snapshots.take(call)
        check_light(shot.found)
        why = why_failed(shot.found, shot.size)
        return f"failed {why}" if why else f"normal {loop_words(shot.found, shot.size)}"

    async def get_pin_diameters(self, call: Call) -> str:
        """``getPinDiameters length number`` -> ``normal pinEndX number upper1 lower1 ...``."""
        wanted = real(call, 1, "number", wrong=BAD_NUMBER)
        if wanted not in range(1, DIAMETERS_MAX + 1):
            raise OperationError(BAD_NUMBER)
        count = int(wanted)
        if (length_px := real(call, 0, "length", wrong="InvalidLengthParameter")) <= 0:
            raise OperationError("InvalidLengthParameter")
        shot, limits = await self._outline(call)
        edges = _pin_edges(shot.found, limits, length_px, count)
        height, width = shot.gray.shape
        words = [fraction(y, height) for pair in edges for y in pair]
        return f"normal {fraction(shot.found.pin_base_x, width)} {count} {' '.join(words)}"

    async def get_vertical_cut(self, call: Call) -> str:
        """``getVerticalCut x [x2 ...]`` -> ``normal n x1 upper1 lower1 ...``."""
        given = call.start.arguments
        places = [real(call, i, "x") for i in range(max(len(given), 1))]
        if not all(0.0 <= x <= 1.0 for x in places):
            raise OperationError("x is a fraction of the width, 0 to 1")
        if len(places) > CUTS_MAX:
            raise OperationError(f"{len(places)} columns, at most {CUTS_MAX}")
        shot, limits = await self._outline(call)
        cuts = [f"{number(x)} {_vertical_cut(limits, x, shot.gray)}" for x in places]
        return f"normal {len(cuts)} {' '.join(cuts)}"

    async def add_image_to_list(self, call: Call) -> str:
        """``addImageToList index [extra]`` -> ``normal heightPixels heightFraction``."""
        index = integer(call, 0, "index")
        if index < 0:
            return await self._set_background(call, index)
        shot = await self.snapshots.take(call)
        check_light(shot.found)
        return self.images.add(Listed(index, shot.found, shot.size, _angle(call)))

    async def find_bounding_box(self, call: Call) -> str:
        """``findBoundingBox method method`` -> indices and boxes of face and edge."""
        argument(call, 1, "method")
        return self.images.bounding_box()

    async def test_automl(self, call: Call) -> str:
        """``testAutoML`` -> ``normal key score {minY minX maxY maxX} class score``."""
        await call.update("about to predict one test image")
        data = resources.files(__package__).joinpath(TEST_PICTURE).read_bytes()
        gray = decode(data, TEST_PICTURE)
        # Not divided by the background, which is another view.
        shot = await replace(self.snapshots, background=None).search(data, gray, call)
        found, (width, height) = shot.found, shot.size
        # It tests the way to the detector and back: also a poor score is an answer.
        xmin, ymin, xmax, ymax = found.bbox or (-0.5, -0.5, -0.5, -0.5)
        sides = ((ymin, height), (xmin, width), (ymax, height), (xmax, width))
        box = " ".join(fraction(value, extent) for value, extent in sides)
        score = number(found.score)
        return f"normal {call.key} {score} {{{box}}} {found.kind} {score}"

    def _keep_background(self, data: bytes) -> None:
        """Write the file that a later index of -3 loads."""
        file = self.background_file
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as new:  # on a full disk the one before remains
            new.write_bytes(data)

    async def _outline(self, call: Call) -> tuple[Snapshot, Limits | None]:
        """Return a fresh picture and the edges of its mount."""
        shot = await self.snapshots.take(call)
        check_light(shot.found)
        return shot, await asyncio.to_thread(find_limits, shot.gray)

    async def _set_background(self, call: Call, index: int) -> str:
        """Take, clear or load the empty view by which pictures are divided."""
        snapshots = self.snapshots
        if index == CLEAR_BACKGROUND:
            snapshots.background = None
        elif index == TAKE_BACKGROUND:
            # Not divided by the old one, which stays if there is no new one.
            shot = await replace(snapshots, background=None).take(call)
            if shot.found.flat:
                return f"failed {FLAT_IMAGE}"
            snapshots.background = shot.gray
            try:
                await asyncio.to_thread(self._keep_background, encode_png(shot.gray))
            except OSError as error:
                call.note(f"the background is used, but it could not be saved: {error}")
        elif index == LOAD_BACKGROUND:
            named = call.start.arguments[1:2]
            file = Path(named[0]) if any(named) else self.background_file  # Tcl's {} is empty
            snapshots.background = await asyncio.to_thread(read_picture, file)
        else:
            raise OperationError(f"index {index}, expected -3, -2, -1, 0 or more")
        return "normal 0 0"


def argument(call: Call, place: int, name: str) -> str:
    """Return an argument; `OperationError` if it is missing."""
    given = call.start.arguments
    if place >= len(given) or not given[place]:
        raise OperationError(f"missing argument {name}")
    return given[place]


def real(
    call: Call, place: int, name: str, *, default: float | None = None, wrong: str = ""
) -> float:
    """Return an argument as a finite number; `OperationError` if it is none (`wrong` says so)."""
    if default is not None and place >= len(call.start.arguments):
        return default
    text = argument(call, place, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise OperationError(wrong or f"argument {name} is {text[:20]}, expected a number")
    return value


def integer(call: Call, place: int, name: str, *, default: int | None = None) -> int:
    """Return an argument as a whole number; `OperationError` if it is none."""
    value = real(call, place, name, default=default)
    if value != int(value):
        raise OperationError(f"argument {name} is {value:g}, expected a whole number")
    return int(value)


def _vertical_cut(limits: Limits | None, x: float, gray: NDArray[np.uint8]) -> str:
    """Return ``upper lower`` of the column at the fraction `x`; ``-1 -1`` if it is empty."""
    height, width = gray.shape
    column = min(int(x * width), width - 1)
    if limits is None or math.isnan(limits.upper[column]):
        return "-1 -1"
    return f"{fraction(limits.upper[column], height)} {fraction(limits.lower[column], height)}"


def _pin_edges(
    found: Detection, limits: Limits | None, length_px: float, count: int
) -> list[tuple[float, float]]:
    """Return the mean y of both edges of a pin, px, in sections from its end backwards."""
    if limits is None or math.isnan(found.pin_base_x):
        raise OperationError("PinNotInView +")
    if limits.side not in ("left", "right"):
        raise OperationError(NOT_A_PIN)  # a vertical pin has no diameters down the picture
    backwards = -1.0 if limits.side == "left" else 1.0
    columns = np.arange(len(limits.upper))
    behind_px = (columns - found.pin_base_x) * backwards
    edges = []
    for section in range(count):
        middle = (section + 0.5) * length_px
        # The outer thirds of a section are left out.
        inside = np.abs(behind_px - middle) <= max(length_px / 6.0, 0.5)
        upper, lower = limits.upper[inside], limits.lower[inside]
        if not len(upper) or np.isnan(upper).any():
            raise OperationError(NOT_A_PIN)
        edges.append((float(upper.mean()), float(lower.mean())))
    return edges


def _angle(call: Call) -> float | None:
    """Return the extra word of ``addImageToList`` if it is a number."""
    try:
        return real(call, 1, "extra")
    except OperationError:
        return None
