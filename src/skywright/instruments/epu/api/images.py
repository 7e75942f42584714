"""Routes that give the image of an atlas or a square as PNG."""

import io
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Response

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


@router.get("/gridsquares/{uuid}/gridsquare_image", responses=_PNG, response_class=Response)
def gridsquare_image(uuid: str, service: ServiceOf) -> Response:
    """Give the image of a square."""
    with service.database.read() as connection:
        row = stored(connection, "gridsquare", uuid)
    return _png(_find(service, row["image_path"]), f"Grid Square {uuid}")


@router.get("/grids/{uuid}/atlas_image", responses=_PNG, response_class=Response)
def atlas_image(
    uuid: str,
    service: ServiceOf,
    x: int | None = None,
    y: int | None = None,
    w: int | None = None,
    h: int | None = None,
) -> Response:
    """Give the image of the atlas of a grid: the newest ``Atlas_<n>`` beside ``Atlas.dm``.

    With all of ``x``, ``y``, ``w`` and ``h`` it is the part of this size around this place, in
    pixels of the atlas.
    """
    part = None
    if x is not None and y is not None and w is not None and h is not None:
        part = x - w // 2, y - h // 2, x + w // 2, y + h // 2
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


def _absolute(path: str | None, storage: str | None) -> str | None:
    """Give the path of an atlas; a relative one begins at the storage path of its session."""
    plain = cygwin_path(path)
    if not plain or plain.startswith("/"):
        return plain
    return f"{storage}/{plain}" if storage else None


def _local(service: Service, path: str | None) -> Path | None:
    """Give where this machine sees a path of EPU; None where the path map has no prefix of it."""
    mapped = map_path(path, {prefix: str(root) for prefix, root in service.path_map.items()})
    if mapped is None:
        return None
    # The path came with a request: it must not lead out of the mapped directories. Path.resolve
    # would raise an error for a link that leads to itself.
    place = Path(os.path.realpath(mapped))
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
