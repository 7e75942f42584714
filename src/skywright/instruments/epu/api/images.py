"""Routes that give the image of an atlas, a square or a micrograph."""

import io
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Response

from skywright.instruments.epu.api.create import stored
from skywright.instruments.epu.api.service import Service, ServiceOf
from skywright.instruments.epu.database import read
from skywright.instruments.epu.paths import cygwin_path, map_path

if TYPE_CHECKING:
    from PIL.Image import Image

router = APIRouter()

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge."""

_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}},
    404: {"description": "There is no such image."},
}
_JPEG_OR_PNG = {**_PNG, 200: {"content": {"image/jpeg": {}, "image/png": {}}}}

KEEP = {"Cache-Control": "private, max-age=3600"}
"""Header of an image that no longer changes."""

MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""Type of a pixel by the mode of an MRC file."""


def _part(
    x: int | None = None, y: int | None = None, w: int | None = None, h: int | None = None
) -> Box | None:
    """Give the part of a width and height around a place; None unless all are given."""
    if x is None or y is None or w is None or h is None:
        return None
    return x - w // 2, y - h // 2, x + w // 2, y + h // 2


PartOf = Annotated[Box | None, Depends(_part)]
"""The part of an image that the query asks for."""


@router.get("/gridsquares/{uuid}/gridsquare_image", responses=_PNG, response_class=Response)
def gridsquare_image(uuid: str, service: ServiceOf) -> Response:
    """Give the image of a square."""
    with service.database.read() as connection:
        row = stored(connection, "gridsquare", uuid)
    return _png(_find(service, row["image_path"]), f"Grid Square {uuid}")


@router.get("/grids/{uuid}/atlas_image", responses=_PNG, response_class=Response)
def atlas_image(uuid: str, service: ServiceOf, part: PartOf) -> Response:
    """Give the image of the atlas of a grid: the newest ``Atlas_<n>`` beside ``Atlas.dm``.

    With all of ``x``, ``y``, ``w`` and ``h`` it is the part of this size around this place, in
    pixels of the atlas.
    """
    with service.database.read() as connection:
        grid = stored(connection, "grid", uuid)
        acquisition = read.get(connection, "acquisition", grid["acquisition_uuid"])
    storage = acquisition["storage_path"] if acquisition else None
    for path in (grid["atlas_dir"], acquisition["atlas_path"] if acquisition else None):
        place = _local(service, _absolute(path, storage))
        if place is None:
            continue
        with suppress(OSError):  # the path is too long, or its directory may not be read
            directory = place if place.is_dir() else place.parent
            found = sorted(directory.glob("Atlas_*.jpg"), key=lambda image: image.stat().st_mtime)
            if found:
                return _png(found[-1], f"Atlas of grid {uuid}", part)
    raise HTTPException(404, f"Atlas of grid {uuid}: no image")


@router.get("/micrographs/{uuid}/micrograph_image", responses=_JPEG_OR_PNG, response_class=Response)
def micrograph_image(uuid: str, service: ServiceOf, part: PartOf) -> Response:
    """Give the motion-corrected image of a micrograph.

    It is the small JPEG that the processing service has named, as it is, or else the corrected MRC
    file as PNG. Of that, ``x``, ``y``, ``w`` and ``h`` name a part, as for an atlas.
    """
    with service.database.read() as connection:
        row = stored(connection, "micrograph", uuid)
    found = _as_it_is(_local(service, row["motion_corrected_snapshot_path"])) or _mrc(
        _local(service, row["motion_corrected_image_path"]), part
    )
    if found is None:
        raise HTTPException(404, f"Micrograph {uuid}: no image")
    return found


def _absolute(path: str | None, storage: str | None) -> str | None:
    """Give the path of an atlas; a relative one begins at the storage path of its session."""
    plain = cygwin_path(path)
    if not plain or plain.startswith("/"):
        return plain
    return f"{storage}/{plain}" if storage else None


