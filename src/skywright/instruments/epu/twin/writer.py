"""The files of a simulated visit, in the order and at the times at which EPU writes them."""

import math
import random
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from skywright.instruments.epu.twin.templates import (
    AtlasSquareValues,
    HoleValues,
    ImageValues,
    atlas_xml,
    image_xml,
    metadata_xml,
    session_xml,
)
from skywright.instruments.epu.twin.visit import (
    EXPOSURE_S,
    HOLE_S,
    SQUARE_S,
    START,
    TwinGrid,
    TwinHole,
    TwinMicrograph,
    TwinSquare,
    TwinVisit,
)

INSTRUMENT = {"model": "SIMTITAN1", "id": "9999", "computer": "SIMPC1"}
AREA_SHIFT = 0.02
"""Beam shift from the middle of a hole to an acquisition area, in EPU's unit."""
STAGE_NOISE = 1e-9
"""Largest error of the position that the stage tells, metres."""
_ATLAS_PIXEL = 4.2e-7
_SQUARE_PIXEL = 4.156e-8


class Write(NamedTuple):
    """A file that EPU writes: `time` in seconds from the visit's start, `path` below its parent."""

    time: float
    path: str
    content: bytes

    def put(self, root: Path) -> None:
        """Write the file below `root`."""
        path = root / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)


def visit_files(visit: TwinVisit, images: bool = False) -> Iterator[Write]:
    """Yield every file of the visit in EPU's order; files that EPU rewrites come again.

    Parameters
    ----------
    visit
        The plan.
    images
        Also write small placeholders for ``.jpg`` and ``.mrc`` images.
    """
    time = 0.0
    for grid in visit.grids:
        for write in _GridWriter(visit, grid, time).files():
            time = write.time
            yield write
            if images and write.path.endswith(".xml"):
                stem = write.path.removesuffix(".xml")
                yield Write(time, stem + ".jpg", b"\xff\xd8\xff\xd9")
                yield Write(time, stem + ".mrc", b"")


def write_visit(visit: TwinVisit, directory: Path) -> None:
    """Write the whole visit below `directory` without waiting."""
    for write in visit_files(visit):
        write.put(directory)


