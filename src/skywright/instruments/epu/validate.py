"""Is a directory a complete session of EPU? Judged by names, or in depth by the files."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from skywright.instruments.epu.document import Issue
from skywright.instruments.epu.names import DISC, IGNORED, METADATA, SESSION_NAME, recognize
from skywright.instruments.epu.scan import walk
from skywright.instruments.epu.tree import Tree


@dataclass(slots=True)
class Verdict:
    """Result of a validation: valid if there are no errors."""

    valid: bool = True
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def validate_layout(directory: Path) -> Verdict:
    """Check the names in a session directory; no file is opened.

    Parameters
    ----------
    directory
        The session directory, in which ``EpuSession.dm`` stands.

    Returns
    -------
    Verdict
        All errors, not only the first.

    Raises
    ------
    OSError
        If the directory cannot be listed.
    """
    errors, warnings = [], []
    entries = sorted(directory.iterdir())
    if not (directory / SESSION_NAME).is_file():
        errors.append(f"{SESSION_NAME} is missing")
        # Not `Path.is_file`, which raises where a directory may not be entered.
        below = [e.name for e in entries if os.path.isfile(e / SESSION_NAME)]  # noqa: PTH113
        if below:
            warnings.append(f"sessions are below, to be checked each: {', '.join(below)}")
    if not (directory / METADATA).is_dir():
        errors.append(f"the directory {METADATA} is missing")
    discs = [
        (entry.name, int(match[1]))
        for entry in entries
        if (match := DISC.fullmatch(entry.name)) and entry.is_dir()
    ]
    if not discs:
        errors.append("no directory Images-Disc<n>")
    errors += [f"{name}: disc numbers begin at 1" for name, number in discs if number < 1]
    return Verdict(not errors, errors, warnings)


def validate_deep(directory: Path) -> Verdict:
    """Check the names and read every file; what is found in the files are warnings with counts."""
    verdict = validate_layout(directory)
    tree = Tree(directory.resolve())
    for grid in tree.grids():
        for _ in grid.foilholes:
            pass
        for _ in grid.micrographs:
            pass
    sessions = tree.files.sessions.values()
    without_metadata = [each for files in sessions for each in files.imaged - files.metadata.keys()]
    verdict.warnings += [
        *_session_names(tree),
        *_issue_warnings(tree.issues),
        *_counted("imaged grid squares without .dm", sorted(without_metadata)),
        *_counted("files of unknown kind", _unknown_files(directory)),
    ]
    return verdict


_ISSUES = {
    "unreadable": "unreadable files",
    "value": "values of the wrong type",
    "repeated": "grid squares whose .dm lists foil holes more than once",
    "orphan": "micrographs without foil hole",
    "atlas": "sessions whose atlas is not found",
    "directory": "directories that cannot be listed",
}


def _issue_warnings(issues: list[Issue]) -> list[str]:
    """Return one warning for each kind of issue, with its count and the first of them."""
    counts = Counter(issue.kind for issue in issues)
    warnings = []
    for kind, words in _ISSUES.items():
        if counts[kind]:
            first = next(issue for issue in issues if issue.kind == kind)
            warnings.append(f"{counts[kind]} {words}; first: {first.path}: {first.text}")
    return warnings


def _session_names(tree: Tree) -> list[str]:
    """Return a warning for each session whose name is not its directory's.

    A copy may stand in ``metadata_<name>``.
    """
    warnings = []
    for directory, session in tree.sessions.items():
        name = Path(directory).name or tree.root.name
        if session and session.name not in (None, name, name.removeprefix("metadata_")):
            warnings.append(f"the session's name is {session.name}, its directory's {name}")
    return warnings


def _unknown_files(directory: Path) -> list[str]:
    return [
        path
        for path, file in walk(directory, follow_links=True)
        if recognize(path) is None and not IGNORED.fullmatch(file.name)
    ]


def _counted(words: str, found: list[str]) -> list[str]:
    return [f"{len(found)} {words}; first: {found[0]}"] if found else []
