"""Recording and replay: every byte, order and time; old formats; hostile archives."""

import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import typing
from pathlib import Path

import pytest
from arrivals import SCENARIOS, in_order, run_steps, small_visit
from epu_trees import read_document
from hypothesis import given, settings
from hypothesis import strategies as st
from support import forked
from support.limits import full_disk
from support.waiting import until
from typer.testing import CliRunner

from skywright.errors import ConfigError, DataError
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.recording.archive import (
    RecordedEvent,
    RecordingError,
    RecordingWriter,
    event_from,
    open_recording,
    safe_path,
)
from skywright.instruments.epu.recording.record import (
    DirectoryRecorder,
    RecordOptions,
    record_directory,
)
from skywright.instruments.epu.recording.replay import Pace, replay, summarize

ALL = RecordOptions(skip_binary=False)
BURST = Pace(float("inf"), None)


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


class Recording:
    """A recorder in a thread; a context in which things happen."""

    def __init__(self, root: Path, path: Path, options: RecordOptions = ALL) -> None:
        self.stopped, self.ready = threading.Event(), threading.Event()
        self.thread = threading.Thread(
            target=record_directory,
            args=(root, path, options, self.stopped, lambda count: self.ready.set()),
        )

    def __enter__(self) -> None:
        self.thread.start()
        assert self.ready.wait(90)

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(90)
        assert not self.thread.is_alive()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", SCENARIOS)
def test_byte_identical(root, tmp_path, name):
    writes = small_visit(2)
    run_steps(in_order(root, writes[:30], random.Random(1)), 0)
    with Recording(root, tmp_path / "r.tar.gz"):
        run_steps(SCENARIOS[name](root, writes, random.Random(2)), 0.0003)
    result = replay(tmp_path / "r.tar.gz", tmp_path / "copy", BURST)
    assert result.differences == []
    assert contents(tmp_path / "copy") == contents(root)
    assert read_document(tmp_path / "copy") == read_document(root)
    assert not (tmp_path / "r.tar.gz.partial").exists()


def test_deleted_moved_truncated_and_odd_bytes(root, tmp_path):
    (root / "old").mkdir()
    (root / "old" / "a.xml").write_bytes(b"\xef\xbb\xbfline\r\nline\rline\n")
    (root / "b.txt").write_bytes(b"x" * 1000)
    (root / "c.jpg").write_bytes(bytes(range(256)))
    (root / "gone").mkdir()
    (root / "gone" / "d.xml").write_text("d")
    with Recording(root, tmp_path / "r.tar.gz"):
        (root / "old").rename(root / "new")
        (root / "new" / "a.xml").rename(root / "e.xml")
        (root / "b.txt").write_bytes(b"y" * 10)
        (root / "b.txt").write_bytes(b"z" * 100)  # longer, but not appended
        with (root / "e.xml").open("ab") as file:
            file.write(b"\xff\xfe\x00")
        (root / "gone" / "d.xml").unlink()
        (root / "gone").rmdir()
        (root / "empty").mkdir()
        (root / "zero.dm").touch()
        threading.Event().wait(0.2)
    replay(tmp_path / "r.tar.gz", tmp_path / "copy", BURST)
    assert contents(tmp_path / "copy") == contents(root)
    counts = summarize(tmp_path / "r.tar.gz").counts
    assert counts["moved"] == 2
    assert counts["deleted"] == 2


def test_a_name_may_go_from_a_file_to_a_directory_and_back(root, tmp_path):
    (root / "file").write_text("1")
    (root / "link").write_text("2")
    (root / "directory").mkdir()
    (root / "directory" / "inside").write_text("3")
    with Recording(root, tmp_path / "out.tar.gz"):
        (root / "file").unlink()
        (root / "file").mkdir()
        (root / "file" / "inside").write_text("4")
        shutil.rmtree(root / "directory")
        (root / "directory").write_text("5")
        (root / "link").unlink()
        (root / "link").symlink_to("directory")
    result = replay(tmp_path / "out.tar.gz", tmp_path / "target", BURST)
    assert result.differences == []
    (root / "link").unlink()
    assert contents(tmp_path / "target") == contents(root)


