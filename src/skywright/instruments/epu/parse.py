"""The six kinds of EPU's files, from bytes to entities.

Each function raises `XmlError` for a file that cannot be used, and appends a line to `problems`
for a single value that is not of its type.
"""

import math
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from lxml import etree

from skywright.instruments.epu import fields as table
from skywright.instruments.epu.entities import (
    Atlas,
    AtlasSquare,
    AtlasTile,
    FoilHoleManifest,
    GridSquareManifest,
    GridSquareMetadata,
    HoleLocation,
    Instrument,
    Micrograph,
    Session,
    TileSquare,
)
from skywright.instruments.epu.extract import FieldReader, RepeatedReader
from skywright.instruments.epu.fields import NAMESPACES
from skywright.instruments.epu.names import KIND_WORDS, Kind
from skywright.instruments.epu.safe_xml import (
    DM_BYTES_MAX,
    IMAGE_BYTES_MAX,
    PARSER_OPTIONS,
    XmlError,
    is_nil,
    local_name,
    parse_xml,
    read_limited,
    refuse_doctype,
    refuse_dtd,
    xml_error,
)

_IMAGE_ROOT = f"{{{NAMESPACES['S']}}}MicroscopeImage"
_ROOTS = {
    Kind.SESSION: f"{{{NAMESPACES['E']}}}EpuSessionXml",
    Kind.ATLAS: f"{{{NAMESPACES['L']}}}AtlasSessionXml",
    Kind.METADATA: f"{{{NAMESPACES['E']}}}GridSquareXml",
    Kind.GRIDSQUARE: _IMAGE_ROOT,
    Kind.FOILHOLE: _IMAGE_ROOT,
    Kind.MICROGRAPH: _IMAGE_ROOT,
}
_N_INSTRUMENT = len(table.INSTRUMENT_FIELDS)

T = TypeVar("T")


def _checked(root: etree._Element, kind: Kind) -> etree._Element:
    """Return `root`; raise XmlError, which says what the file is, if it is not that of `kind`."""
    if root.tag == _ROOTS[kind]:
        return root
    actual = [KIND_WORDS[other] for other, tag in _ROOTS.items() if tag == root.tag]
    what = " or ".join(actual) if actual else "of no kind that EPU writes"
    expected = f"expected {KIND_WORDS[kind]}"
    raise XmlError(f"this is {what} (root element {local_name(root)}); {expected}", root.sourceline)


_gridsquare = RepeatedReader(table.GRIDSQUARE_FIELDS, partial(_checked, kind=Kind.GRIDSQUARE))
_foilhole = RepeatedReader(table.FOILHOLE_FIELDS, partial(_checked, kind=Kind.FOILHOLE))
_micrograph = RepeatedReader(table.MICROGRAPH_FIELDS, partial(_checked, kind=Kind.MICROGRAPH))
_session = FieldReader(table.SESSION_FIELDS)
_atlas = FieldReader(table.ATLAS_FIELDS)
_tile = FieldReader(table.TILE_FIELDS)
_atlas_square = FieldReader(table.ATLAS_SQUARE_FIELDS)
_tile_square = FieldReader(table.TILE_SQUARE_FIELDS)
_metadata = FieldReader(table.METADATA_FIELDS)
_hole = FieldReader(table.HOLE_FIELDS)

_tile_positions = table.xpath("G:value/L:TilePositions/L:_items/L:TilePositionXml")


def read_file(path: str | Path, kind: Kind) -> bytes:
    """Return the content of a file, within the limit of its kind; raises as `read_limited`."""
    image = _ROOTS[kind] is _IMAGE_ROOT
    return read_limited(path, IMAGE_BYTES_MAX if image else DM_BYTES_MAX)


def _parse_image(
    reader: RepeatedReader, make: Callable[..., T], data: bytes, problems: list[str] | None = None
) -> tuple[T, Instrument]:
    """Return the entity of an image and the instrument that took it."""
    values = reader.read_bytes(data, problems)
    return make(*values[:-_N_INSTRUMENT]), Instrument(*values[-_N_INSTRUMENT:])


parse_gridsquare = partial(_parse_image, _gridsquare, GridSquareManifest)
parse_foilhole = partial(_parse_image, _foilhole, FoilHoleManifest)
parse_micrograph = partial(_parse_image, _micrograph, Micrograph)


def parse_session(data: bytes, problems: list[str] | None = None) -> Session:
    """Return the session of an ``EpuSession.dm``."""
    root = _checked(parse_xml(data), Kind.SESSION)
    return Session(*_session.read(root, problems))


