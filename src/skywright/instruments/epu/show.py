"""Tables for people."""

import json
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
        holes = _count(grid.foilholes, "gridsquare_id")
        rows = list(grid.gridsquares)
        micrographs = _count(map(json.loads, grid.micrographs), "gridsquare_id")
        totals = (len(rows), sum(holes.values()), sum(micrographs.values()))
        sessions.add_row(grid.session or "-", grid.data_dir, grid.atlas or "-", *map(str, totals))
        for row in rows:
            key = row["id"]
            if micrographs.get(key) or row["acquisition_datetime"]:
                imaged = (row["acquisition_datetime"] or "-")[:19]
                counts = (str(holes.get(key, 0)), str(micrographs.get(key, 0)))
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


def _count(rows: Iterable[Row], key: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[key]] = counts.get(row[key], 0) + 1
    return counts


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
