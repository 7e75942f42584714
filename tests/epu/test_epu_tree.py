"""Whole directories: the samples, the merging rules, broken files, and the command line."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from epu_trees import comparable, normalized, read_document, written
from typer.testing import CliRunner
from watching import recorded

from skywright.instruments.epu import tree as tree_module
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.parse import parse_atlas, parse_metadata
from skywright.instruments.epu.tree import Tree
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.watch.watcher import Watcher


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Directory above a small visit of two grids."""
    return written(plan_visit(seed=3, grids=2, squares=6, imaged=2, holes=4), tmp_path / "data")


@pytest.fixture
def real(test_data: Path, tmp_path: Path) -> Path:
    """Writable copy of the real session's visit."""
    target = tmp_path / "real"
    shutil.copytree(test_data / "epu" / "real-cm40593-1", target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def session_directory(root: Path) -> Path:
    return next(root.rglob("EpuSession.dm")).parent


def assert_contains(found, expected, where=""):
    """`found` has all keys and rows of `expected`; further keys are allowed."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in found, f"{where}/{key}"
            assert_contains(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        name = "id" if "id" in expected[0] else "session"
        rows = ({row.get(name): row for row in side} for side in (found, expected))
        if name == "session" or "id" in expected[0]:
            mine, theirs = rows
            assert mine.keys() == theirs.keys(), where
            for key in theirs:
                assert_contains(mine[key], theirs[key], f"{where}/{key}")
    else:
        assert found == expected, where


def test_synthetic_sample_is_as_expected(test_data):
    expected = json.loads((test_data / "epu" / "synthetic-sample.expected.json").read_text())
    document = read_document(test_data / "epu" / "synthetic-sample")
    assert_contains(document, expected)
    assert document["issues"] == []


def test_real_session_newest_manifest_counts_and_orphans_are_kept(real):
    document = read_document(real)
    (grid,) = document["grids"]
    assert len(grid["micrographs"]) == 4
    assert {hole["id"] for hole in grid["foilholes"]} == {"9015889", "9028276"}
    assert sum(issue["kind"] == "orphan" for issue in document["issues"]) == 4
    assert grid["session"] == "9015527"
    assert grid["atlas"] is None
    assert any(issue["kind"] == "atlas" for issue in document["issues"])
    micrograph = next(m for m in grid["micrographs"] if m["location_id"] == "9017347")
    assert micrograph["fractions"] == 50
    # The names of the older manifests are changed to be the newer ones, which then count.
    newest = {hole["id"]: hole["center_x"] for hole in grid["foilholes"]}
    for path in real.rglob("FoilHoles/*.xml"):
        stamp = "20300101_000000" if path.name.endswith(("154715.xml", "061712.xml")) else None
        if stamp:
            path.rename(path.with_name("_".join(path.name.split("_")[:2]) + f"_{stamp}.xml"))
    other = {h["id"]: h["center_x"] for h in read_document(real)["grids"][0]["foilholes"]}
    assert other.keys() == newest.keys()
    assert all(other[key] != newest[key] for key in newest)


def test_twin_visit_is_read_whole(visit):
    plan = plan_visit(seed=3, grids=2, squares=6, imaged=2, holes=4)
    document = read_document(visit)
    assert document["issues"] == []
    assert {session["instrument"]["model"] for session in document["sessions"]} == {"SIMTITAN1"}
    for planned, grid in zip(plan.grids, document["grids"], strict=True):
        holes = [hole for square in planned.squares for hole in square.holes]
        ids = {micrograph.id for hole in holes for micrograph in hole.micrographs}
        assert {micrograph["id"] for micrograph in grid["micrographs"]} == ids
        assert {hole["id"] for hole in grid["foilholes"]} == {str(hole.id) for hole in holes}
        assert {square["id"] for square in grid["gridsquares"]} == {
            str(square.id) for square in planned.squares
        }
        assert all(square["center_x"] is not None for square in grid["gridsquares"])
        positions = {hole["id"]: hole["x_location"] for hole in grid["foilholes"]}
        assert positions[str(holes[0].id)] == pytest.approx(holes[0].x, abs=1e-9)


def test_two_processes_give_the_same_document(visit, monkeypatch):
    monkeypatch.setattr(tree_module, "PARALLEL_FROM", 10)
    monkeypatch.setattr(tree_module, "CHUNK", 7)
    assert read_document(visit, jobs=2) == read_document(visit)


def test_holes_of_a_grid_without_lattice_are_read_in_both_forms(visit):
    path = max(visit.rglob("Metadata/*.dm"), key=lambda path: path.stat().st_size)
    text = path.read_text()
    regular = parse_metadata(text.encode()).holes
    pairs = re.search(
        r"<(\w+):m_serializationArray[^>]*>(.*)</\1:m_serializationArray>", text, re.S
    )
    spaces = (
        'xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays" '
        'xmlns:b="http://schemas.datacontract.org/2004/07/System.Collections.Generic"'
    )
    start, end = (re.search(f"<{sign}TargetLocationsEfficient[^>]*>", text) for sign in ("", "/"))
    before, after = text[: start.start()], text[end.end() :]
    for change in (
        (),
        (("KeyValuePairOf", "KeyValueOf"), ("b:key>", "a:Key>"), ("b:value", "a:Value")),
    ):
        inner = pairs[2]
        for old, new in change:
            inner = inner.replace(old, new)
        if change:
            inner = inner.replace("b:KeyValueOf", "a:KeyValueOf")
        other = f"<TargetLocations {spaces}>{inner}</TargetLocations>"
        found = parse_metadata(f"{before}{other}{after}".encode()).holes
        assert found == regular
        assert len(found) > 3


@pytest.mark.parametrize("name", ["PixelCenter", "PixelWidthHeight"])
def test_a_hole_without_a_center_or_a_size_is_left_out(visit, name):
    path = max(visit.rglob("Metadata/*.dm"), key=lambda path: path.stat().st_size)
    text = path.read_text()
    changed, count = re.subn(rf"<(\w+:)?{name}\b.*?</(\w+:)?{name}>", "", text, count=1, flags=re.S)
    assert count == 1
    whole, found = (parse_metadata(each.encode()).holes for each in (text, changed))
    assert [hole.id for hole in found] == [hole.id for hole in whole][1:]


def test_a_square_is_placed_by_its_number_on_the_atlas(visit):
    squares = {s["id"]: s for grid in read_document(visit)["grids"] for s in grid["gridsquares"]}
    path = min(visit.rglob("Metadata/*.dm"), key=lambda path: path.stat().st_size)
    number = path.stem.partition("_")[2]
    before = squares[number]
    assert before["atlas_node_id"] == int(number)
    assert before["center_x"] is not None
    path.rename(path.with_name("GridSquare_987654.dm"))
    squares = {s["id"]: s for grid in read_document(visit)["grids"] for s in grid["gridsquares"]}
    assert squares["987654"] == before | {"id": "987654"}


def test_two_sessions_on_one_atlas_are_two_grids(visit):
    first, second = sorted(visit.rglob("EpuSession.dm"))
    atlas_of = read_document(visit)["grids"][0]["atlas"]
    text = first.read_text()
    other = second.read_text()
    for mark in ("<AtlasId", "</AtlasId>"):
        assert mark in text
        assert mark in other
    mine = text[text.index("<AtlasId") : text.index("</AtlasId>")]
    theirs = other[other.index("<AtlasId") : other.index("</AtlasId>")]
    second.write_text(other.replace(theirs, mine))
    document = read_document(visit)
    assert [grid["atlas"] for grid in document["grids"]] == [atlas_of, atlas_of]
    assert len(document["atlas"]) == 2  # the second grid's own is there still, and is not used


def test_a_tile_that_has_no_position_of_a_square_takes_none_away(visit):
    path = next(visit.rglob("Atlas.dm"))
    text = path.read_text()
    tile = re.search(r"<TileXml><Id.*?</TileXml>", text)[0]
    pair = re.search(r"<KeyValuePairOf.*?</KeyValuePairOf[^>]*>", tile)[0]
    key = re.search(r"<key>(\d+)", pair)[1]
    nil = re.sub(
        r"<b:PositionOnTheAtlas.*</b:PositionOnTheAtlas>",
        '<b:PositionOnTheAtlas i:nil="true"/>',
        pair,
    )
    known = parse_atlas(text.encode()).gridsquares[key]
    other = re.sub(r"<KeyValuePairOf.*</KeyValuePairOf[^>]*>", nil, tile)
    for changed in (text.replace(tile, tile + other), text.replace(tile, other + tile)):
        assert parse_atlas(changed.encode()).gridsquares[key] == known
    alone = parse_atlas(text.replace(tile, other).encode()).gridsquares[key]
    assert (alone.center, alone.rotation) == ([None, None], None)


def test_atlas_of_another_sample_is_never_taken(visit):
    for path in visit.rglob("Sample0/Atlas/Atlas.dm"):
        path.unlink()
    grids = {grid["data_dir"]: grid for grid in read_document(visit)["grids"]}
    first = min(grids)
    assert grids[first]["atlas"] is None
    assert all(square["center_x"] is None for square in grids[first]["gridsquares"])


def test_atlas_is_found_one_level_higher_and_below_an_extra_level(visit, tmp_path):
    (source,) = (path for path in visit.iterdir())
    copied = tmp_path / "copy" / "raw" / source.name
    shutil.copytree(source, copied)
    (copied / "atlas").rename(copied / "atlas_")
    (copied / "atlas").mkdir()
    (copied / "atlas_").rename(copied / "atlas" / "atlas")
    extra = copied / "metadata_x"
    extra.mkdir()
    session = session_directory(copied)
    session.rename(extra / session.name)
    document = read_document(tmp_path / "copy")
    assert [issue for issue in document["issues"] if issue["kind"] == "atlas"] == []


def test_copies_without_the_level_of_the_disc_are_two_sessions(visit):
    whole = read_document(visit)
    for disc in list(visit.rglob("Images-Disc*")):
        for square in list(disc.iterdir()):
            square.rename(disc.parent / square.name)
        disc.rmdir()
    flat = read_document(visit)
    assert [grid["data_dir"] for grid in flat["grids"]] == [
        grid["data_dir"] for grid in whole["grids"]
    ]
    for one, other in zip(flat["grids"], whole["grids"], strict=True):
        assert len(one["micrographs"]) == len(other["micrographs"]) > 0
    assert flat["issues"] == []


def test_a_directory_without_anything_of_epu_is_named(tmp_path):
    result = CliRunner().invoke(app, ["parse", "dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "nothing of EPU" in result.stderr


def test_micrograph_under_two_names_and_rewritten(visit):
    path = next(visit.rglob("Data/*.xml"))
    older = path.with_name("_".join(path.stem.split("_")[:-2]) + "_20200101_000000.xml")
    older.write_bytes(path.read_bytes())
    before = sum(len(grid["micrographs"]) for grid in read_document(visit)["grids"])
    files = sum(1 for _ in visit.rglob("Data/*.xml"))
    assert before == files - 1
    names = {
        m["file"].rpartition("/")[2]
        for g in read_document(visit)["grids"]
        for m in g["micrographs"]
    }
    assert path.name in names
    assert older.name not in names


def test_missing_session_file_keeps_what_is_there(visit):
    session = session_directory(visit)
    count = sum(1 for _ in session.rglob("Data/*.xml"))
    (session / "EpuSession.dm").unlink()
    document = read_document(visit)
    grid = next(g for g in document["grids"] if g["data_dir"].endswith(session.name))
    assert grid["session"] is None
    assert len(grid["micrographs"]) == count
    assert any(issue["kind"] == "session" for issue in document["issues"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<MicroscopeImage", "line 1"),
        (b"\x00\x01\x02", "line 1"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (
            b'<?xml version="1.0"?>\n<!-- x -->\n<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
            "line 3",
        ),
        (
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><a/>'.encode("utf-16"),
            "document type",
        ),
        (b"<a>" * 100_000, "line 1"),
        (b"<EpuSessionXml/>", "no kind"),
    ],
)
def test_broken_file_is_reported_and_the_rest_goes_on(visit, content, reason):
    kinds = ["Data/*.xml", "FoilHoles/*.xml", "Metadata/*.dm", "Atlas.dm"]
    broken = [sorted(visit.rglob(pattern))[-1] for pattern in kinds]
    whole = read_document(visit)
    for path in broken:
        path.write_bytes(content)
    document = read_document(visit)
    unreadable = {i["path"]: i["text"] for i in document["issues"] if i["kind"] == "unreadable"}
    assert unreadable.keys() == {path.relative_to(visit).as_posix() for path in broken}
    assert all(reason in text for text in unreadable.values()), unreadable
    count = [sum(len(g["micrographs"]) for g in d["grids"]) for d in (document, whole)]
    assert count[0] == count[1] - 1


def test_an_older_manifest_that_is_broken_is_reported_too(visit):
    path = next(visit.rglob("FoilHoles/*.xml"))
    older = path.with_name(f"FoilHole_{path.name.split('_')[1]}_20200101_000000.xml")
    whole = read_document(visit)
    older.write_bytes(path.read_bytes()[:100])
    document = read_document(visit)
    (issue,) = document.pop("issues")
    assert (issue["kind"], issue["path"]) == ("unreadable", older.relative_to(visit).as_posix())
    assert {"issues": [], **document} == whole


def test_tables_name_broken_files_whole(visit):
    path = next(visit.rglob("Data/*.xml"))
    path.write_bytes(b"")
    lines = run("parse", "dir", visit).stdout.split("issues")[1].splitlines()
    column = "".join(line.split("│")[2].strip() for line in lines if line.startswith("│"))
    assert column == path.relative_to(visit).as_posix()


def test_deep_and_huge_files_are_refused(visit):
    path = next(visit.rglob("Data/*.xml"))
    path.write_bytes(b"<a>" * 3000 + b"</a>" * 3000)
    with path.open("r+b") as file:
        pass
    huge = sorted(visit.rglob("Data/*.xml"))[-1]
    with huge.open("r+b") as file:
        file.truncate(1 << 30)
    texts = [issue["text"] for issue in read_document(visit)["issues"]]
    assert any("more than 256 deep" in text for text in texts)
    assert any("larger than" in text for text in texts)


def test_value_of_the_wrong_type_costs_only_the_value(visit):
    path = next(visit.rglob("Data/*.xml"))
    path.write_bytes(path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>long<"))
    document = read_document(visit)
    (issue,) = document["issues"]
    assert issue["kind"] == "value"
    assert "exposure_time" in issue["text"]
    rows = [m for g in document["grids"] for m in g["micrographs"] if m["exposure_time"] is None]
    assert len(rows) == 1


def test_a_long_wrong_value_is_cut_in_its_message(visit):
    path = next(visit.rglob("Data/*.xml"))
    long = b"<ExposureTime>" + b"9" * 1_000_000 + b"x<"
    path.write_bytes(path.read_bytes().replace(b"<ExposureTime>0.89<", long))
    (issue,) = read_document(visit)["issues"]
    assert issue["text"].startswith("exposure_time: '999")
    assert len(issue["text"]) < 120


def test_unreadable_directory_is_an_issue(visit, monkeypatch):
    directory, scandir = next(visit.rglob("Data")), os.scandir

    def refuse(path):
        if Path(path) == directory:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    whole = read_document(visit)
    monkeypatch.setattr(os, "scandir", refuse)
    document = read_document(visit)
    monkeypatch.undo()
    path = directory.relative_to(visit).as_posix()
    expected = {"kind": "directory", "path": path, "text": "Permission denied"}
    assert document["issues"] == [expected]
    counts = [sum(len(grid["micrographs"]) for grid in d["grids"]) for d in (whole, document)]
    assert counts[0] - counts[1] == len(list(directory.glob("*.xml"))) > 0


def test_an_atlas_in_a_closed_directory_is_not_found(visit, close_directory):
    session = session_directory(visit)
    whole = read_document(session)
    close_directory(session.parent / "atlas")
    document = read_document(session)
    assert ([each["kind"] for each in document["issues"]], whole["issues"]) == (["atlas"], [])
    counts = [[len(grid["micrographs"]) for grid in each["grids"]] for each in (whole, document)]
    assert counts[0] == counts[1]


def test_a_linked_directory_is_read_once_and_no_link_leads_in_a_circle(visit, tmp_path, database):
    whole = read_document(visit)
    session = session_directory(visit)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(session, elsewhere)
    session.symlink_to(elsewhere, target_is_directory=True)
    (session / "up").symlink_to(visit, target_is_directory=True)
    (visit / "zz_again").symlink_to(elsewhere, target_is_directory=True)
    (visit / "zz_above").symlink_to(tmp_path, target_is_directory=True)
    (visit / "zz_itself").symlink_to(visit / "zz_itself", target_is_directory=True)
    (visit / "zz_gone").symlink_to(tmp_path / "gone", target_is_directory=True)
    assert normalized(read_document(visit)) == normalized(whole)
    Watcher(visit, database).run(idle_exit=0)
    assert comparable(recorded(database, visit)) == comparable(whole)


def test_a_link_to_a_closed_place_is_an_issue_and_hides_nothing_beside_it(
    visit, tmp_path, close_directory
):
    whole = read_document(visit)
    (tmp_path / "closed" / "inside").mkdir(parents=True)
    metadata = session_directory(visit) / "Metadata"
    for number in range(20):
        (metadata / f"link{number}").symlink_to(tmp_path / "closed" / "inside")
    close_directory(tmp_path / "closed")
    document = read_document(visit)
    (issue,) = document.pop("issues")
    assert (issue["kind"], issue["text"]) == ("directory", "Permission denied")
    assert issue["path"].startswith(f"{metadata.relative_to(visit).as_posix()}/link")
    assert whole.pop("issues") == []
    assert normalized(document) == normalized(whole)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_parse_dir_prints_one_json_document(visit):
    result = run("parse", "dir", visit, "--json")
    assert result.exit_code == 0
    assert normalized(json.loads(result.stdout)) == normalized(read_document(visit))
    tables = run("parse", "dir", visit)
    assert tables.exit_code == 0
    assert "micrographs" in tables.stdout


@pytest.mark.parametrize(
    ("kind", "pattern", "key"),
    [
        ("session", "EpuSession.dm", "clustering_mode"),
        ("atlas", "Atlas.dm", "tiles"),
        ("gridsquare-metadata", "Metadata/*.dm", "foilholes"),
        ("gridsquare", "GridSquare_*_*.xml", "instrument"),
        ("foilhole", "FoilHoles/*.xml", "center_x"),
        ("micrograph", "Data/*.xml", "spot_index"),
    ],
)
def test_parse_of_one_file(visit, kind, pattern, key):
    path = sorted(visit.rglob(pattern))[0]
    result = run("parse", kind, path, "--json")
    assert result.exit_code == 0, result.output
    assert key in json.loads(result.stdout)
    assert run("parse", kind, path).exit_code == 0


def test_a_file_of_another_kind_is_named(visit):
    from skywright.errors import DataError

    atlas = next(visit.rglob("Atlas.dm"))
    result = run("parse", "micrograph", atlas)
    assert isinstance(result.exception, DataError)
    assert "this is an atlas file; expected the manifest of a micrograph" in str(result.exception)
    renamed = visit / "something.dm"
    renamed.write_bytes(atlas.read_bytes())
    assert "this is an atlas file" in str(run("parse", "session", renamed).exception)


def test_linear_look_up_of_holes(visit):
    tree = Tree(visit)
    for grid in tree.grids():
        holes = {hole["id"] for hole in grid.foilholes}
        assert {json.loads(row)["foilhole_id"] for row in grid.micrographs} <= holes


def test_a_position_too_large_in_nanometers_is_unknown(test_data):
    data = (test_data / "epu/real-atlas/Atlas.dm").read_bytes()
    known = parse_atlas(data).gridsquares
    huge = data.replace(b"<d:x>-0.000141894867<", b"<d:x>1e300<")
    found = parse_atlas(huge).gridsquares
    (changed,) = [key for key in known if found[key] != known[key]]
    assert found[changed].physical == [None, known[changed].physical[1]]