def test_what_a_link_leads_to_is_not_recorded_where_its_directory_was(root, tmp_path):
    outside = tmp_path / "outside"
    (root / "directory").mkdir()
    (root / "directory" / "inside").write_text("1")
    writer = RecordingWriter(tmp_path / "out.tar.gz", root)
    recorder = DirectoryRecorder(root, writer, ALL)
    recorder.record_start()
    (root / "directory").rename(outside)
    (root / "directory").symlink_to(outside)
    recorder.record_differences()  # as of a mount without inotify
    writer.close()
    replay(tmp_path / "out.tar.gz", tmp_path / "copy", BURST)
    assert contents(tmp_path / "copy") == {}


def test_binary_content_may_be_left_out(root, tmp_path):
    (root / "a.mrc").write_bytes(os.urandom(50_000))
    (root / "b.xml").write_text("<a/>")
    with Recording(root, tmp_path / "r.tar.gz", RecordOptions()):
        (root / "c.jpg").write_bytes(os.urandom(3000))
        threading.Event().wait(0.2)
    assert (tmp_path / "r.tar.gz").stat().st_size < 5000
    replay(tmp_path / "r.tar.gz", tmp_path / "copy", BURST)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "copy").iterdir()}
    assert sizes == {"a.mrc": 50_000, "b.xml": 4, "c.jpg": 3000}


