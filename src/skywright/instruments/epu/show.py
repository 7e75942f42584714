"""Tables for people."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from skywright.instruments.epu.document import Row
from skywright.instruments.epu.housekeeping import Usage
from skywright.instruments.epu.tree import Tree

ISSUES_MAX = 50


def tree_tables(tree: Tree) -> Iterator[Table]:
    """Yield the tables of a tree: sessions with their counts, squares, issues."""
    sessions = Table("session", "directory", "atlas", "squares", "holes", "micrographs")
    squares = Table("session", "square", "state", "imaged", "holes", "micrographs")
    for grid in tree.grids():
        holes = Counter(row["gridsquare_id"] for row in grid.foilholes)
        rows = list(grid.gridsquares)
        micrographs = Counter(json.loads(text)["gridsquare_id"] for text in grid.micrographs)
        totals = (len(rows), holes.total(), micrographs.total())
        sessions.add_row(grid.session or "-", grid.data_dir, grid.atlas or "-", *map(str, totals))
        for row in rows:
            key = row["id"]
            if micrographs[key] or row["acquisition_datetime"]:
                imaged = (row["acquisition_datetime"] or "-")[:19]
                counts = (str(holes[key]), str(micrographs[key]))
                squares.add_row(grid.session or "-", key, row["state"] or "-", imaged, *counts)
    yield sessions
    if squares.row_count:
        yield squares
    if tree.issues:
        issues = Table("issue", title=f"{len(tree.issues)} issues")
        for column in ("path", "text"):
            issues.add_column(column, overflow="fold")  # a path is shown whole
        for issue in tree.issues[:ISSUES_MAX]:
            issues.add_row(issue.kind, issue.path, issue.text)
        if len(tree.issues) > ISSUES_MAX:
            issues.add_row("...", "", f"{len(tree.issues) - ISSUES_MAX} more (--json has all)")
        yield issues


def row_table(row: Row) -> Table:
    """Return the values of one file, a line each; of lists the number of entries."""
    table = Table("name", "value", show_header=False)
    for name, value in row.items():
        table.add_row(name, _text(value))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and all(not isinstance(each, dict) for each in value.values()):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    return str(value)


def usage_table(found: Iterable[Usage]) -> Table:
    """Return files and bytes by kind."""
    table = Table("kind", "files", "bytes")
    for entry in found:
        table.add_row(entry.kind, str(entry.files), str(entry.bytes))
    return table
