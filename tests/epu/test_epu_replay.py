"""Replay of recordings of others: old formats, hostile archives, any JSON."""

import errno
import json
import os
import tarfile
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import BURST, archive, contents, event, old
from typer.testing import CliRunner

from skywright.instruments.epu.cli import app
from skywright.instruments.epu.recording.archive import (
    RecordedEvent,
    RecordingError,
    event_from,
    safe_path,
)
from skywright.instruments.epu.recording.replay import Pace, replay, summarize


def test_recordings_of_others_are_read(tmp_path):
    events = [
        {**event("initial_dir", "a"), "is_directory": True},
        event("initial_file", "a/x.xml", content="<a>"),
        event("appended", "a/x.xml", 1.0, content="</a>", file_position=3),
        event("moved", "a/x.xml", 2.0, dest_path="a/y.xml"),
        event("created", "a/b.jpg", 2.0, size=100, is_placeholder=True),
    ]
    new = archive(tmp_path / "r.tar.gz", events)
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"metadata": {"version": "1.0"}, "events": events}))
    for path in (new, old):
        target = tmp_path / path.stem
        assert replay(path, target, BURST).differences == []
        assert (target / "a" / "y.xml").read_text() == "<a></a>"
        assert (target / "a" / "b.jpg").stat().st_size == 100
        assert summarize(path).counts["moved"] == 1


def test_files_have_the_times_of_the_recording(tmp_path):
    times = {"a.xml": 1700000000.5, "b.xml": 1e300, "c.xml": float("nan"), "d.xml": "soon"}
    events = [
        event("created", name, content="x", operation_data={"mtime": time, "atime": 0})
        for name, time in times.items()
    ]
    path = archive(tmp_path / "r.tar.gz", events)
    arguments = ["replay", str(path), str(tmp_path / "copy"), "-s", "1000"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "copy" / "a.xml").stat().st_mtime == 1700000000.5
    assert len(contents(tmp_path / "copy")) == 4


def test_carriage_returns_that_the_old_recorder_leaves_out_come_back(tmp_path):
    data = b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<a>\r\n</a>'
    text = data.decode().replace("\r\n", "\n")  # as `Path.read_text` gives it
    more = data + b"\r\n<b/>"
    mixed = b"a\nb\r\n"
    events = [
        old("initial_file", "x.xml", data, content=text),
        old("appended", "x.xml", more, content="\r\n<b/>", file_position=len(data)),
        old("created", "y.xml", b"1\n2\n", content="1\n2\n"),
        old("modified", "y.xml", b"1\r\n2\r\n", content="1\n2\n"),
        old("created", "z.xml", mixed, content="a\nb\n"),  # nothing says which line had one
    ]
    found = replay(archive(tmp_path / "r.tar.gz", events), tmp_path / "copy", BURST)
    assert found.differences == ["z.xml: sha256 differs"]
    assert contents(tmp_path / "copy") == {
        "x.xml": more,
        "y.xml": b"1\r\n2\r\n",
        "z.xml": b"a\nb\n",
    }


def test_a_shorter_file_whose_new_content_was_not_recorded_differs(tmp_path):
    """The old recorder keeps the size alone of a file that is rewritten with less."""
    events = [old("created", name, b"0123456789", content="0123456789") for name in ("x", "y")]
    for name, data in (("x", b"<new/>"), ("y", b"01234")):
        events.append(old("truncated", name, data, operation_data={"new_size": len(data)}))
    path = archive(tmp_path / "r.tar.gz", events)
    assert replay(path, tmp_path / "copy", BURST).differences == ["x: sha256 differs"]
    assert contents(tmp_path / "copy") == {"x": b"012345", "y": b"01234"}


def test_an_image_that_grew_and_was_left_out_is_no_difference(tmp_path):
    """The old recorder keeps what is appended to an image whose beginning it leaves out."""
    events = [
        old("created", "a/x.mrc", b"1", is_placeholder=True),
        old("moved", "a", b"", dest_path="b", is_directory=True, content_hash=None),
        old("appended", "b/x.mrc", b"12", content="2", file_position=1),
        old("truncated", "b/x.mrc", b"1", operation_data={"new_size": 1}),
        old("created", "b/x.mrc", b"whole", content="whole"),
        old("appended", "b/x.mrc", b"other", content="!", file_position=5),
    ]
    found = replay(archive(tmp_path / "r.tar.gz", events), tmp_path / "copy", BURST)
    assert found.differences == ["b/x.mrc: sha256 differs"]  # of the last event alone
    assert found.events == len(events)


