"""One file of EPU's, with all its values, for ``skywright epu parse KIND FILE``."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from skywright.errors import DataError
from skywright.instruments.epu import fields as table
from skywright.instruments.epu.document import (
    Row,
    atlas_row,
    foilhole_row,
    gridsquare_row,
    micrograph_row,
    session_row,
)
from skywright.instruments.epu.extract import FieldReader
from skywright.instruments.epu.names import KIND_WORDS, EpuFile, Kind, kind_of_name, recognize
from skywright.instruments.epu.parse import PARSERS, read_file
from skywright.instruments.epu.safe_xml import XmlError, parse_xml

_DETAILS = {
    Kind.SESSION: table.SESSION_DETAIL_FIELDS,
    Kind.GRIDSQUARE: table.IMAGE_DETAIL_FIELDS,
    Kind.FOILHOLE: table.IMAGE_DETAIL_FIELDS,
    Kind.MICROGRAPH: table.IMAGE_DETAIL_FIELDS,
}


def parse_single(path: Path, kind: Kind) -> tuple[Row, list[str]]:
    """Return a file's row, and a line for each value that is not of its type.

    The row has the names of the tree's document, and further values that the file has.

    Raises
    ------
    DataError
        If the file cannot be read, or is of another kind; the message names what it is.
    """
    named = kind_of_name(path.name)
    if named is not None and named is not kind:
        raise DataError(f"{path}: this is {KIND_WORDS[named]}; expected {KIND_WORDS[kind]}")
    problems: list[str] = []
    try:
        data = read_file(path, kind)
        row = _row(path, kind, PARSERS[kind](data, problems))
        if kind in _DETAILS:
            reader = FieldReader(_DETAILS[kind])
            values = reader.read(parse_xml(data), problems)
            row.update(zip([field.name for field in reader.fields], values, strict=True))
    except XmlError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return row, problems


def _row(path: Path, kind: Kind, entity: Any) -> Row:
    """Return what a file says as a row."""
    if kind is Kind.SESSION:
        return session_row(entity, path.absolute().parent.name, None)
    if kind is Kind.ATLAS:
        return atlas_row(entity, path.as_posix())
    name = recognize("/".join(path.absolute().parts[1:])) or _by_name(path)
    if kind is Kind.METADATA:
        holes = [foilhole_row(hole.id, name.gridsquare, hole, None) for hole in entity.holes]
        return {**gridsquare_row(name.gridsquare, entity, None, None), "foilholes": holes}
    image, instrument = entity
    if kind is Kind.GRIDSQUARE:
        row = gridsquare_row(name.gridsquare, None, image, None)
    elif kind is Kind.FOILHOLE:
        row = foilhole_row(name.foilhole, name.gridsquare, None, image)
    else:
        row = {**micrograph_row(name, image), "file": path.as_posix()}
    return {**row, "instrument": asdict(instrument)}


def _by_name(path: Path) -> EpuFile:
    """Return what a file outside of a tree tells by its name alone."""
    trees = {
        Kind.METADATA: "Metadata",
        Kind.FOILHOLE: "GridSquare_0/FoilHoles",
        Kind.MICROGRAPH: "GridSquare_0/Data",
    }
    kind = kind_of_name(path.name) or Kind.SESSION
    file = recognize(f"{trees.get(kind, 'GridSquare_0')}/{path.name}")
    if file is None:
        return EpuFile(kind, path.name, "")
    return file if kind is Kind.METADATA else replace(file, gridsquare="")
