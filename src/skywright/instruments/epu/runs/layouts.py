"""The columns of the four files of a grid: squares, holes, micrographs, results of processing.

Missing numbers are NaN, so integers that may be missing are floats; missing texts are empty, and
missing flags are -1. Units are SI, but for pixels and for the angstrom of results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.files.columns import Column

ROW = "/entry/row"
STREAMS = {
    "gridsquare": "squares",
    "foilhole": "holes",
    "micrograph": "micrographs",
    "result": "results",
}
KINDS = tuple(STREAMS)


@dataclass(frozen=True, slots=True)
class EntityColumn:
    """A column of an entity's file, filled from the column of the same name of the database.

    One that is `derived` is in no table; its value does not make an entity different.
    """

    name: str
    dtype: str = "<f8"
    units: str = ""
    derived: bool = False

    @property
    def path(self) -> str:
        """Path in the file."""
        return f"/entry/{self.name}"


def _texts(**lengths: int) -> tuple[EntityColumn, ...]:
    return tuple(EntityColumn(name, f"|S{length}") for name, length in lengths.items())


def _numbers(units: str, *names: str) -> tuple[EntityColumn, ...]:
    return tuple(EntityColumn(name, units=units) for name in names)


def _flags(*names: str) -> tuple[EntityColumn, ...]:
    return tuple(EntityColumn(name, "|i1") for name in names)


_TIME = EntityColumn("acquisition_datetime", units="s")
PATH_BYTES = 512

COLUMNS: Mapping[str, tuple[EntityColumn, ...]] = {
    "gridsquare": (
        *_texts(uuid=36, gridsquare_id=20, state=32, image_path=PATH_BYTES, detector_name=64),
        *_flags("selected", "unusable", "lowmag"),
        *_numbers("px", "center_x", "center_y", "size_width", "size_height"),
        *_numbers("m", "stage_position_x", "stage_position_y", "stage_position_z"),
        *_numbers("rad", "rotation"),
        *_numbers("m", "defocus", "applied_defocus", "pixel_size"),
        *_numbers("", "magnification", "n_foilhole_positions"),
        _TIME,
    ),
    "foilhole": (
        *_texts(uuid=36, foilhole_id=20, gridsquare_id=20),
        *_flags("is_near_grid_bar", "planned"),
        *_numbers("px", "x_location", "y_location", "diameter", "center_x", "center_y"),
        *_numbers("px", "size_width", "size_height"),
        *_numbers("m", "x_stage_position", "y_stage_position"),
        *_numbers("rad", "rotation"),
        *_numbers("", "quality"),
    ),
    "micrograph": (
        *_texts(uuid=36, micrograph_id=64, foilhole_id=20, gridsquare_id=20, location_id=20),
        *_texts(manifest_file=PATH_BYTES, detector_name=64),
        # The manifest as the processing cluster sees it, by the path map; empty: no prefix matches.
        EntityColumn("cluster_path", f"|S{PATH_BYTES}", derived=True),
        _TIME,
        *_numbers("m", "defocus", "applied_defocus", "pixel_size", "stage_x", "stage_y", "stage_z"),
        *_numbers("", "magnification", "beam_shift_x", "beam_shift_y", "fractions"),
        *_numbers("px", "image_size_x", "image_size_y"),
        *_numbers("", "binning_x", "binning_y"),
        *_numbers("s", "exposure_time"),
        *_numbers("V", "high_tension"),
        *_numbers("m^-2", "dose"),
        *_flags("energy_filter", "phase_plate"),
    ),
    # What processing services report of a micrograph, which has the same uuid.
    "result": (
        *_texts(uuid=36, micrograph_id=64, foilhole_id=20, gridsquare_id=20, status=32),
        EntityColumn("updated_at", units="s"),
        *_numbers("angstrom", "total_motion", "average_motion", "ctf_max_resolution_estimate"),
        *_numbers("", "number_of_particles_picked", "number_of_particles_selected"),
    ),
}


def file_columns(kind: str) -> list[Column]:
    """Return the columns of a kind's file, for `ColumnWriter`."""
    return [
        Column(each.path, each.dtype, attrs={"units": each.units} if each.units else {})
        for each in COLUMNS[kind]
    ]


def stored_columns(kind: str) -> list[EntityColumn]:
    """Return the columns of a kind's file that its table has too."""
    return [each for each in COLUMNS[kind] if not each.derived]


IDENTITY = Column(ROW, "<i8")


def last_of_each(uuids: NDArray[Any]) -> NDArray[np.int64]:
    """Return the last row of each uuid, in the order of the rows: the entity's present state."""
    backwards = np.unique(uuids[::-1], return_index=True)[1]
    return np.sort(len(uuids) - 1 - backwards)


def blocks(kind: str, rows: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Return rows of the database as columns, by path.

    Texts have their own length here; the writer refuses those that do not fit.
    """
    return {each.path: _block(each, [row[each.name] for row in rows]) for each in COLUMNS[kind]}


def _block(column: EntityColumn, values: list[Any]) -> NDArray[Any]:
    if column.dtype.startswith("|S"):
        return np.array([str(value or "").encode() for value in values], dtype="S")
    if column.dtype == "|i1":
        return np.array([-1 if value is None else int(value) for value in values], dtype="i1")
    if values and any(isinstance(value, datetime) for value in values):
        values = [value.timestamp() if value is not None else None for value in values]
    return np.array([np.nan if value is None else value for value in values], dtype="f8")


def texts_fit(kind: str, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which rows, as columns of `blocks`, have no text that is longer than its column."""
    texts = [each for each in COLUMNS[kind] if each.dtype.startswith("|S")]
    fit = [np.char.str_len(columns[each.path]) <= int(each.dtype[2:]) for each in texts]
    return np.all(fit, axis=0)


def keys_of(kind: str, columns: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Return what tells whether an entity has changed, by its uuid; the last row of a uuid holds.

    Parameters
    ----------
    kind
        Of the entities.
    columns
        Blocks of rows as `blocks` makes them, or as they are read from a file.
    """
    casts = [
        np.ascontiguousarray(columns[each.path].astype(each.dtype)) for each in stored_columns(kind)
    ]
    count = len(casts[0])
    if not count:
        return {}
    table = np.hstack([block.view("u1").reshape(count, -1) for block in casts])
    uuids = casts[0].astype("U36")
    return {str(uuid): row.tobytes() for uuid, row in zip(uuids, table, strict=True)}


def row_of(kind: str, key: bytes) -> dict[str, Any]:
    """Return the row of an entity, by column, from its key of `keys_of`."""
    columns = stored_columns(kind)
    (row,) = np.frombuffer(key, [(each.name, each.dtype) for each in columns]).tolist()
    texts = (value.decode() if isinstance(value, bytes) else value for value in row)
    return dict(zip([each.name for each in columns], texts, strict=True))
