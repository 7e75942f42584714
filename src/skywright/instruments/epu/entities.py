"""What EPU's files say, as Python objects. Units are SI, unless a class names others.

Field names are those of the JSON that ``skywright epu parse`` prints.
"""

from dataclasses import dataclass, field, fields
from typing import NamedTuple


@dataclass(slots=True)
class Instrument:
    """The microscope, which only image files name."""

    model: str | None = None
    id: str | None = None
    computer: str | None = None


@dataclass(slots=True)
class Session:
    """An ``EpuSession.dm``: one grid of one visit. Paths are EPU's own (Windows)."""

    id: str
    name: str | None = None
    start_time: str | None = None
    storage_path: str | None = None
    atlas_path: str | None = None
    clustering_mode: str | None = None
    clustering_radius: float | None = None


@dataclass(slots=True)
class AtlasSquare:
    """A grid square's position on the atlas image.

    `center` and `size` are in pixels of that image, `physical` in nm, `rotation` in rad.
    """

    center: list[float | None]
    physical: list[float | None]
    size: list[float | None]
    rotation: float | None


@dataclass(slots=True)
class TileSquare:
    """A grid square's position on one tile of the atlas, in pixels of the tile."""

    center: list[float | None]
    size: list[float | None]


@dataclass(slots=True)
class AtlasTile:
    """A tile of the atlas; position and size are in pixels of the atlas image."""

    id: str
    position: list[float | None]
    size: list[float | None]
    file_format: str | None
    base_filename: str | None
    gridsquares: dict[str, list[TileSquare]] = field(default_factory=dict)


@dataclass(slots=True)
class Atlas:
    """An ``Atlas.dm``: the overview of one grid, with the squares that were found on it."""

    id: str
    name: str | None = None
    acquisition_date: str | None = None
    storage_folder: str | None = None
    description: str | None = None
    tiles: list[AtlasTile] = field(default_factory=list)
    gridsquares: dict[str, AtlasSquare] = field(default_factory=dict)


class HoleLocation(NamedTuple):
    """A foil hole as the square's ``.dm`` plans it, in pixels of the square's image and metres."""

    id: str
    x_location: float
    y_location: float
    x_stage_position: float | None
    y_stage_position: float | None
    diameter: float
    is_near_grid_bar: bool


LOCATION_FIELDS = HoleLocation._fields[1:]
"""All but the id."""


@dataclass(slots=True)
class GridSquareMetadata:
    """A ``Metadata/GridSquare_<id>.dm``: a square of the grid, imaged or not."""

    atlas_node_id: int | None = None
    stage_x: float | None = None
    stage_y: float | None = None
    stage_z: float | None = None
    state: str | None = None
    rotation: float | None = None
    selected: bool = False
    unusable: bool = False
    image_path: str | None = None
    holes: list[HoleLocation] = field(default_factory=list)
    repeated_holes: list[str] = field(default_factory=list)
    """Ids that the file lists more than once; the last entry holds."""


SQUARE_FIELDS = tuple(
    each.name for each in fields(GridSquareMetadata) if not each.name.endswith("holes")
)
"""Those of the square itself."""


class GridSquareManifest(NamedTuple):
    """The image of a grid square."""

    acquisition_datetime: str | None
    defocus: float | None
    magnification: float | None
    pixel_size: float | None
    applied_defocus: float | None
    detector_name: str | None


class FoilHoleManifest(NamedTuple):
    """The image of a foil hole: the hole as EPU found it there, in pixels; None if it did not."""

    center_x: float | None
    center_y: float | None
    quality: float | None
    rotation: float | None
    size_width: float | None
    size_height: float | None


class Micrograph(NamedTuple):
    """A micrograph's values; `dose` is in electrons per square metre, `pixel_size` in metres."""

    id: str
    acquisition_datetime: str
    defocus: float | None
    magnification: float | None
    pixel_size: float | None
    applied_defocus: float | None
    detector_name: str
    energy_filter: bool
    phase_plate: bool
    image_size_x: int | None
    image_size_y: int | None
    binning_x: int
    binning_y: int
    exposure_time: float | None
    high_tension: float | None
    stage_x: float | None
    stage_y: float | None
    stage_z: float | None
    beam_shift_x: float | None
    beam_shift_y: float | None
    dose: float | None
    fractions: int | None
