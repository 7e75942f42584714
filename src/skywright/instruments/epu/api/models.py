"""Bodies of requests and answers of the HTTP API that hold entities.

Field names, required fields and defaults are those that the clients of smartem-decisions send and
expect. Requests take pixel positions as any number; answers give them as integers.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from skywright.instruments.epu.database.schema import (
    AcquisitionStatus,
    FoilHoleStatus,
    GridSquareStatus,
    GridStatus,
    MicrographStatus,
)


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    text.encode()  # A lone surrogate is no text.
    return text


def _utc(time: datetime) -> datetime:
    """Return a time in UTC, as it is stored; one without offset is taken as UTC."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must be between the years 1 and 9999 in UTC") from error


Time = Annotated[datetime, AfterValidator(_utc)]
Text = Annotated[str, AfterValidator(_storable)]
Number = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_storable)]
Key = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Int = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
BigInt = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Model(BaseModel):
    """Base of all bodies: numbers are finite, unknown keys are ignored; answers have every key."""

    model_config = ConfigDict(
        allow_inf_nan=False, use_enum_values=True, json_schema_serialization_defaults_required=True
    )


class AcquisitionFields(Model):
    """Fields of an acquisition, which is one EPU session."""

    uuid: Key | None = None
    id: Text | None = None
    name: Text | None = None
    status: AcquisitionStatus | None = None
    start_time: Time | None = None
    end_time: Time | None = None
    paused_time: Time | None = None
    storage_path: Text | None = None
    atlas_path: Text | None = None
    clustering_mode: Text | None = None
    clustering_radius: Number | None = None
    instrument_model: Text | None = None
    instrument_id: Text | None = None
    computer_name: Text | None = None


class AcquisitionCreate(AcquisitionFields):
    """A new acquisition."""

    uuid: Key


class GridFields(Model):
    """Fields of a grid."""

    uuid: Key | None = None
    name: Text | None = None
    acquisition_uuid: Key | None = None
    status: GridStatus | None = None
    data_dir: Text | None = None
    atlas_dir: Text | None = None
    scan_start_time: Time | None = None
    scan_end_time: Time | None = None


class GridCreate(GridFields):
    """A new grid."""

    uuid: Key
    name: Text


class TileFields(Model):
    """Fields of an atlas tile; positions and sizes in pixels of the atlas image."""

    uuid: Key | None = None
    tile_id: Text | None = None
    position_x: float | None = None
    position_y: float | None = None
    size_x: float | None = None
    size_y: float | None = None
    file_format: Text | None = None
    base_filename: Text | None = None
    atlas_uuid: Key | None = None


class TileCreate(TileFields):
    """A new tile."""

    uuid: Key


class AtlasFields(Model):
    """Fields of an atlas."""

    uuid: Key | None = None
    atlas_id: Text | None = None
    grid_uuid: Key | None = None
    acquisition_date: Time | None = None
    storage_folder: Text | None = None
    description: Text | None = None
    name: Text | None = None


class AtlasCreate(AtlasFields):
    """A new atlas with its tiles."""

    uuid: Key
    tiles: list[TileCreate] | None = None


class Position(Model):
    """Position of a square on a tile, pixels."""

    center_x: float
    center_y: float
    size_width: float
    size_height: float
    gridsquare_uuid: Key | None = None


class GridSquareBase(Model):
    """Fields of a grid square that requests and answers have."""

    uuid: Key | None = None
    gridsquare_id: Text | None = None
    grid_uuid: Key | None = None
    status: GridSquareStatus | None = None
    data_dir: Text | None = None
    atlas_node_id: BigInt | None = None
    state: Text | None = None
    rotation: float | None = None
    image_path: Text | None = None
    selected: bool | None = None
    unusable: bool | None = None
    stage_position_x: float | None = None
    stage_position_y: float | None = None
    stage_position_z: float | None = None
    center_x: float | None = None
    center_y: float | None = None
    physical_x: float | None = None
    physical_y: float | None = None
    size_width: float | None = None
    size_height: float | None = None
    acquisition_datetime: Time | None = None
    defocus: float | None = None
    magnification: float | None = None
    pixel_size: float | None = None
    detector_name: Text | None = None
    applied_defocus: float | None = None


class GridSquareFields(GridSquareBase):
    """Fields of a grid square; ``lowmag``: known from the atlas only."""

    lowmag: bool | None = None


class GridSquareCreate(GridSquareFields):
    """A new square."""

    uuid: Key
    gridsquare_id: Text


class GridSquareBatch(Model):
    """1 to 1000 new squares, all stored or none."""

    gridsquares: list[GridSquareCreate]


