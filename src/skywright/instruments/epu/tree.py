"""A whole directory, read and merged: every session below it with its squares, holes, micrographs.

The cost grows with the number of files: everything is found by key, and micrographs pass through
as a stream.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from skywright.instruments.epu.document import (
    GridRows,
    Issue,
    Row,
    atlas_row,
    document_chunks,
    foilhole_row,
    gridsquare_row,
    micrograph_row,
    session_row,
)
from skywright.instruments.epu.entities import (
    Atlas,
    FoilHoleManifest,
    GridSquareManifest,
    GridSquareMetadata,
    Instrument,
    Session,
)
from skywright.instruments.epu.names import EpuFile, Kind, below_sample, recognize
from skywright.instruments.epu.parse import PARSERS, read_file
from skywright.instruments.epu.paths import atlas_candidates, atlas_relative
from skywright.instruments.epu.safe_xml import XmlError
from skywright.instruments.epu.scan import SessionFiles, scan

CHUNK = 250
"""Micrographs that a process is given at a time."""
PARALLEL_FROM = 4000
"""Micrographs of a session from which on a second process is worth its start."""

_START_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
"""A plain fork is not safe in a process that has threads."""


def read_entity(root: Path | str, file: EpuFile, issues: list[Issue]) -> Any:
    """Return what a file says, see `PARSERS`; None, and an issue, if it cannot be read."""
    problems: list[str] = []
    try:
        entity = PARSERS[file.kind](read_file(f"{root}/{file.path}", file.kind), problems)
    except (XmlError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        issues.append(Issue("unreadable", file.path, reason))
        return None
    issues += [Issue("value", file.path, problem) for problem in problems]
    return entity


class Tree:
    """The sessions, atlases and grids below a directory.

    Parameters
    ----------
    root
        The directory; a visit, a session's directory, or any directory above.
    jobs
        Number of processes for the micrographs.

    Attributes
    ----------
    files
        EPU's files below the directory, by their names.
    issues
        What could not be read, grows as the rows are consumed.
    """

    def __init__(self, root: Path, jobs: int = 1) -> None:
        self.root = root
        self.jobs = jobs
        self.issues: list[Issue] = []
        self.files = scan(root)
        self.issues += [Issue("directory", path, text) for path, text in self.files.problems]
        self.sessions: dict[str, Session | None] = {}
        for directory in sorted(self.files.sessions):
            self.sessions[directory] = self._read_session(self.files.sessions[directory])
        self.atlases: dict[str, Atlas] = {}
        for path in sorted(self.files.atlases):
            self._read_atlas(self.files.atlases[path])
        self.atlas_paths = {
            directory: self._find_atlas(directory, session)
            for directory, session in self.sessions.items()
        }

    def _read_session(self, files: SessionFiles) -> Session | None:
        if files.session is None:
            self.issues.append(
                Issue("session", files.directory or ".", "EpuSession.dm is missing here")
            )
            return None
        return read_entity(self.root, files.session, self.issues)

    def _read_atlas(self, file: EpuFile) -> None:
        atlas = read_entity(self.root, file, self.issues)
        if atlas is not None:
            self.atlases[file.path] = atlas

    def _find_atlas(self, directory: str, session: Session | None) -> str | None:
        """Return the path of a session's atlas; one outside the directory is read here."""
        if session is None or session.atlas_path is None:
            return None
        relative = atlas_relative(session.atlas_path, session.storage_path)
        for path in atlas_candidates(directory, relative):
            is_beside = path.startswith("../") and path not in self.atlases
            # Not `Path.is_file`, which raises where a directory may not be entered.
            if is_beside and os.path.isfile(self.root / path):  # noqa: PTH113
                self._read_atlas(EpuFile(Kind.ATLAS, path, ""))
            if path in self.atlases:
                return path
        self.issues.append(
            Issue("atlas", directory or ".", f"the session's atlas is not found: {relative}")
        )
        return None

    def session_rows(self) -> Iterator[Row]:
        """Yield the row of each session that has an ``EpuSession.dm``."""
        for directory, session in self.sessions.items():
            if session is not None:
                instrument = self._read_instrument(self.files.sessions[directory])
                yield session_row(session, directory or ".", instrument)

    def _read_instrument(self, files: SessionFiles) -> Instrument | None:
        """Return the instrument of the first image that can be read."""
        squares, holes = files.gridsquares.values(), files.foilholes.values()
        for images in (chain(*squares), chain(*holes), files.micrographs):
            for file in sorted(images, key=lambda file: file.age)[:3]:
                _, instrument = read_entity(self.root, file, []) or (None, Instrument())
                if instrument.model is not None:
                    return instrument
        return None

    def atlas_rows(self) -> Iterator[Row]:
        """Yield the row of each atlas."""
        linked = set(self.atlas_paths.values())
        some_below_sample = any(below_sample(path) for path in self.atlases)
        for path, atlas in self.atlases.items():
            # The others are the atlas run's own, not a grid's.
            if path in linked or below_sample(path) or not some_below_sample:
                yield atlas_row(atlas, path)

    def grids(self) -> Iterator[GridRows]:
        """Yield the rows of each grid, with or without an ``EpuSession.dm``."""
        for directory, session in self.sessions.items():
            path = self.atlas_paths[directory]
            atlas = self.atlases.get(path) if path else None
            reader = _GridReader(self, self.files.sessions[directory], atlas)
            yield GridRows(
                session.id if session else None,
                directory or ".",
                atlas.id if atlas else None,
                reader.foilholes(),
                reader.gridsquares,
                reader.micrographs(),
            )

    def chunks(self) -> Iterator[str]:
        """Yield the JSON document of the tree piece by piece."""
        return document_chunks(self.session_rows(), self.atlas_rows(), self.grids(), self.issues)