def test_a_directory_that_is_gone_does_not_come_back_with_its_last_change(tmp_path):
    events = [
        {**event(kind, "a"), "is_directory": True} for kind in ("created", "deleted", "modified")
    ]
    replay(archive(tmp_path / "r.tar.gz", events), tmp_path / "copy", BURST)
    assert contents(tmp_path / "copy") == {}


def test_a_target_that_is_not_empty_is_named(tmp_path):
    directory = {"is_directory": True}
    events = [{**event("created", "a"), **directory}, event("created", "a/x", content="x")]
    events.append({**event("moved", "a", dest_path="b"), **directory})
    recording = archive(tmp_path / "r.tar.gz", events)
    arguments = ["replay", str(recording), str(tmp_path / "out"), "--burst"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    why = "out/b: Directory not empty; give an empty directory to replay into"
    assert str(CliRunner().invoke(app, arguments).exception).endswith(why)


def test_a_digest_that_is_none_is_a_wrong_one(tmp_path):
    events = [old("created", "x", b"x", content="x", content_hash="0")]
    found = replay(archive(tmp_path / "r.tar.gz", events), tmp_path / "copy", BURST)
    assert found.differences == ["x: sha256 differs"]


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "C:\\x", "..\\x", "", "a\0b", None, 3, "\\\\host\\share"],
)
def test_paths_that_leave_the_target_are_refused(tmp_path, path):
    events = [event("created", name, content="x") for name in ("ok", "x")]
    bad = archive(tmp_path / "r.tar.gz", [events[0], events[1] | {"src_path": path}])
    with pytest.raises(RecordingError):
        replay(bad, tmp_path / "copy", BURST)
    assert [p.name for p in tmp_path.iterdir()] in (["r.tar.gz"], ["r.tar.gz", "copy"])
    moved = archive(tmp_path / "m.tar.gz", [{**event("moved", "ok"), "dest_path": path}])
    with pytest.raises(RecordingError):
        replay(moved, tmp_path / "copy", BURST)


@given(st.text())
def test_a_safe_path_stays_inside(path):
    try:
        result = safe_path(path)
    except RecordingError:
        return
    assert os.path.normpath(os.path.join("/t", result)).startswith("/t")  # noqa: PTH118


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestamp", "now"),
        ("timestamp", 1e300),
        ("timestamp", float("nan")),
        ("timestamp", True),
        ("timestamp", None),
        ("event_type", []),
        ("src_path", "\ud800"),
        ("is_directory", "yes"),
        ("content", 5),
        ("content", "\ud800"),
        ("binary_chunk_id", ["chunk_0"]),
        ("size", 2**70),
        ("size", -1),
        ("size", 1.5),
        ("content_hash", 5),
        ("file_position", True),
        ("operation_data", "abc"),
        ("operation_data", {"new_size": "q"}),
        ("is_placeholder", 1),
    ],
)
def test_a_field_of_another_type_or_range_is_named(tmp_path, name, value):
    bad = event("created", "x", content="x") | {name: value}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"events": [event("created", "ok", content="x"), bad]}))
    field = "new_size" if value == {"new_size": "q"} else name
    for play in (lambda: replay(path, tmp_path / "copy", Pace(1, None)), lambda: summarize(path)):
        with pytest.raises(RecordingError, match=f"^{field} of an event "):
            play()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["chunk_" + "1" * 5000, "chunk_", "../chunk_1", "chunk_1.txt"])
def test_a_chunk_has_a_number(name):
    with pytest.raises(RecordingError, match="not a chunk"):
        event_from(event("created", "x", binary_chunk_id=name))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "metadata must be an object"),
        ("x", "metadata must be an object"),
        (None, "metadata must be an object"),
        ({"watch_dir": ["/a"]}, "watch_dir of the metadata"),
        ({"version": 2}, "version of the metadata"),
        ({"recorded_at": "\ud800"}, "recorded_at of the metadata"),
    ],
)
def test_damaged_metadata_are_named(tmp_path, metadata, reason):
    whole, lines, partial = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.partial"
    whole.write_text(json.dumps({"metadata": metadata, "events": []}))
    lines.write_text(f'{{"metadata": {json.dumps(metadata)}, "events": [\n]}}\n')
    partial.mkdir()
    (partial / "metadata.json").write_text(json.dumps(metadata))
    (partial / "events.jsonl").touch()
    for path in (whole, lines, partial):
        with pytest.raises(RecordingError, match=reason):
            summarize(path)
        result = CliRunner().invoke(app, ["info", str(path)])
        assert isinstance(result.exception, RecordingError)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=())),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)
