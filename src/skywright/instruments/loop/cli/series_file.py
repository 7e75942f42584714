"""The file of ``skywright loop fit-series``: one picture, or what was found in it, a line."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from skywright.arguments import first_problem
from skywright.errors import ConfigError, DataError

if TYPE_CHECKING:
    from skywright.instruments.loop.detection import Detection
    from skywright.instruments.loop.geometry import View
    from skywright.instruments.loop.series import Series

LARGEST = 1e12
"""Size of an angle in deg, or of a time in s, that is still one."""
FARTHEST_PX = 1e6
"""No picture is as large; squares of lengths beyond it leave floating point."""


def _in_reach(length: float) -> float:
    if abs(length) > FARTHEST_PX:  # NaN is one that is not known
        raise ValueError(f"expected a length in px of at most {FARTHEST_PX:.0f}")
    return length


def _not_negative(width: float) -> float:
    if width < 0.0:
        raise ValueError("expected a width in px, 0 or more")
    return width


Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Px = Annotated[float, AfterValidator(_in_reach)]
Corners = tuple[Px, Px, Px, Px]


def _in_order(corners: Corners) -> Corners:
    xmin, ymin, xmax, ymax = corners
    if xmax < xmin or ymax < ymin:
        raise ValueError("expected [xmin, ymin, xmax, ymax] with xmin <= xmax and ymin <= ymax")
    return corners


class Row(BaseModel):
    """One line of the file; pixels, degrees, seconds. Other fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    phi: Finite | None = None
    time: Finite | None = None
    file: str | None = None
    tip: Annotated[tuple[Px, Px], Field(strict=False)] | None = None
    bbox: Annotated[Corners, Field(strict=False), AfterValidator(_in_order)] | None = None
    width: Annotated[Px, AfterValidator(_not_negative)] | None = None
    kind: Annotated[Literal["nylon", "mitegen", "pin", "none"] | None, Field(alias="class")] = None
    side: Literal["left", "right", "top", "bottom"] | None = None
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    clipped: bool = False


def read_rows(path: Path) -> list[tuple[int, Row]]:
    """Read JSON lines, with their numbers, but empty ones; `DataError` names file, line, field."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason} at {error.start})") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append((number, _row(path, number, line)))
    return rows


def _row(path: Path, number: int, line: str) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        expected = 'expected a JSON object, like {"phi": 10.0, "tip": [352.1, 240.0]}'
        raise DataError(f"{path}: line {number}: {first_problem(error)}; {expected}") from error


def detect_rows(
    path: Path, rows: list[tuple[int, Row]], view: "View", calibrated: bool
) -> "tuple[list[tuple[int, Row]], Series, View, list[str]]":
    """Run the detector where there is no tip; drop pictures that repeat or cannot be decoded.

    The view that is returned has the size of the pictures. If `view` is `calibrated`, pictures of
    another size are refused: their pixels have another scale.
    """
    from skywright.instruments.loop.detect import find_loop
    from skywright.instruments.loop.picture import decode
    from skywright.instruments.loop.series import from_detections

    kept, found, notes = [], [], []
    seen: dict[bytes, int] = {}
    size: tuple[int, ...] | None = None
    for number, row in rows:
        if "tip" in row.model_fields_set:
            found.append(_given(row))
            kept.append((number, row))
            continue
        data = _picture(path, number, row)
        if (first := seen.setdefault(data, number)) != number:
            # A camera that stalls sends a picture again; it was exposed at the first's angle.
            notes.append(f"line {number} repeats the picture of line {first}")
            continue
        try:
            gray = decode(data, str(row.file))
            detection = find_loop(gray)
        except DataError as error:
            notes.append(f"line {number}: {error}")
            continue
        if size not in (None, gray.shape):
            raise DataError(
                f"{path}: line {number}: file: {row.file} is an array of {gray.shape} pixels, "
                f"those before it {size}; the pictures of a series have one size"
            )
        size = gray.shape
        found.append(detection)
        kept.append((number, row))
    if seen and size is None:
        raise DataError(f"{path}: none of its {len(seen)} pictures can be decoded; {notes[0]}")
    if size is not None:
        if calibrated and size != (view.height_px, view.width_px):
            raise ConfigError(
                f"{path}: the camera is calibrated for pictures of {view.width_px} x "
                f"{view.height_px} px, the pictures are {size[1]} x {size[0]}"
            )
        view = replace(view, width_px=size[1], height_px=size[0])
    return kept, from_detections([_nan(row.phi) for _, row in kept], found), view, notes


def _picture(path: Path, number: int, row: Row) -> bytes:
    """Return the bytes of a line's picture."""
    from skywright.instruments.loop.picture import read_file

    if row.file is None:
        raise DataError(f"{path}: line {number}: file, tip: both missing, expected one of them")
    try:
        return read_file(path.parent / row.file)
    except DataError as error:
        raise DataError(f"{path}: line {number}: file: {error}") from error


def _given(row: Row) -> "Detection":
    """Return what a line says itself."""
    from skywright.instruments.loop.detection import Detection

    tip_x, tip_y = row.tip or (math.nan, math.nan)
    return Detection(
        tip_x=tip_x,
        tip_y=tip_y,
        tip_sign="",
        bbox=row.bbox,
        width=_nan(row.width),
        kind=row.kind or "",
        kind_odds=row.score,
        side=row.side,
        score=row.score,
        clipped=row.clipped,
    )


def required(path: Path, rows: list[tuple[int, Row]], field: str) -> Any:
    """Return a field of all lines as (n,) float64."""
    import numpy as np

    for number, row in rows:
        if getattr(row, field) is None:
            unit = "s" if field == "time" else "deg"
            raise DataError(f"{path}: line {number}: {field}: missing, expected a number in {unit}")
    return np.array([getattr(row, field) for _, row in rows], dtype=np.float64)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