class _GridReader:
    """Reads one grid: first its holes, which fill `gridsquares`, then its micrographs."""

    def __init__(self, tree: Tree, files: SessionFiles, atlas: Atlas | None) -> None:
        self._tree = tree
        self._files = files
        self._positions = atlas.gridsquares if atlas else {}
        self._holes: set[str] = set()
        self.gridsquares: list[Row] = []

    def foilholes(self) -> Iterator[Row]:
        """Yield the holes, square by square."""
        files = self._files
        for gridsquare in sorted({*files.metadata, *files.gridsquares, *files.foilholes}):
            metadata = self._metadata(gridsquare)
            manifest = self._newest(files.gridsquares.get(gridsquare, ()))
            if metadata is not None or manifest is not None:
                self.gridsquares.append(self._gridsquare_row(gridsquare, metadata, manifest))
            yield from self._holes_of(gridsquare, metadata)

    def _metadata(self, gridsquare: str) -> GridSquareMetadata | None:
        file = self._files.metadata.get(gridsquare)
        if file is None:
            return None
        metadata = read_entity(self._tree.root, file, self._tree.issues)
        if metadata is not None and metadata.repeated_holes:
            text = f"foil holes listed more than once: {', '.join(metadata.repeated_holes)}"
            self._tree.issues.append(Issue("repeated", file.path, text))
        return metadata

    def _newest(self, files: Iterable[EpuFile]) -> Any:
        """Return what the newest of several manifests that can be read says.

        All are read: the others may be broken, which is reported.
        """
        newest = None
        for file in sorted(files, key=lambda file: file.age):
            found = read_entity(self._tree.root, file, self._tree.issues)
            if found is not None:
                newest = found[0]
        return newest

    def _gridsquare_row(
        self,
        gridsquare: str,
        metadata: GridSquareMetadata | None,
        manifest: GridSquareManifest | None,
    ) -> Row:
        position = self._positions.get(gridsquare)
        if position is None and metadata is not None and metadata.atlas_node_id is not None:
            position = self._positions.get(str(metadata.atlas_node_id))
        return gridsquare_row(gridsquare, metadata, manifest, position)

    def _holes_of(self, gridsquare: str, metadata: GridSquareMetadata | None) -> Iterator[Row]:
        manifests: dict[str, list[EpuFile]] = {}
        for file in self._files.foilholes.get(gridsquare, ()):
            manifests.setdefault(file.foilhole, []).append(file)
        locations = {hole.id: hole for hole in metadata.holes} if metadata else {}
        for hole in {**locations, **manifests}:
            manifest: FoilHoleManifest | None = self._newest(manifests.get(hole, ()))
            if manifest is None and hole not in locations:
                continue
            self._holes.add(hole)
            yield foilhole_row(hole, gridsquare, locations.get(hole), manifest)

    def micrographs(self) -> Iterator[str]:
        """Yield the JSON of each micrograph; of two files with one id the newest name counts."""
        files = sorted(self._files.micrographs, key=lambda file: file.age, reverse=True)
        issues = self._tree.issues
        seen: set[str] = set()
        for file, (identity, text, found) in zip(files, self._read(files), strict=True):
            issues += found
            if identity is None or identity in seen:
                continue
            seen.add(identity)
            if file.foilhole not in self._holes:
                issues.append(orphan_issue(file.path, file.foilhole))
            yield text

    def _read(self, files: Sequence[EpuFile]) -> Iterator["_Read"]:
        """Return what `read_micrographs` gives for each file, from several processes if it pays."""
        root, jobs = str(self._tree.root), self._tree.jobs
        paths = [file.path for file in files]
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        work = partial(read_micrographs, root)
        if jobs < 2 or len(files) < PARALLEL_FROM:
            for chunk in chunks:
                yield from work(chunk)
            return
        with get_context(_START_METHOD).Pool(jobs) as pool:
            for results in pool.imap(work, chunks):
                yield from results


def orphan_issue(path: str, foilhole: str) -> Issue:
    """Return the issue of a micrograph whose hole no file describes."""
    return Issue("orphan", path, f"the foil hole {foilhole} of this micrograph is unknown")


_Read = tuple[str | None, str, list[Issue]]


def read_micrographs(root: str, paths: Sequence[str]) -> list[_Read]:
    """Return id, JSON row and issues of each manifest; without an id it could not be read."""
    results: list[_Read] = []
    for path in paths:
        file = recognize(path)
        assert file is not None
        issues: list[Issue] = []
        micrograph, _ = read_entity(root, file, issues) or (None, None)
        text = json.dumps(micrograph_row(file, micrograph)) if micrograph else ""
        results.append((micrograph.id if micrograph else None, text, issues))
    return results