def archive(path: Path, events: list[dict], extra: list[tarfile.TarInfo] | None = None) -> Path:
    """Write a recording as another program does: compact, without lines."""
    data = json.dumps({"metadata": {"version": "2.0"}, "events": events}).encode()
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("recording.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        for member in extra or ():
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def event(kind: str, path: str, time: float = 0.0, **values) -> dict:
    content = values.get("content")
    digest = hashlib.sha256(content.encode()).hexdigest() if content is not None else None
    return {"timestamp": time, "event_type": kind, "src_path": path, "is_directory": False,
            "content_hash": digest, **values}  # fmt: skip


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


def old(kind: str, path: str, data: bytes, **values) -> dict:
    """Return an event as smartem-decisions' recorder writes it: size and sha256 of the file."""
    digest = hashlib.sha256(data).hexdigest()
    return event(kind, path, size=len(data)) | {"content_hash": digest, **values}


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


def test_two_files_to_record_into_are_one_too_many(root, tmp_path):
    """As ``--force-text-extensions dm dat`` of the old recorder gives."""
    one, other = str(tmp_path / "dat"), str(tmp_path / "r.tar.gz")
    error = CliRunner().invoke(app, ["record", str(root), one, "-o", other]).exception
    assert isinstance(error, ConfigError)
    assert f"two files to write: {one} and {other}" in str(error)


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_is_no_gap_of_a_recording(root, tmp_path, monkeypatch, step):
    writer = RecordingWriter(tmp_path / "r.tar.gz", root)
    recorder = DirectoryRecorder(root, writer, ALL)
    (root / "a").touch()
    recorder.record_start()
    today = time.time
    monkeypatch.setattr(time, "time", lambda: today() + step)
    (root / "b").touch()
    recorder.record_differences()
    writer.close()
    assert abs(summarize(tmp_path / "r.tar.gz").seconds) < 1800


@pytest.mark.skipif(os.sep == "\\", reason="a colon is part of no name there")
@pytest.mark.parametrize("name", ["a:b", "a:b.xml", "Z:dose", "ä: 1/c:d"])
def test_names_with_a_colon_are_replayed(root, tmp_path, name):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("x")
    with Recording(root, tmp_path / "r.tar.gz"):
        pass
    assert replay(tmp_path / "r.tar.gz", tmp_path / "copy", BURST).differences == []
    assert contents(tmp_path / "copy") == contents(root)


@pytest.mark.skipif(os.sep == "\\", reason="a backslash is part of no name there")
@pytest.mark.parametrize("name", ["..\\x", "\\\\host\\x", "Z:/x", "a\\..\\x/y"])
def test_a_name_that_no_replay_takes_is_left_out_of_the_recording(root, tmp_path, caplog, name):
    (root / "kept").write_text("x")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("x")
    before = contents(root)
    with Recording(root, tmp_path / "r.tar.gz"):
        (root / "kept").rename(root / "..\\kept")
        (root / "new").write_text("y")
    assert replay(tmp_path / "r.tar.gz", tmp_path / "copy", BURST).differences == []
    left_out = {path for path in before if path.partition("/")[0] == name.partition("/")[0]}
    expected = {path: data for path, data in before.items() if path not in left_out | {"kept"}}
    assert contents(tmp_path / "copy") == expected | {"new": b"y"}
    assert sum("left out" in record.message for record in caplog.records) == 2


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


def test_the_recorded_directory_itself_stays(tmp_path):
    events = [
        {**event("initial_dir", "."), "is_directory": True},
        event("created", "x", content="x"),
    ]
    good = archive(tmp_path / "r.tar.gz", events)
    assert replay(good, tmp_path / "copy", BURST).events == 2
    assert contents(tmp_path / "copy") == {"x": b"x"}
    for bad in (
        event("deleted", "./"),
        event("moved", ".", dest_path="y"),
        event("moved", "x", dest_path="."),
    ):
        path = archive(tmp_path / "bad.tar.gz", [*events, bad])
        with pytest.raises(RecordingError, match="directory itself cannot be"):
            replay(path, tmp_path / "other", BURST)
        assert not (tmp_path / "other").exists()


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


def test_damaged_recordings(root, tmp_path):
    (root / "a.xml").write_bytes(os.urandom(100_000).hex().encode())
    with Recording(root, tmp_path / "r.tar.gz"):
        pass
    whole = (tmp_path / "r.tar.gz").read_bytes()
    for number, data in enumerate((whole[: len(whole) // 2], whole[:20], b"", b"\x1f\x8b", b"[1]",
                                   b'{"events": 3}', b"{" * 100_000, b"\x00" * 50)):  # fmt: skip
        path = tmp_path / f"{number}.tar.gz"
        path.write_bytes(data)
        with pytest.raises(RecordingError):
            replay(path, tmp_path / "copy", BURST)
    refused = 0
    for at in range(20, len(whole), len(whole) // 50):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            refused += bool(replay(path, tmp_path / "copy", BURST).differences)
        except RecordingError:
            refused += 1
    assert refused > 40
    missing = archive(tmp_path / "x.tar.gz", [event("created", "x", binary_chunk_id="chunk_7")])
    with pytest.raises(RecordingError, match="chunk_7"):
        replay(missing, tmp_path / "copy", BURST)


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


def test_times():
    events = [RecordedEvent(time, "created", "x") for time in (0.0, 1.0, 1.0, 301.0)]
    assert [due for due, _ in Pace(1, None).times(iter(events))] == [0, 1, 1, 301]
    assert [due for due, _ in Pace().times(iter(events))] == pytest.approx([0, 0.01, 0.01, 1.01])
    assert [due for due, _ in Pace(float("inf")).times(iter(events))] == [0, 0, 0, 0]
    assert [due for due, _ in Pace(2, 5).times(iter(events))] == [0, 0.5, 0.5, 5.5]


def test_exact_gaps(tmp_path):
    path = archive(
        tmp_path / "r.tar.gz",
        [event("created", f"{n}.xml", 0.3 * n, content="x") for n in range(4)],
    )
    waits = []
    replay(path, tmp_path / "copy", Pace(1, None), wait=waits.append)
    assert waits == pytest.approx([0.0, 0.3, 0.6, 0.9], abs=0.15)
    stopped = replay(path, tmp_path / "part", Pace(1, None), wait=lambda seconds: seconds > 0.45)
    assert (stopped.events, len(contents(tmp_path / "part"))) == (2, 2)


def test_a_recording_that_a_full_disk_has_ended_can_be_read(root, tmp_path):
    writer = RecordingWriter(tmp_path / "visit.tar.gz", root)
    writer.write(RecordedEvent(0.0, "initial_dir", "one", is_directory=True))
    with full_disk(), pytest.raises(OSError):
        writer.close()
    assert summarize(writer.partial).events == 1


def test_the_file_that_a_full_disk_has_no_room_for_is_named(root, tmp_path):
    writer = RecordingWriter(tmp_path / "visit.tar.gz", root)
    writer.write(RecordedEvent(0.0, "created", "one.xml", content="x" * 100))
    with full_disk(), pytest.raises(OSError) as failed:
        replay(writer.partial, tmp_path / "target", BURST)
    assert failed.value.filename == str(tmp_path / "target" / "one.xml")


def test_a_recorder_that_meets_a_full_disk_says_where_its_events_are(root, tmp_path, monkeypatch):
    (root / "one.xml").write_text("x" * 100)
    out = tmp_path / "visit.tar.gz"

    def full(_writer: RecordingWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordingWriter, "close", full)
    monkeypatch.setattr(
        "skywright.instruments.epu.cli_recording.call_on_end_signal", lambda end: end()
    )
    done = CliRunner().invoke(app, ["record", str(root), str(out)])
    assert f"{out}: No space left on device" in str(done.exception)
    assert f"{out}.partial" in str(done.exception)
    assert not isinstance(done.exception, ConfigError | DataError)  # the exit status is 1


@pytest.mark.parametrize("arguments", [["replay", "--burst"], ["info"]])
def test_a_full_disk_is_a_failure_and_no_bad_recording(tmp_path, monkeypatch, arguments):
    path = archive(tmp_path / "r.tar.gz", [event("created", "x", content="x")])

    def copy(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", copy)
    name, *options = arguments
    places = [str(path), str(tmp_path / "copy")] if name == "replay" else [str(path)]
    done = CliRunner().invoke(app, [name, *places, *options])
    assert "No space left on device" in str(done.exception)
    assert not isinstance(done.exception, ConfigError | DataError)


def test_a_directory_is_no_file_to_record_into(root, tmp_path):
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, ["record", str(root), str(tmp_path / "out")])
    assert str(done.exception) == f"{tmp_path / 'out'}: a directory; expected the file to write"
    assert isinstance(done.exception, ConfigError)


def test_a_killed_recorder_loses_nothing(root, tmp_path):
    out = tmp_path / "r.tar.gz"
    process = forked.start(
        [sys.executable, "-m", "skywright.cli", "epu", "record", str(root), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "ready" in process.stdout.readline()
    (root / "a.xml").write_text("<a/>")
    partial = out.with_name(out.name + ".partial")
    never = threading.Event()
    for _ in range(500):
        if "a.xml" in (partial / "events.jsonl").read_text():
            break
        never.wait(0.02)
    process.kill()
    process.wait()
    assert replay(partial, tmp_path / "copy", BURST).events == 1
    assert (tmp_path / "copy" / "a.xml").read_text() == "<a/>"


def test_command_line(root, tmp_path):
    (root / "a.jpg").write_bytes(b"\xff\x00" * 50)
    out = tmp_path / "r.tar.gz"
    process = forked.start(
        [sys.executable, "-m", "skywright.cli", "epu", "record", str(root), str(out),
         "--no-skip-binary-content"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert "ready" in process.stdout.readline()
    (root / "b.xml").write_text("<b/>")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 0
    run = CliRunner().invoke
    assert run(app, ["replay", str(out), str(tmp_path / "copy"), "--burst"]).exit_code == 0
    assert contents(tmp_path / "copy") == contents(root)
    counts = json.loads(run(app, ["info", str(out), "--json"]).stdout)["counts"]
    assert counts["initial_file"] == 1
    with open_recording(out) as recording:
        assert recording.metadata()["version"] == "2.0"


@pytest.mark.parametrize("start", ["", "a", "aa"])
def test_text_may_be_cut_within_a_character(tmp_path, start):
    path = tmp_path / "note.md"
    path.write_text(start + 600 * "\u8a18")  # three bytes each
    assert RecordOptions().is_text(path)
    path.write_bytes(path.read_bytes()[:500])  # at the end of a file it is no text
    assert RecordOptions().is_text(path) == (len(start) == 2)
    path.write_bytes(path.read_bytes()[:499] + b"\xff" + 600 * b"a")
    assert not RecordOptions().is_text(path)


def test_extensions_that_are_always_text_or_binary(root, tmp_path):
    text = {"a.mrc": b"text after all", "b.odd": b"\x00\x01\xff"}
    binary = {"c.xml": b"<c/>", "d.star": b"data_"}
    for name, content in (text | binary).items():
        (root / name).write_bytes(content)
    out = tmp_path / "r.tar.gz"
    process = forked.start(
        [sys.executable, "-m", "skywright.cli", "epu", "record", str(root), str(out),
         "--force-text-extensions", "mrc, .ODD", "--force-binary-extensions", ".xml star"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert "ready" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 0
    target = tmp_path / "copy"
    assert CliRunner().invoke(app, ["replay", str(out), str(target), "--burst"]).exit_code == 0
    empty = {name: bytes(len(content)) for name, content in binary.items()}  # its size alone
    assert contents(target) == text | empty


def test_a_stale_file_handle_does_not_end_the_recorder(root, tmp_path, monkeypatch):
    (root / "a.xml").write_text("<a/>")
    original, stale = Path.lstat, threading.Event()

    def lstat(path: Path) -> os.stat_result:
        if path == root / "a.xml" and not is_over:
            stale.set()
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return original(path)

    out, is_over = tmp_path / "r.tar.gz", True
    monkeypatch.setattr(Path, "lstat", lstat)
    with Recording(root, out):
        is_over = False
        (root / "a.xml").write_text("<changed/>")
        assert stale.wait(30)
        (root / "b.xml").write_text("<b/>")
        is_over = True
    replay(out, tmp_path / "target", BURST)
    assert contents(tmp_path / "target") == {"a.xml": b"<changed/>", "b.xml": b"<b/>"}


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_directory_that_could_not_be_listed_when_it_was_made_is_recorded(
    root, tmp_path, monkeypatch
):
    scandir, tries = os.scandir, []

    def list_directory(path):
        if str(path) == str(root / "new") and len(tries) < 2:  # by the watch and by the recorder
            tries.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_directory)
    out = tmp_path / "r.tar.gz"
    lines = out.with_name(out.name + ".partial") / "events.jsonl"
    with Recording(root, out):
        (root / "new" / "below").mkdir(parents=True)
        (root / "new" / "below" / "a.xml").write_text("<first/>")
        until(lambda: "<first/>" in lines.read_text())
        (root / "new" / "below" / "a.xml").write_text("<second/>")
        until(lambda: "<second/>" in lines.read_text())  # by its event
    replay(out, tmp_path / "target", BURST)
    assert contents(tmp_path / "target") == contents(root)


def test_what_the_recorder_could_not_read_is_left_out_on_request(root, tmp_path, monkeypatch):
    (root / "a.xml").write_text("<a/>")
    (root / "locked.xml").write_text("<locked/>")
    original, is_locked = Path.read_bytes, True

    def read_bytes(path: Path) -> bytes:
        if path == root / "locked.xml" and is_locked:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    out = tmp_path / "r.tar.gz"
    with Recording(root, out):
        pass
    run = CliRunner().invoke
    assert run(app, ["replay", str(out), str(tmp_path / "all"), "--burst"]).exit_code == 0
    assert contents(tmp_path / "all") == {"a.xml": b"<a/>", "locked.xml": bytes(9)}
    skip = ["replay", str(out), str(tmp_path / "some"), "--burst", "--skip-unreadable", "--json"]
    assert json.loads(run(app, skip).stdout) == {"events": 1, "differences": []}
    assert contents(tmp_path / "some") == {"a.xml": b"<a/>"}
    later = tmp_path / "later.tar.gz"
    with Recording(root, later):
        is_locked = False
        (root / "locked.xml").write_text("<open/>")
    replay(later, tmp_path / "later", BURST, skip_unreadable=True)
    assert contents(tmp_path / "later") == {"a.xml": b"<a/>", "locked.xml": b"<open/>"}
