"""Names in EPU's directory tree: which file is of which kind, and which ids its path holds.

The patterns match whole names, so temporary names of synchronization tools
(``.FoilHole_1_2_3.xml.Ab12Cd``, ``*.part``) are of no kind.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

SESSION_NAME = "EpuSession.dm"
ATLAS_NAME = "Atlas.dm"
METADATA = "Metadata"

DISC = re.compile(r"Images-Disc(\d+)", re.ASCII)
SQUARE_DIRECTORY = re.compile(r"GridSquare_(\d+)", re.ASCII)
SAMPLE_DIRECTORY = re.compile(r"Sample\d+", re.ASCII)
METADATA_FILE = re.compile(r"GridSquare_(\d+)\.dm", re.ASCII)
SQUARE_MANIFEST = re.compile(r"GridSquare_(\d{8}_\d{6})\.xml", re.ASCII)
HOLE_MANIFEST = re.compile(r"FoilHole_(\d+)_(\d{8}_\d{6})\.xml", re.ASCII)
MICROGRAPH_MANIFEST = re.compile(r"FoilHole_(\d+)_Data_(\d+)_(\d+)_(\d{8}_\d{6})\.xml", re.ASCII)
IGNORED = re.compile(
    r".*\.(jpe?g|png|mrc|tiff?|eer|part|tmp)|.*_fractions.*|\..*|(ScreeningSession|Sample)\.dm"
    r"|(Atlas|Tile)_.*",
    re.IGNORECASE,
)
"""Files that belong to a tree and are not read: images, movies, temporary files, the atlas run."""


class Kind(StrEnum):
    """Kinds of files that hold entities, in the order in which a backlog of them is read."""

    SESSION = "session"
    ATLAS = "atlas"
    METADATA = "gridsquare-metadata"
    GRIDSQUARE = "gridsquare"
    FOILHOLE = "foilhole"
    MICROGRAPH = "micrograph"


KIND_ORDER = {kind: rank for rank, kind in enumerate(Kind)}
KIND_WORDS = {
    Kind.SESSION: "a session file",
    Kind.ATLAS: "an atlas file",
    Kind.METADATA: "the metadata of a grid square",
    Kind.GRIDSQUARE: "the manifest of a grid square",
    Kind.FOILHOLE: "the manifest of a foil hole",
    Kind.MICROGRAPH: "the manifest of a micrograph",
}


@dataclass(frozen=True, slots=True)
class EpuFile:
    """A file of EPU's tree, known by its name alone.

    Attributes
    ----------
    kind
        What the file holds.
    path
        Relative to the directory that is read, with ``/``.
    session
        Path of the session's directory; empty for an atlas, and for a session at the top.
    gridsquare, foilhole, location
        Ids from the path; empty where the kind has none.
    stamp
        ``YYYYMMDD_HHMMSS`` of a manifest's name: the newest manifest of an entity counts.
    """

    kind: Kind
    path: str
    session: str
    gridsquare: str = ""
    foilhole: str = ""
    location: str = ""
    stamp: str = ""

    @property
    def age(self) -> tuple[str, str]:
        """Order of several manifests of one entity, oldest first."""
        return self.stamp, self.path


@dataclass(frozen=True, slots=True)
class _Place:
    """What the path of a directory tells about the files in it."""

    name: str
    parent: str
    session: str
    gridsquare: str


@lru_cache(maxsize=4096)
def _place(directory: str) -> _Place:
    parts = directory.split("/") if directory else []
    name = parts[-1] if parts else ""
    parent = parts[-2] if len(parts) > 1 else ""
    session, gridsquare = "/".join(parts[:-1]) if name == METADATA else "", ""
    for index in range(len(parts) - 1, -1, -1):
        square = SQUARE_DIRECTORY.fullmatch(parts[index])
        if square and not gridsquare:
            gridsquare = square[1]
            session = "/".join(parts[:index])  # of a copy without the level Images-Disc<n>
        if DISC.fullmatch(parts[index]):
            session = "/".join(parts[:index])
            break
    return _Place(name, parent, session, gridsquare)


def recognize(path: str) -> EpuFile | None:
    """Return what the file at `path` holds, judged by its name; None for every other file.

    Parameters
    ----------
    path
        Relative to the directory that is read, with ``/``.
    """
    directory, _, name = path.rpartition("/")
    if name.endswith(".xml"):
        return _recognize_manifest(path, directory, name)
    if not name.endswith(".dm"):
        return None
    if name == SESSION_NAME:
        return EpuFile(Kind.SESSION, path, directory)
    place = _place(directory)
    if name == ATLAS_NAME and place.name == "Atlas":
        return EpuFile(Kind.ATLAS, path, "")
    match = METADATA_FILE.fullmatch(name)
    if match and place.name == METADATA:
        return EpuFile(Kind.METADATA, path, place.session, gridsquare=match[1])
    return None


def _recognize_manifest(path: str, directory: str, name: str) -> EpuFile | None:
    place = _place(directory)
    if not place.gridsquare:
        return None
    if place.name == "Data" and (match := MICROGRAPH_MANIFEST.fullmatch(name)):
        hole, location, _, stamp = match.groups()
        return EpuFile(
            Kind.MICROGRAPH, path, place.session, place.gridsquare, hole, location, stamp
        )
    if place.name == "FoilHoles" and (match := HOLE_MANIFEST.fullmatch(name)):
        return EpuFile(
            Kind.FOILHOLE, path, place.session, place.gridsquare, match[1], stamp=match[2]
        )
    if (match := SQUARE_MANIFEST.fullmatch(name)) and SQUARE_DIRECTORY.fullmatch(place.name):
        return EpuFile(Kind.GRIDSQUARE, path, place.session, place.gridsquare, stamp=match[1])
    return None


def kind_of_name(name: str) -> Kind | None:
    """Return the kind that a file's name alone speaks for, whatever its directory."""
    patterns = {
        Kind.METADATA: METADATA_FILE,
        Kind.GRIDSQUARE: SQUARE_MANIFEST,
        Kind.FOILHOLE: HOLE_MANIFEST,
        Kind.MICROGRAPH: MICROGRAPH_MANIFEST,
    }
    if name == SESSION_NAME:
        return Kind.SESSION
    if name == ATLAS_NAME:
        return Kind.ATLAS
    return next((kind for kind, pattern in patterns.items() if pattern.fullmatch(name)), None)


def below_sample(path: str) -> bool:
    """Return whether an atlas belongs to a grid, and not to the atlas run of the cassette."""
    parts = path.split("/")
    return len(parts) > 2 and SAMPLE_DIRECTORY.fullmatch(parts[-3]) is not None
