"""Recording and replay: every byte, order and time."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from arrivals import SCENARIOS, in_order, run_steps, small_visit
from epu_trees import read_document
from recordings import BURST, archive, contents, event
from support import forked
from support.limits import full_disk
from support.waiting import until
from typer.testing import CliRunner
from watching import refuse_watches

from skywright.errors import ConfigError, DataError
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.recording.archive import (
    RecordedEvent,
    RecordingError,
    RecordingWriter,
    open_recording,
)
from skywright.instruments.epu.recording.record import (
    DirectoryRecorder,
    RecordOptions,
    record_directory,
)
from skywright.instruments.epu.recording.replay import Pace, replay, summarize

ALL = RecordOptions(skip_binary=False)


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
    until(lambda: "a.xml" in (partial / "events.jsonl").read_text())
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
def test_too_many_directories_for_the_kernel_end_no_recording(root, tmp_path, monkeypatch):
    refuse_watches(monkeypatch, "new")
    out = tmp_path / "r.tar.gz"
    lines = out.with_name(out.name + ".partial") / "events.jsonl"
    recording = Recording(root, out)
    with recording:
        (root / "new").mkdir()
        (root / "new" / "a.xml").write_text("<first/>")
        until(lambda: "<first/>" in lines.read_text() or not recording.thread.is_alive())
        assert recording.thread.is_alive()
    replay(out, tmp_path / "target", BURST)
    assert contents(tmp_path / "target") == contents(root)


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