PATHS = st.sampled_from(["a", "a/b", "b", "."])
REQUIRED = {
    "event_type": st.sampled_from(["initial_dir", "created", "appended", "moved", "deleted"]),
    "timestamp": st.sampled_from([0, 0.5]),
    "src_path": PATHS,
}
OPTIONAL = dict.fromkeys(RecordedEvent.__slots__[len(REQUIRED) :], JSON) | {
    "dest_path": PATHS | JSON,
    "content": st.just("x") | JSON,
    "size": st.just(3) | JSON,
}
EVENTS = st.fixed_dictionaries(
    {name: valid | JSON for name, valid in REQUIRED.items()}, optional=OPTIONAL
)


@given(EVENTS | JSON)
def test_any_json_is_an_event_of_the_declared_types_or_an_error(values):
    try:
        found = event_from(json.loads(json.dumps(values)))
    except RecordingError as error:
        str(error).encode()
        return
    for name, kind in typing.get_type_hints(RecordedEvent).items():
        kind = dict if name == "operation_data" else kind
        assert isinstance(getattr(found, name), kind), name
    (found.content or "").encode("utf-8", "surrogateescape")


@settings(max_examples=50)
@given(st.lists(EVENTS, max_size=4), st.just({}) | JSON)
def test_any_json_is_played_or_refused(tmp_path_factory, events, metadata):
    directory = tmp_path_factory.mktemp("any")
    path = directory / "old.json"
    path.write_text(json.dumps({"metadata": metadata, "events": events}))
    for play in (lambda: replay(path, directory / "copy", BURST), lambda: summarize(path)):
        try:
            play()
        except (RecordingError, OSError) as error:
            str(error).encode()
    assert {entry.name for entry in directory.iterdir()} <= {"old.json", "copy"}


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path):
    bomb = tarfile.TarInfo("chunks/chunk_0.bin")
    bomb.size = 1 << 20
    path = archive(tmp_path / "r.tar.gz", [event("created", "x", content="x")], [bomb])
    assert path.stat().st_size < 5000
    assert replay(path, tmp_path / "copy", BURST, max_unpacked=2 << 20).events == 1
    with pytest.raises(RecordingError, match="unpacks to more than 1000000 bytes"):
        replay(path, tmp_path / "other", BURST, max_unpacked=1_000_000)
    run = CliRunner().invoke
    for command in (["info", str(path)], ["replay", str(path), str(tmp_path / "other")]):
        refused = run(app, [*command, "--max-size", "0"])
        assert "unpacks to more than 0 bytes" in str(refused.exception)
        assert run(app, command).exit_code == 0
    chunks = [tarfile.TarInfo(f"chunks/chunk_{number}.bin") for number in range(4)]
    for chunk in chunks:
        chunk.size = 300_000  # each of them is within the limit
    path = archive(tmp_path / "s.tar.gz", [event("created", "x", content="x")], chunks)
    with pytest.raises(RecordingError, match="unpacks to more than 1000000 bytes"):
        replay(path, tmp_path / "third", BURST, max_unpacked=1_000_000)


def test_links_are_refused_and_not_followed(tmp_path):
    link = tarfile.TarInfo("chunks/chunk_0.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    bad = archive(tmp_path / "r.tar.gz", [event("created", "x", binary_chunk_id="chunk_0")], [link])
    with pytest.raises(RecordingError, match="plain file"):
        replay(bad, tmp_path / "copy", BURST)
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "link").symlink_to(outside)
    (outside / "file").write_text("mine")
    (target / "file").symlink_to(outside / "file")
    through = archive(tmp_path / "t.tar.gz", [event("created", "link/x", content="x")])
    with pytest.raises(RecordingError, match="link"):
        replay(through, target, BURST)
    over = archive(tmp_path / "o.tar.gz", [event("created", "file", content="x")])
    replay(over, target, BURST)
    assert (outside / "file").read_text() == "mine"
    assert list(outside.iterdir()) == [outside / "file"]


def test_a_full_disk_is_no_damaged_archive(tmp_path, monkeypatch):
    path = archive(tmp_path / "r.tar.gz", [event("created", "x", content="x")])

    def copy(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", copy)
    with pytest.raises(OSError, match="No space left on device, while it is unpacked into /"):
        replay(path, tmp_path / "copy", BURST)


def test_wrong_sha256_is_a_difference(tmp_path):
    wrong = archive(tmp_path / "r.tar.gz", [{**event("created", "x", content="x"),
                                             "content_hash": "0" * 64}])  # fmt: skip
    run = CliRunner().invoke
    target = str(tmp_path / "t")
    result = run(app, ["replay", str(wrong), target, "--burst"])
    assert result.exit_code == 1
    assert run(app, ["replay", str(wrong), target, "--burst", "--no-verify"]).exit_code == 0
