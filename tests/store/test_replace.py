"""An export that replaces an earlier one, and is cut off."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skywright.store.export.contents import EXPORTER
from skywright.store.export.replace import refuse_foreign, replace

OWN: list[set[str]] = [set(), {"notes.txt"}]
"""Files in the directory of the export that no export wrote."""


class Killed(BaseException):
    """The process ends in the middle of a replacement."""


def csv(directory: Path, *names: str) -> None:
    """Make an export as CSV."""
    directory.mkdir()
    tables = [f"{name}.csv" for name in names]
    for name in tables:
        (directory / name).write_text("1\n")
    metadata = {"exporter": EXPORTER, "dtypes": {name: {} for name in tables}}
    (directory / "metadata.json").write_text(json.dumps(metadata))


def zarr(directory: Path, *arrays: str) -> None:
    """Make an export as Zarr."""
    for name in arrays:
        (directory / name / "c").mkdir(parents=True)
        (directory / name / "c" / "0").write_text("1")
        (directory / name / "zarr.json").write_text("{}")
    attributes = {"exporter": EXPORTER, "nodes": arrays}
    (directory / "zarr.json").write_text(json.dumps({"attributes": attributes}))


def nexus(path: Path, *_: str) -> None:
    """Make a file in place of an export as NeXus."""
    path.write_text("NeXus")


def entries(output: Path) -> set[str]:
    """Return the files and directories in a directory; of a file its name alone."""
    return {str(path.relative_to(output)) for path in (output, *output.rglob("*"))}


@pytest.mark.parametrize(
    ("old", "new", "own"),
    [
        (csv, nexus, set()),
        *((old, new, own) for old in (csv, zarr) for new in (csv, zarr) for own in OWN),
    ],
)
def test_an_export_that_was_cut_off_can_be_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: Callable[..., None],
    new: Callable[..., None],
    own: set[str],
) -> None:
    """The process is killed before each change of a file or directory in turn."""
    changes = {
        name: getattr(Path, name) for name in ("unlink", "rmdir", "mkdir", "rename", "replace")
    }
    left = 0

    def change(name: str) -> Callable[..., Any]:
        def count(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return changes[name](path, *arguments, **options)

        return count

    output = tmp_path / "out"
    for number in range(100):
        old(output, "a", "b")
        for name in own:
            (output / name).write_text("years of work")
        new(tmp_path / f"part{number}", "b", "c")
        left = number
        with monkeypatch.context() as patch:
            for name in changes:
                patch.setattr(Path, name, change(name))
            try:
                replace(tmp_path / f"part{number}", output)
            except Killed:
                pass
            else:
                break
        new(tmp_path / f"again{number}", "b", "c")
        new(tmp_path / f"alone{number}", "b", "c")
        if output.exists():
            refuse_foreign(output)
        replace(tmp_path / f"again{number}", output)
        assert entries(output) == entries(tmp_path / f"alone{number}") | own, number
        output.rename(tmp_path / f"done{number}")
    assert number > 3
    assert entries(output) == entries(tmp_path / "alone0") | own


@pytest.mark.parametrize(("old", "new"), [(csv, zarr), (zarr, csv), (zarr, zarr)])
def test_an_array_may_have_the_name_of_the_mark_of_an_export(
    tmp_path: Path, old: Callable[..., None], new: Callable[..., None]
) -> None:
    output, name = tmp_path / "out", "metadata.json"
    old(output, *([name] if old is zarr else []))
    new(tmp_path / "part", *([name] if new is zarr else []))
    new(tmp_path / "alone", *([name] if new is zarr else []))
    replace(tmp_path / "part", output)
    assert entries(output) == entries(tmp_path / "alone")