def _local(service: Service, path: str | None) -> Path | None:
    """Give where this machine sees a path; None unless it is in a directory of the path map.

    A path of EPU begins with a prefix of the map; a processing service may name a path of here.
    """
    mapped = (
        map_path(path, {prefix: str(root) for prefix, root in service.path_map.items()}) or path
    )
    if mapped is None:
        return None
    # The path came with a request: it must not lead out of the mapped directories. Path.resolve
    # would raise an error for a link that leads to itself.
    try:
        place = Path(os.path.realpath(mapped))
    except ValueError:  # the character NUL
        return None
    roots = [root.resolve() for root in service.path_map.values()]
    return place if any(place.is_relative_to(root) for root in roots) else None


def _find(service: Service, path: str | None) -> Path | None:
    place = _local(service, path)
    if place is None or not place.name:
        return None
    with suppress(OSError):  # as above
        for suffix in (".jpg", ".jpeg", ".png"):
            image = place.with_suffix(suffix)
            if image.is_file() and image.stat().st_size:
                return image
    return None


def _png(path: Path | None, what: str, part: Box | None = None) -> Response:
    if path is None:
        raise HTTPException(404, f"{what}: no image")
    from PIL import Image

    target = io.BytesIO()
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            (image if part is None else _crop(image, part, path)).save(target, "PNG")
    # Pillow has no error of its own for a damaged PNG: it raises SyntaxError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise HTTPException(404, f"{what}: the image cannot be read") from error
    return Response(target.getvalue(), media_type="image/png")


def _as_it_is(path: Path | None) -> Response | None:
    """Give a JPEG or PNG file unchanged; None where it is none, or cannot be read."""
    from PIL import Image

    try:
        if path is None or not path.is_file():
            return None
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            kind = image.get_format_mimetype()
        content = path.read_bytes()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Response(content, media_type=kind, headers=KEEP)


def _mrc(path: Path | None, part: Box | None) -> Response | None:
    """Give an MRC image as PNG, black to white from its least to its greatest value.

    None where it cannot be read.
    """
    from PIL import Image

    try:
        if path is None or not path.is_file():
            return None
        pixels = _pixels(path)
    except (OSError, ValueError, KeyError, struct.error):
        return None
    values = np.nan_to_num(pixels.astype("f4"), copy=False, posinf=0.0, neginf=0.0)
    values -= values.min()
    values *= 255 / (values.max() or 1.0)
    if part is not None:
        left, top, right, bottom = (max(edge, 0) for edge in part)
        values = values[top:bottom, left:right]
        if not values.size:
            raise HTTPException(422, "x, y, w, h: no part of the micrograph")
    target = io.BytesIO()
    Image.fromarray(values.astype("u1")).save(target, "PNG")
    return Response(target.getvalue(), media_type="image/png", headers=KEEP)


def _pixels(path: Path) -> Any:
    """Return the first image of an MRC file."""
    with path.open("rb") as file:
        head = file.read(1024)
    order = ">" if head[212:213] == b"\x11" else "<"  # the machine stamp
    width, height, _, mode = struct.unpack(f"{order}4i", head[:16])
    (extended,) = struct.unpack(f"{order}i", head[92:96])  # bytes of a second header
    kind, start = np.dtype(order + MRC_TYPES[mode]), 1024 + extended
    count = width * height
    if min(width, height) < 1 or path.stat().st_size < start + count * kind.itemsize:
        raise ValueError(f"{path} is not a whole MRC file")
    return np.fromfile(path, kind, count, offset=start).reshape(height, width)


def _crop(image: "Image", part: Box, path: Path) -> "Image":
    """Return the part of an atlas that its image has.

    EPU's JPEG may be smaller than the atlas, whose size is in the head of the MRC file beside it.
    """
    width, height = image.size
    with suppress(OSError, struct.error), path.with_suffix(".mrc").open("rb") as mrc:
        width, height = struct.unpack("<2i", mrc.read(8))
    scale = image.width / max(width, 1), image.height / max(height, 1)
    left, right = (round(min(max(edge, 0), width) * scale[0]) for edge in part[::2])
    top, bottom = (round(min(max(edge, 0), height) * scale[1]) for edge in part[1::2])
    if left >= right or top >= bottom:
        raise HTTPException(422, "x, y, w, h: no part of the atlas")
    return image.crop((left, top, right, bottom))