def parse_metadata(data: bytes, problems: list[str] | None = None) -> GridSquareMetadata:
    """Return a square and its planned holes from a ``GridSquare_<id>.dm``.

    A hole without a centre or a size is left out. Of a hole that is listed twice, the last holds.
    """
    holes: dict[str, HoleLocation] = {}
    repeated: list[str] = []

    def take(pair: etree._Element) -> None:
        if "}KeyValue" not in pair.tag or not _is_hole_pair(pair):
            return
        for child in pair.iterchildren(f"{{{NAMESPACES['A']}}}*"):  # the pairs of a Dictionary
            child.tag = f"{{{NAMESPACES['G']}}}{local_name(child).lower()}"
        values = _hole.read(pair, problems)
        if all(values[n] is not None for n in (0, 1, 2, 5)):
            if values[0] in holes:
                repeated.append(values[0])
            holes[values[0]] = HoleLocation(*values)
        pair.clear()

    tags = [f"{{{NAMESPACES[each]}}}*" for each in "GA"]
    root = _parse_streamed(data, Kind.METADATA, tags, take)
    metadata = GridSquareMetadata(*_metadata.read(root, problems))
    metadata.holes, metadata.repeated_holes = list(holes.values()), repeated
    return metadata


def _is_hole_pair(element: etree._Element) -> bool:
    """Return whether this is an entry of the square's list of holes, in either of its two forms."""
    parents = element.iterancestors()
    names = [local_name(parent) for _, parent in zip(range(4), parents, strict=False)]
    regular = ["m_serializationArray", "TargetLocationsEfficient", "TargetLocations"]
    if names[:3] == regular:
        return len(names) == 4
    other = [name for name in names if name != "m_serializationArray"][:2]
    return other == ["TargetLocations", "TargetLocations"]


def parse_atlas(data: bytes, problems: list[str] | None = None) -> Atlas:
    """Return an atlas with its tiles and squares from an ``Atlas.dm``."""
    tiles: list[AtlasTile] = []
    squares: dict[str, AtlasSquare] = {}

    def take(element: etree._Element) -> None:
        if is_nil(element):
            return
        values = _tile.read(element, problems)
        if values[0] is None:  # the unused capacity of the list
            return
        tile = AtlasTile(values[0], values[1:3], values[3:5], *values[5:])
        for pair in element.iterfind(f"{{{NAMESPACES['L']}}}Nodes/KeyValuePairs/*"):
            _take_square(pair, tile, squares, problems)
        tiles.append(tile)
        element.clear()

    root = _parse_streamed(data, Kind.ATLAS, [f"{{{NAMESPACES['L']}}}TileXml"], take)
    atlas = Atlas(*_atlas.read(root, problems))
    atlas.tiles, atlas.gridsquares = tiles, squares
    return atlas


def _take_square(
    pair: etree._Element,
    tile: AtlasTile,
    squares: dict[str, AtlasSquare],
    problems: list[str] | None,
) -> None:
    key, *values = _atlas_square.read(pair, problems)
    if key is None:
        return
    x, y, physical_x, physical_y, width, height, rotation = values
    physical = [_nanometres(metres) for metres in (physical_x, physical_y)]
    if key not in squares or values != [None] * len(values):  # another tile may have no position
        squares[key] = AtlasSquare([x, y], physical, [width, height], rotation)
    positions = tile.gridsquares.setdefault(key, [])
    for node in _tile_positions(pair):
        tile_id, *place = _tile_square.read(node, problems)
        if tile_id == tile.id:
            positions.append(TileSquare(place[:2], place[2:]))


def _nanometres(metres: float | None) -> float | None:
    """Return a length in nm; None if it is not known, or too large for a floating-point number."""
    length = None if metres is None else metres * 1e9
    return length if length is not None and math.isfinite(length) else None


def _parse_streamed(
    data: bytes, kind: Kind, tags: list[str], take: Callable[[etree._Element], None]
) -> etree._Element:
    """Parse a ``.dm`` file; give each element with one of `tags` to `take`, which may empty it.

    Memory use does not grow with the number of holes in a file.
    """
    refuse_dtd(data)
    context = etree.iterparse(BytesIO(data), events=("end",), tag=tags, **PARSER_OPTIONS)
    try:
        for _, element in context:
            take(element)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise xml_error(error) from error
    refuse_doctype(context.root)
    return _checked(context.root, kind)


PARSERS: dict[Kind, Callable[..., Any]] = {
    Kind.SESSION: parse_session,
    Kind.ATLAS: parse_atlas,
    Kind.METADATA: parse_metadata,
    Kind.GRIDSQUARE: parse_gridsquare,
    Kind.FOILHOLE: parse_foilhole,
    Kind.MICROGRAPH: parse_micrograph,
}
"""The parser of each kind; those of images return the instrument too."""
