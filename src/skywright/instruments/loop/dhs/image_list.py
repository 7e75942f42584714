"""The pictures of ``addImageToList``, and the two of them that ``findBoundingBox`` chooses."""

from dataclasses import dataclass, field

from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.dhs.replies import OperationError, Size, fraction, number

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
