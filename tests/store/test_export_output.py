"""Where an export is written, and what it replaces there."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from support.exports import READERS, read_nexus, read_zarr
from support.sample_runs import DEAD, FRAMES, SCAN, SampleStore, shared_sample_store

from skywright.errors import DataError
from skywright.store.export import FORMATS, _write, export_run
from skywright.store.export.contents import Column, RunContents, Stream
from skywright.store.lookup import find_run


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


def test_a_directory_is_named_by_a_dot(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        report = export_run(find_run(store.client, SCAN), Path(), "csv", overwrite=True)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in report.files}
        assert all(path.is_file() for path in report.files)


@pytest.mark.parametrize("format", ["csv", "zarr"])
def test_a_directory_is_named_by_two_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """An export there is replaced, and what is not of it stays."""
    numbers = Column("x", (3,), np.dtype("f8"), {}, np.arange(3.0).__getitem__)
    streams = (Stream("primary", {}, (numbers,), {}),)
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", streams, ())
    _, files = _write(run, tmp_path / "export", format, False)
    below = tmp_path / "export" / "below"
    below.mkdir()
    (below / "notes.txt").write_text("mine")
    monkeypatch.chdir(below)
    _write(run, Path(".."), format, False)
    assert {*(tmp_path / "export").iterdir()} == {*files, below}
    assert (below / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("format", ["csv", "zarr"])
def test_a_directory_may_be_all_of_a_disk(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """As a memory stick is: nothing can be moved there from the directory above."""
    output, rename = tmp_path / "stick", Path.rename

    def on_one_disk(path: Path, target: Path) -> Path:
        if path.is_relative_to(output) != target.is_relative_to(output):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", on_one_disk)
    (output / ".skywright-export-of-a-killed-process").mkdir(parents=True)
    for _ in range(2):
        report = export_run(find_run(store.client, SCAN), output, format, overwrite=True)
        assert {*output.iterdir()} == {*report.files}
    assert [*tmp_path.iterdir()] == [output]


def test_the_name_of_an_output_may_be_as_long_as_that_of_any_file(
    store: SampleStore, tmp_path: Path
) -> None:
    output = tmp_path / f"{'n' * 251}.nxs"
    export_run(find_run(store.client, SCAN), output, "nexus")
    assert output.is_file()


@pytest.mark.parametrize("format", FORMATS)
def test_existing_output_is_kept_unless_told(
    store: SampleStore, tmp_path: Path, format: str
) -> None:
    run = find_run(store.client, DEAD)
    export_run(find_run(store.client, SCAN), tmp_path / "out", format)
    with pytest.raises(DataError, match="exists already"):
        export_run(run, tmp_path / "out", format)
    assert "omega" in READERS[format](tmp_path / "out", "primary")
    export_run(run, tmp_path / "out", format, overwrite=True)
    assert "omega" not in READERS[format](tmp_path / "out", "primary")


def test_a_directory_of_something_else_is_never_replaced(
    store: SampleStore, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="no export of ours"):
        export_run(find_run(store.client, DEAD), tmp_path / "home", "zarr", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


@pytest.mark.parametrize("new", ["csv", "zarr"])
@pytest.mark.parametrize("old", ["csv", "zarr"])
def test_files_of_ones_own_in_an_export_stay(
    store: SampleStore, tmp_path: Path, old: str, new: str
) -> None:
    output = tmp_path / "out"
    export_run(find_run(store.client, SCAN), output, old)
    own = [output / "notes.txt", output / "fits" / "zarr.json", output / "primary" / "mine.csv"]
    if old == "zarr":
        own += [output / "primary" / "omega" / "c" / "mine.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    (output / "empty").mkdir()
    report = export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert [path.read_text() for path in own] == ["years of work"] * len(own)
    assert (output / "empty").is_dir()
    np.testing.assert_array_equal(READERS[new](output, "primary")["diode_current"], [0.5])
    # As if it had been written to an empty directory
    export_run(find_run(store.client, DEAD), tmp_path / "alone", new)
    alone = {path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*")}
    files = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert files - {path.relative_to(output) for path in own} == {
        path for path in alone if (tmp_path / "alone" / path).is_file()
    }
    names = {path.name for path in report.files}
    assert names == {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "alone"}


@pytest.mark.parametrize("new", ["csv", "zarr"])
def test_a_directory_replaces_an_earlier_nexus_file(
    store: SampleStore, tmp_path: Path, new: str
) -> None:
    export_run(find_run(store.client, SCAN), tmp_path / "out", "nexus")
    export_run(find_run(store.client, DEAD), tmp_path / "out", new, overwrite=True)
    np.testing.assert_array_equal(READERS[new](tmp_path / "out", "primary")["diode_current"], [0.5])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("old", "new", "own"),
    [
        ("csv", "zarr", "primary"),
        ("csv", "zarr", "zarr.json"),
        ("zarr", "csv", "primary.csv/mine.txt"),
        ("zarr", "nexus", "primary/mine.txt"),
    ],
)
def test_a_file_of_ones_own_that_is_in_the_way_is_named(
    store: SampleStore, tmp_path: Path, old: str, new: str, own: str
) -> None:
    output = tmp_path / "out"
    export_run(find_run(store.client, SCAN), output, old)
    path = output / own
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    before = {each: each.is_file() and each.read_bytes() for each in output.rglob("*")}
    with pytest.raises(DataError, match=f"{output}/{own.split('/mine')[0]}.*in the way"):
        export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert {each: each.is_file() and each.read_bytes() for each in output.rglob("*")} == before
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    path.unlink()
    if path.parent != output and not any(path.parent.iterdir()):
        path.parent.rmdir()
    export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert "diode_current" in READERS[new](output, "primary")


def test_links_in_an_export_are_not_followed(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, SCAN)
    export_run(run, tmp_path / "out", "csv")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(DataError, match="link: a link to a directory"):
        export_run(run, tmp_path / "link", "csv", overwrite=True)
    (tmp_path / "out" / "primary.csv").rename(tmp_path / "elsewhere.csv")
    (tmp_path / "out" / "primary.csv").symlink_to(tmp_path / "elsewhere.csv")
    export_run(find_run(store.client, DEAD), tmp_path / "out", "csv", overwrite=True)
    assert "omega" in (tmp_path / "elsewhere.csv").read_text()
    assert not (tmp_path / "out" / "primary.csv").is_symlink()


def test_a_file_of_something_else_is_never_replaced(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, DEAD)
    (tmp_path / "thesis.tex").write_text("years of work")
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["entry/data"] = FRAMES
    for name in ("thesis.tex", "frames.h5"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DataError, match=f"{name}: a file that is no export of ours"):
            export_run(run, tmp_path / name, "nexus", overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "empty.nxs").touch()
    export_run(run, tmp_path / "empty.nxs", "nexus", overwrite=True)
    assert "diode_current" in read_nexus(tmp_path / "empty.nxs", "primary")


def test_a_zarr_store_that_does_not_say_what_is_its_own_is_not_replaced(
    store: SampleStore, tmp_path: Path
) -> None:
    run = find_run(store.client, DEAD)
    export_run(run, tmp_path / "out", "zarr")
    del zarr.open_group(tmp_path / "out").attrs["nodes"]
    with pytest.raises(DataError, match="out: an export of an earlier version"):
        export_run(run, tmp_path / "out", "zarr", overwrite=True)
    assert "diode_current" in read_zarr(tmp_path / "out", "primary")