class FoilHoleBase(Model):
    """Fields of a foil hole that requests and answers have."""

    uuid: Key | None = None
    foilhole_id: Text | None = None
    gridsquare_id: Text | None = None
    center_x: float | None = None
    center_y: float | None = None
    quality: float | None = None
    rotation: float | None = None
    size_width: float | None = None
    size_height: float | None = None
    x_location: float | None = None
    y_location: float | None = None
    x_stage_position: float | None = None
    y_stage_position: float | None = None
    diameter: float | None = None
    is_near_grid_bar: bool | None = None
    status: FoilHoleStatus | None = None


class FoilHoleFields(FoilHoleBase):
    """Fields of a foil hole."""

    gridsquare_uuid: Key | None = None


class FoilHoleCreate(FoilHoleFields):
    """A new hole."""

    uuid: Key
    foilhole_id: Text


class MicrographFields(Model):
    """Fields of a micrograph; defocus and lengths in metres."""

    uuid: Key | None = None
    foilhole_uuid: Key | None = None
    foilhole_id: Text | None = None
    location_id: Text | None = None
    micrograph_id: Text | None = None
    high_res_path: Text | None = None
    manifest_file: Text | None = None
    acquisition_datetime: Time | None = None
    defocus: float | None = None
    applied_defocus: float | None = None
    magnification: float | None = None
    pixel_size: float | None = None
    detector_name: Text | None = None
    energy_filter: bool | None = None
    phase_plate: bool | None = None
    image_size_x: Int | None = None
    image_size_y: Int | None = None
    binning_x: Int | None = None
    binning_y: Int | None = None
    fractions: Int | None = None
    exposure_time: float | None = None
    dose: float | None = None
    high_tension: float | None = None
    stage_x: float | None = None
    stage_y: float | None = None
    stage_z: float | None = None
    beam_shift_x: float | None = None
    beam_shift_y: float | None = None
    total_motion: Annotated[float, Field(ge=0)] | None = None
    average_motion: Annotated[float, Field(ge=0)] | None = None
    ctf_max_resolution_estimate: Annotated[float, Field(ge=0)] | None = None
    number_of_particles_picked: Count | None = None
    number_of_particles_selected: Count | None = None
    number_of_particles_rejected: Count | None = None
    pick_distribution: Text | None = None
    selection_distribution: Text | None = None
    status: MicrographStatus | None = None


class MicrographCreate(MicrographFields):
    """A new micrograph."""

    uuid: Key
    foilhole_id: Text


class AcquisitionAnswer(AcquisitionFields):
    """An acquisition."""

    uuid: str
    name: str


class GridCounts(Model):
    """Numbers of grids of an acquisition."""

    acquisition_uuid: str
    grids_total: int
    grids_completed: int


class GridAnswer(GridFields):
    """A grid."""

    uuid: str
    name: str


class TileAnswer(TileFields):
    """An atlas tile."""

    uuid: str
    atlas_uuid: str
    tile_id: str
    position_x: int | None
    position_y: int | None
    size_x: int | None
    size_y: int | None


class AtlasAnswer(AtlasFields):
    """An atlas; its tiles have a list of their own."""

    uuid: str
    atlas_id: str
    name: str
    tiles: list[TileAnswer] = []


class PositionAnswer(Model):
    """Position of a square on a tile, pixels."""

    atlastile_uuid: str
    gridsquare_uuid: str
    center_x: int
    center_y: int
    size_width: int
    size_height: int


class GridSquareAnswer(GridSquareBase):
    """A grid square."""

    uuid: str
    gridsquare_id: str
    center_x: int | None
    center_y: int | None
    size_width: int | None
    size_height: int | None


class GridSquareBatchAnswer(Model):
    """The squares of a batch, in its order."""

    gridsquares: list[GridSquareAnswer]


class FoilHoleAnswer(FoilHoleBase):
    """A foil hole."""

    uuid: str
    foilhole_id: str
    x_location: int | None
    y_location: int | None
    diameter: int | None
    is_near_grid_bar: bool


class MicrographAnswer(MicrographFields):
    """A micrograph."""

    uuid: str
    foilhole_uuid: str
    status: MicrographStatus
    updated_at: Time | None = None


BODIES: dict[str, tuple[type[Model], type[Model], type[Model]]] = {
    "acquisition": (AcquisitionFields, AcquisitionCreate, AcquisitionAnswer),
    "grid": (GridFields, GridCreate, GridAnswer),
    "atlas": (AtlasFields, AtlasCreate, AtlasAnswer),
    "atlas_tile": (TileFields, TileCreate, TileAnswer),
    "gridsquare": (GridSquareFields, GridSquareCreate, GridSquareAnswer),
    "foilhole": (FoilHoleFields, FoilHoleCreate, FoilHoleAnswer),
    "micrograph": (MicrographFields, MicrographCreate, MicrographAnswer),
}
"""For each kind of entity: a change, a new one, an answer."""
