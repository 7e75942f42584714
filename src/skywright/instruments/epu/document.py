"""The JSON document of a tree (schema ``skywright.epu/1``), written as a stream of rows."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from skywright.instruments.epu.entities import (
    SQUARE_FIELDS,
    Atlas,
    AtlasSquare,
    FoilHoleManifest,
    GridSquareManifest,
    GridSquareMetadata,
    HoleLocation,
    Instrument,
    Micrograph,
    Session,
)
from skywright.instruments.epu.names import EpuFile
from skywright.instruments.epu.paths import atlas_relative, cygwin_path

SCHEMA = "skywright.epu/1"

Row = dict[str, Any]


@dataclass(slots=True)
class Issue:
    """Something in a tree that a person should know of; the rest of the tree is read all the same.

    `kind` is one of ``unreadable``, ``value``, ``repeated``, ``orphan``, ``session``,
    ``atlas``, ``directory``.
    """

    kind: str
    path: str
    text: str


@dataclass(slots=True)
class GridRows:
    """The rows of one grid; the iterables are consumed in the order of the attributes."""

    session: str | None
    data_dir: str
    atlas: str | None
    foilholes: Iterable[Row]
    gridsquares: Iterable[Row]
    micrographs: Iterable[str]
    """JSON texts of rows."""


def session_row(session: Session, data_dir: str, instrument: Instrument | None) -> Row:
    """Return a session's row; its paths in cygwin's form, the atlas's relative to the visit."""
    row = asdict(session)
    row["storage_path"] = cygwin_path(session.storage_path)
    row["atlas_path"] = atlas_relative(session.atlas_path, session.storage_path)
    row["data_dir"] = data_dir
    row["instrument"] = asdict(instrument or Instrument())
    return row


def atlas_row(atlas: Atlas, path: str) -> Row:
    """Return an atlas's row."""
    row = asdict(atlas)
    row["path"] = path
    return row


_UNKNOWN_METADATA = GridSquareMetadata(selected=None, unusable=None)  # type: ignore[arg-type]
_UNKNOWN_SQUARE = GridSquareManifest(*[None] * len(GridSquareManifest._fields))
_UNKNOWN_HOLE = FoilHoleManifest(*[None] * len(FoilHoleManifest._fields))
_UNKNOWN_LOCATION = HoleLocation._make(["", *[None] * 5, False])


def gridsquare_row(
    gridsquare: str,
    metadata: GridSquareMetadata | None,
    manifest: GridSquareManifest | None,
    position: AtlasSquare | None,
) -> Row:
    """Return a square's row from its up to three sources, which only add to each other."""
    known = metadata or _UNKNOWN_METADATA
    center = position.center if position else (None, None)
    size = position.size if position else (None, None)
    return {
        "id": gridsquare,
        "center_x": center[0],
        "center_y": center[1],
        "size_width": size[0],
        "size_height": size[1],
        **{name: getattr(known, name) for name in SQUARE_FIELDS},
        "image_path": cygwin_path(known.image_path),
        **(manifest or _UNKNOWN_SQUARE)._asdict(),
        "n_foilhole_positions": len(metadata.holes) if metadata else None,
    }


def foilhole_row(
    foilhole: str, gridsquare: str, location: HoleLocation | None, manifest: FoilHoleManifest | None
) -> Row:
    """Return a hole's row from the square's ``.dm`` (location) and its newest manifest."""
    return {
        **(location or _UNKNOWN_LOCATION)._asdict(),
        **(manifest or _UNKNOWN_HOLE)._asdict(),
        "id": foilhole,
        "gridsquare_id": gridsquare,
    }


def micrograph_row(file: EpuFile, micrograph: Micrograph) -> Row:
    """Return a micrograph's row; the ids of its hole and square are those of its path."""
    return {
        "gridsquare_id": file.gridsquare,
        "foilhole_id": file.foilhole,
        "location_id": file.location,
        **micrograph._asdict(),
        "file": file.path,
    }


def document_chunks(
    sessions: Iterable[Row],
    atlases: Iterable[Row],
    grids: Iterable[GridRows],
    issues: Iterable[Issue],
) -> Iterator[str]:
    """Yield the JSON document of a tree piece by piece; `issues` is read last."""
    yield f'{{"schema": "{SCHEMA}", "sessions": ['
    yield from _joined(map(json.dumps, sessions))
    yield '], "atlas": ['
    yield from _joined(map(json.dumps, atlases))
    yield '], "grids": ['
    comma = ""
    for grid in grids:
        head = {"session": grid.session, "data_dir": grid.data_dir, "atlas": grid.atlas}
        yield comma + json.dumps(head)[:-1] + ', "foilholes": ['
        yield from _joined(map(json.dumps, grid.foilholes))
        yield '], "gridsquares": ['
        yield from _joined(map(json.dumps, grid.gridsquares))
        yield '], "micrographs": ['
        yield from _joined(grid.micrographs)
        yield "]}"
        comma = ", "
    yield '], "issues": ['
    yield from _joined(json.dumps(asdict(issue)) for issue in issues)
    yield "]}"


def _joined(rows: Iterable[str]) -> Iterator[str]:
    """Yield JSON rows with commas between them, many in one piece."""
    piece: list[str] = []
    comma = ""
    for row in rows:
        piece.append(row)
        if len(piece) == 256:
            yield comma + ",\n".join(piece)
            piece.clear()
            comma = ",\n"
    if piece:
        yield comma + ",\n".join(piece)