class _GridWriter:
    def __init__(self, visit: TwinVisit, grid: TwinGrid, time: float) -> None:
        self.visit, self.grid, self.time = visit, grid, time
        self.session = f"{visit.name}/{grid.name}"
        self.storage = f"Z:\\DoseFractions\\{visit.name}"
        self.rng = random.Random(grid.id + visit.seed)
        self.done: set[int] = set()
        self.imaged: dict[int, str] = {}
        """Name without ending of the image of a square, by its id."""

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time)

    def stamp(self) -> str:
        return self.now().strftime("%Y%m%d_%H%M%S")

    def dotnet_time(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%S.%f") + "0+00:00"

    def files(self) -> Iterator[Write]:
        run = f"atlas/Supervisor_{START:%Y%m%d_%H%M%S}_{self.visit.name}_atlas"
        sample = f"{run}/Sample{self.grid.slot}"
        atlas = f"{sample}/Atlas/Atlas.dm"
        yield self._write(f"{self.visit.name}/{atlas}", self._atlas())
        self.time += 60
        windows = self.storage + "\\" + atlas.replace("/", "\\")
        session = session_xml(
            self.grid.id + 2, self.grid.name, self.dotnet_time(), self.storage, windows
        )
        yield self._write(f"{self.session}/EpuSession.dm", session)
        for square in self.grid.squares:
            yield self._metadata(square, "None", [])
        for square in self.grid.squares:
            if square.holes:
                yield from self._square(square)
        yield self._write(f"{self.session}/EpuSession.dm", session)

    def _write(self, path: str, content: bytes) -> Write:
        return Write(self.time, path, content)

    def _atlas(self) -> bytes:
        tiles: dict[tuple[int, int, int, int], list[AtlasSquareValues]] = {}
        for square in self.grid.squares:
            column, row = int(square.x // 1024), int(square.y // 1024)
            values = AtlasSquareValues(
                square.id,
                square.x,
                square.y,
                (square.x - 2048) * _ATLAS_PIXEL,
                (square.y - 2048) * _ATLAS_PIXEL,
                size=120.0,
                rotation=0.2,
            )
            tiles.setdefault((1024 * column, 1024 * row, 1200, 1200), []).append(values)
        folder = f"{self.storage}\\atlas"
        return atlas_xml(self.grid.id, self.dotnet_time(), folder, self.grid.slot, tiles)

    def _stage(self, square: TwinSquare) -> tuple[float, float, float]:
        return (square.x - 2048) * _ATLAS_PIXEL, (square.y - 2048) * _ATLAS_PIXEL, 9.2e-5

    def _metadata(self, square: TwinSquare, state: str, holes: list[TwinHole]) -> Write:
        path = None
        if holes:
            path = (
                f"{self.storage}\\{self.grid.name}\\Images-Disc{square.disc}"
                f"\\GridSquare_{square.id}\\{self.imaged[square.id]}.mrc"
            )
        values = [self._hole_values(square, hole) for hole in holes]
        content = metadata_xml(square.id, self._stage(square), state, bool(holes), path, values)
        return self._write(f"{self.session}/Metadata/GridSquare_{square.id}.dm", content)

    def _hole_values(self, square: TwinSquare, hole: TwinHole) -> HoleValues:
        x, y, _ = self._stage(square)
        return HoleValues(
            hole.id,
            hole.x,
            hole.y,
            x + (hole.x - 2048) * _SQUARE_PIXEL,
            y + (hole.y - 2048) * _SQUARE_PIXEL,
            51.28809,
            hole.near_grid_bar,
            "Completed" if hole.id in self.done else "Defined",
        )

    def _square(self, square: TwinSquare) -> Iterator[Write]:
        directory = f"{self.session}/Images-Disc{square.disc}/GridSquare_{square.id}"
        image = self._image(square, 470, _SQUARE_PIXEL, -5e-5, fractions=None)
        self.imaged[square.id] = f"GridSquare_{self.stamp()}"
        yield self._write(f"{directory}/{self.imaged[square.id]}.xml", image)
        yield self._metadata(square, "InProgress", square.holes)
        for hole in square.holes:
            yield from self._hole(square, hole, directory)
        yield self._metadata(square, "Completed", square.holes)
        self.time += SQUARE_S

    def _hole(self, square: TwinSquare, hole: TwinHole, directory: str) -> Iterator[Write]:
        images = self.rng.choice((1, 1, 2))
        for _ in range(images):
            self.time += HOLE_S / images
            found = (1024 + self.rng.gauss(0, 30), 1024 + self.rng.gauss(0, 30))
            center = (*found, self.rng.uniform(0.6, 1), self.rng.uniform(-3, 3), 770.145)
            image = self._image(
                square, 6500, 8.17e-10, -1e-5, center=center if hole.centered else None
            )
            yield self._write(f"{directory}/FoilHoles/FoilHole_{hole.id}_{self.stamp()}.xml", image)
        for number, micrograph in enumerate(hole.micrographs):
            self.time += EXPOSURE_S
            name = f"FoilHole_{hole.id}_Data_{micrograph.area}_{number}_{self.stamp()}.xml"
            yield self._write(
                f"{directory}/Data/{name}", self._micrograph(square, hole, micrograph)
            )
        self.done.add(hole.id)
        if len(self.done) % 5 == 0:
            yield self._metadata(square, "InProgress", square.holes)

    def _micrograph(self, square: TwinSquare, hole: TwinHole, micrograph: TwinMicrograph) -> bytes:
        area = micrograph.area  # its beam shift is the same in every hole
        return self._image(
            square,
            165000,
            1.0558814239614023e-10,
            micrograph.defocus,
            identity=micrograph.id,
            applied=micrograph.applied_defocus,
            offset=(hole.x, hole.y),
            beam_shift=(AREA_SHIFT * math.cos(area), AREA_SHIFT * math.sin(area)),
        )

    def _image(
        self,
        square: TwinSquare,
        magnification: float,
        pixel_size: float,
        defocus: float,
        identity: str | None = None,
        applied: float | None = None,
        offset: tuple[float, float] = (2048, 2048),
        center: tuple[float, float, float, float, float] | None = None,
        fractions: int | None = 50,
        beam_shift: tuple[float, float] = (0.0, 0.0),
    ) -> bytes:
        x, y, z = self._stage(square)
        values = ImageValues(
            identity or str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            self.dotnet_time(),
            defocus,
            defocus if applied is None else applied,
            magnification,
            pixel_size,
            exposure=0.89,
            dose=1.44e21,
            stage=(
                x
                + (offset[0] - 2048) * _SQUARE_PIXEL
                + self.rng.uniform(-STAGE_NOISE, STAGE_NOISE),
                y
                + (offset[1] - 2048) * _SQUARE_PIXEL
                + self.rng.uniform(-STAGE_NOISE, STAGE_NOISE),
                z,
                -0.00043,
                0.0168,
            ),
            beam_shift=beam_shift,
            center=center,
            fractions=fractions,
        )
        return image_xml(values, INSTRUMENT)
