"""Trees and documents of EPU for the tests."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skywright.instruments.epu.tree import Tree
from skywright.instruments.epu.twin.visit import TwinVisit
from skywright.instruments.epu.twin.writer import write_visit


def read_document(directory: Path, jobs: int = 1) -> dict[str, Any]:
    """Return what ``skywright epu parse dir DIR --json`` prints."""
    return json.loads("".join(Tree(directory, jobs).chunks()))


def normalized(document: Any) -> Any:
    """Return a document with its lists of entities in one order."""
    if isinstance(document, dict):
        return {key: normalized(value) for key, value in document.items()}
    if isinstance(document, list):
        items = [normalized(item) for item in document]
        if items and isinstance(items[0], dict):
            items.sort(key=lambda item: json.dumps(item, sort_keys=True))
        return items
    return document


_TIMES = {"start_time", "acquisition_datetime", "acquisition_date"}


def comparable(document: Any) -> Any:
    """Return a document in one order and with times to the microsecond, for comparison."""

    def convert(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: convert(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [convert(each) for each in value]
        if key in _TIMES and value is not None:
            return datetime.fromisoformat(value).astimezone(UTC).isoformat()
        return value

    return normalized(convert(document))


def written(visit: TwinVisit, directory: Path) -> Path:
    """Write a visit and return its directory's parent."""
    write_visit(visit, directory)
    return directory
