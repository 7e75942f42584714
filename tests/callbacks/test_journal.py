"""The journal: what is kept, what is locked, and what happens when the disk is full."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from event_model import compose_run
from hypothesis import given
from hypothesis import strategies as st
from ophyd import Signal
from ophyd.sim import det, motor
from support.absent import absent
from support.composed import ComposedRun
from support.forking import forked_child
from support.waiting import until

from skywright.callbacks import journal as journal_module
from skywright.callbacks.journal import Journal, encode_line
from skywright.errors import ConfigError, DataError


def lines(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_closed_journal_begins_no_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    for _ in range(2):
        with pytest.raises(DataError, match="the journal is closed"):
            journal("start", {"uid": "a", "time": 1.0})
        journal.release_after_fork()
    assert not list(tmp_path.iterdir())


def test_run_engine_documents_are_all_there_in_order(RE: RunEngine, tmp_path: Path) -> None:
    emitted: list[tuple[str, str]] = []
    RE.subscribe(Journal(tmp_path, RE))
    RE.subscribe(lambda name, doc: emitted.append((name, doc["uid"])))
    (uid,) = RE(bp.scan([det], motor, 0, 1, 5)).run_start_uids
    assert [(name, doc["uid"]) for name, doc in lines(tmp_path / f"{uid}.jsonl")] == emitted
    assert len(emitted) == 8


def test_two_open_runs_have_two_files(RE: RunEngine, tmp_path: Path) -> None:
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"which": "inner"})
    def inner() -> Any:
        yield from bps.trigger_and_read([det])

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={"which": "outer"})
    def outer() -> Any:
        yield from bps.trigger_and_read([det])
        yield from inner()
        yield from bps.trigger_and_read([det])

    RE.subscribe(Journal(tmp_path, RE))
    RE(outer())
    found = {
        doc[0][1]["which"]: [name for name, _ in doc] for doc in map(lines, tmp_path.iterdir())
    }
    assert found == {
        "outer": ["start", "descriptor", "event", "event", "stop"],
        "inner": ["start", "descriptor", "event", "stop"],
    }


def test_assets_go_to_their_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    runs = [ComposedRun(journal) for _ in range(2)]
    for run in runs:
        run.stream("primary", x={"dtype": "array", "shape": [2], "external": "STREAM:"})
        run.file("x", "file://localhost/x", (0, 1, 1))
    for run in runs:
        journal("stop", run.run.compose_stop())
    for run in runs:
        names = [name for name, _ in lines(tmp_path / f"{run.uid}.jsonl")]
        assert names == ["start", "descriptor", "stream_resource", "stream_datum", "stop"]


def test_locked_exactly_while_the_run_is_open(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    path = tmp_path / f"{run.start_doc['uid']}.jsonl"
    assert is_locked(path)
    journal("stop", run.compose_stop())
    assert not is_locked(path)


def test_start_and_stop_are_synced_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(fd: int) -> None:
        sync(fd)
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append("directory" if path.is_dir() else f"{path.suffix} {lines(path)[-1][0]}")

    monkeypatch.setattr(journal_module.os, "fsync", note)
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    journal("stop", run.compose_stop())
    assert synced == [".new start", "directory", ".jsonl stop"]


def test_a_new_file_that_an_ingester_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingester takes an empty file without a lock for that of a dead writer."""
    lock, removed = journal_module.lock, []

    def remove_once(fd: int) -> None:
        if not removed:
            (new,) = tmp_path.iterdir()
            new.unlink()
            removed.append(new)
        lock(fd)

    monkeypatch.setattr(journal_module, "lock", remove_once)
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    (path,) = tmp_path.iterdir()
    assert lines(path) == [["start", run.start_doc]]
    assert is_locked(path)
    journal.close()


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker forked in mid-run must not make a dead session look alive."""
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    path = tmp_path / f"{run.start_doc['uid']}.jsonl"
    with forked_child():
        assert is_locked(path)  # the parent's own lock is not given up
        journal.close()
        assert not is_locked(path)


def test_forked_child_leaves_what_waits_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can record runs of its own, whatever a thread of its parent was doing."""

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def hold() -> None:
        with journal._lock:
            held.set()
            forked.wait(60)

    monkeypatch.setattr(journal_module, "RETRY_S", 3600.0)
    journal, run, own = Journal(tmp_path), compose_run(), compose_run()
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", refuse)
        journal("start", run.start_doc)
    held, forked = threading.Event(), threading.Event()
    threading.Thread(target=hold).start()
    assert held.wait(60)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        failed = True
        with suppress(Exception):
            assert journal.trouble is None
            journal_module.RETRY_S = 0.01
            with monkeypatch.context() as patch:
                patch.setattr(journal_module.os, "write", refuse)
                journal("start", own.start_doc)
            journal("stop", own.compose_stop())
            until(lambda: journal.trouble is None)
            journal_module._close_all()  # as at the end of a process
            failed = False
        os._exit(failed)
    forked.set()
    assert os.waitpid(pid, 0)[1] == 0
    of_child = lines(tmp_path / f"{own.start_doc['uid']}.jsonl")
    assert [name for name, _ in of_child] == ["start", "stop"]
    path = tmp_path / f"{run.start_doc['uid']}.jsonl"
    assert not path.exists()
    journal("stop", run.compose_stop())
    journal.close()
    assert [name for name, _ in lines(path)] == ["start", "stop"]


def test_dtypes_of_arrays_are_kept_once(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    keys: Any = {
        "a": {"dtype": "array", "shape": [2], "source": "x"},
        "b": {"dtype": "array", "shape": [2], "source": "x", "dtype_numpy": "<f4"},
        "c": {"dtype": "number", "shape": [], "source": "x"},
    }
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    journal("descriptor", bundle.descriptor_doc)
    for _ in range(2):
        data = {"a": np.array([1, 2], "<u2"), "b": np.zeros(2, "<f4"), "c": np.float32(0.5)}
        journal("event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0)))
    journal.close()
    found = lines(tmp_path / f"{run.start_doc['uid']}.jsonl")
    assert [name for name, _ in found] == ["start", "descriptor", "dtypes", "event", "event"]
    assert found[2][1] == {
        "descriptor": bundle.descriptor_doc["uid"],
        "dtype_numpy": {"a": "<u2"},
    }
    assert found[3][1]["data"] == {"a": [1, 2], "b": [0.0, 0.0], "c": 0.5}


def test_second_journal_on_one_engine_is_refused(tmp_path: Path) -> None:
    start = compose_run().start_doc
    Journal(tmp_path)("start", start)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ConfigError, match="one Journal"):
        Journal(tmp_path)("start", start)
    path.rename(path.with_suffix(".jsonl.new"))  # as before the start document is on the disk
    with pytest.raises(ConfigError, match="one Journal"):
        Journal(tmp_path)("start", start)


def test_document_without_text_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(DataError, match="event"):
        encode_line("event", endless)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_value_survives_on_one_line(value: Any) -> None:
    data = encode_line("event", {"data": value})
    assert data.count(b"\n") == 1
    assert json.loads(data) == ["event", {"data": value}]


def test_keys_that_are_no_text_do_not_stop_a_run() -> None:
    in_array = np.array([{(1, 2): 3}], object)
    line = encode_line("start", {(1, 2): 3, 4: 5, "x": [{b"y": None}], "z": deque([in_array])})
    kept = {"(1, 2)": 3, "4": 5, "x": [{"b'y'": None}], "z": [[{"(1, 2)": 3}]]}
    assert json.loads(line) == ["start", kept]


def test_text_that_is_not_unicode_is_replaced() -> None:
    line = encode_line("start", {"file": "a\udc80", "x": b"ab\xff"})
    assert json.loads(line) == ["start", {"file": "a?", "x": "ab\ufffd"}]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.longdouble(1.5), 1.5),
        (np.clongdouble(1j), "1j"),
        (np.array([1.5], np.longdouble), [1.5]),
        (np.timedelta64(5, "ns"), 5),
    ],
)
def test_numbers_that_python_does_not_have(value: Any, kept: Any) -> None:
    assert json.loads(encode_line("start", {"x": value})) == ["start", {"x": kept}]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB that is really full when it is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        absent(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    # Lazily: a test that fails may leave a file open
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte on the disk; return the file whose removal makes room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def scan(points: int) -> Any:
    """Scan with events that need more than a page of the disk each."""
    text = Signal(name="text", value="x" * 5000)

    @bpp.run_decorator()
    def inner() -> Any:
        for point in range(points):
            yield from bps.checkpoint()
            yield from bps.mv(motor, point)
            yield from bps.trigger_and_read([motor, text])
            yield from bps.sleep(0.02)

    return inner()


class Watcher:
    """See what a session sees while the disk is full, and free it once the run has stopped."""

    def __init__(self, journal: Journal, free: Callable[[], None]) -> None:
        self.events: list[int] = []
        self.trouble = ""
        self.went_on = 0
        self._journal = journal
        self._free = free

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "event":
            self.events.append(doc["seq_num"])

    def watch(self) -> None:
        self.trouble = str(until(lambda: self._journal.trouble))
        before = len(self.events)
        threading.Event().wait(0.4)
        self.went_on = len(self.events) - before
        self._free()


def check(
    RE: RunEngine, journal: Journal, watcher: Watcher, capfd: Any, points: int, paused: bool = True
) -> None:
    """The run paused, said so, went on by itself, and all its documents are on the disk."""
    watching = threading.Thread(target=watcher.watch)
    watching.start()
    result = RE(scan(points))
    watching.join(90)
    until(lambda: journal.trouble is None)
    assert result.exit_status == "success"
    assert "No space left" in watcher.trouble
    assert watcher.went_on <= 1  # the message under way may end
    (uid,) = result.run_start_uids
    found = lines(journal.directory / f"{uid}.jsonl")
    kept = [doc["seq_num"] for name, doc in found if name == "event"]
    assert kept == watcher.events
    assert sorted(set(kept)) == list(range(1, points + 1))
    assert (found[0][0], found[-1][0]) == ("start", "stop")
    assert not is_locked(journal.directory / f"{uid}.jsonl")
    assert ("The journal waits" in capfd.readouterr().out) is paused


@pytest.mark.parametrize("fill_at", ["start", "descriptor", "event2", "event5"])
def test_run_pauses_while_the_disk_is_full(
    RE: RunEngine, small_disk: Path, fill_at: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.1)
    journal = Journal(small_disk / "journal", RE)
    watcher = Watcher(journal, (small_disk / "ballast").unlink)
    filled = threading.Event()

    def fill_once(name: str, doc: dict[str, Any]) -> None:
        if not filled.is_set() and fill_at in (name, f"{name}{doc.get('seq_num')}"):
            filled.set()
            fill(small_disk)

    for callback in (journal, watcher, fill_once):
        RE.subscribe(callback)
    check(RE, journal, watcher, capfd, 6)
    (uid,) = RE(bp.count([det])).run_start_uids  # the session is as good as new
    assert lines(small_disk / "journal" / f"{uid}.jsonl")[-1][0] == "stop"


@pytest.mark.parametrize("fail_at", ["start", "event", "stop"])
def test_run_pauses_at_any_document(
    RE: RunEngine, tmp_path: Path, fail_at: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file whose writes fail half-way from one document on, start and stop included."""
    monkeypatch.setattr(journal_module, "RETRY_S", 0.1)
    journal = Journal(tmp_path, RE)
    full = threading.Event()
    real_write = os.write

    def write(fd: int, data: Any) -> int:
        hit = full.is_set() or bytes(data).startswith(b'["%s"' % fail_at.encode())
        if hit and not freed.is_set():
            full.set()
            real_write(fd, bytes(data)[:7])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    freed = threading.Event()

    def free() -> None:
        freed.set()
        full.clear()

    monkeypatch.setattr(journal_module.os, "write", write)
    watcher = Watcher(journal, free)
    for callback in (journal, watcher):
        RE.subscribe(callback)
    # On its stop document a run has nothing left to pause; the document waits for room.
    check(RE, journal, watcher, capfd, 3, paused=fail_at != "stop")


def test_without_an_engine_documents_wait_and_are_written_later(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    journal, run = Journal(small_disk / "journal"), compose_run()
    journal("start", run.start_doc)
    ballast = fill(small_disk)
    journal("stop", run.compose_stop() | {"reason": "x" * 5000})
    assert "No space left" in str(journal.trouble)
    ballast.unlink()
    until(lambda: journal.trouble is None)
    assert lines(small_disk / "journal" / f"{run.start_doc['uid']}.jsonl")[1][0] == "stop"


def test_a_journal_that_is_closed_on_a_full_disk_holds_no_file(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 60.0)
    journal, run = Journal(small_disk / "journal"), compose_run()
    journal("start", run.start_doc)
    ballast = fill(small_disk)
    journal("stop", run.compose_stop() | {"reason": "x" * 5000})
    journal.close()
    path = small_disk / "journal" / f"{run.start_doc['uid']}.jsonl"
    assert not is_locked(path)  # the ingester can end the run
    ballast.unlink()
    journal.close()
    assert [name for name, _ in lines(path)] == ["start"]
    assert caplog.text.count("1 documents are lost") == 1


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)]
)
def test_space_is_asked_for_where_it_helps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    advice: bool,
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journal_module, "lock", refuse)
    journal = Journal(tmp_path)
    journal("start", compose_run().start_doc)
    journal.close()
    assert os.strerror(number) in caplog.text
    assert ("free some space" in caplog.text) is advice


def test_memory_is_bounded_while_the_disk_is_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine the caller is held when the limit is reached, until there is room."""
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    journal, run = Journal(small_disk / "journal", backlog_bytes=20_000), compose_run()
    journal("start", run.start_doc)
    bundle = run.compose_descriptor(
        name="primary", data_keys={"x": {"dtype": "string", "shape": [], "source": "t"}}
    )
    journal("descriptor", bundle.descriptor_doc)
    ballast = fill(small_disk)
    done = threading.Event()

    def produce() -> None:
        for _ in range(8):
            data = {"x": "x" * 5000}
            journal("event", bundle.compose_event(data=data, timestamps={"x": 0.0}))
        done.set()

    threading.Thread(target=produce, daemon=True).start()
    assert not done.wait(0.5)
    ballast.unlink()
    assert done.wait(90)
    until(lambda: journal.trouble is None)
    assert len(lines(small_disk / "journal" / f"{run.start_doc['uid']}.jsonl")) == 10
    journal.close()


def test_a_caller_that_is_held_is_released_when_the_journal_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_module, "RETRY_S", 3600.0)
    monkeypatch.setattr(journal_module._RunFile, "write", refuse)
    journal = Journal(tmp_path, backlog_bytes=10)
    caller = threading.Thread(target=journal, args=("start", compose_run().start_doc), daemon=True)
    caller.start()
    until(lambda: journal._backlog_size)
    journal.close()
    caller.join(60)
    assert not caller.is_alive()


def test_a_run_is_suspended_each_time_that_the_disk_is_full(
    RE: RunEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    full, write, request = threading.Event(), journal_module._RunFile.write, RE.request_suspend
    suspensions: list[str] = []

    def write_if_there_is_room(self: Any, data: bytes, name: str) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data, name)

    def suspend(*args: Any, **kwargs: Any) -> None:
        suspensions.append(kwargs["justification"])
        request(*args, **kwargs)
        full.clear()

    def fill_again(name: str, doc: dict[str, Any]) -> None:
        if name == "event" and doc["seq_num"] in (1, 4):
            full.set()

    monkeypatch.setattr(journal_module._RunFile, "write", write_if_there_is_room)
    monkeypatch.setattr(RE, "request_suspend", suspend)
    journal = Journal(tmp_path, RE)
    RE.subscribe(journal)
    RE.subscribe(fill_again)
    RE(scan(6))
    assert len(suspensions) == 2
    (path,) = tmp_path.iterdir()
    numbers = {doc["seq_num"] for name, doc in lines(path) if name == "event"}
    assert numbers == set(range(1, 7))


def test_engine_is_told_when_memory_is_full_too(
    RE: RunEngine, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that cannot be suspended fails only when its documents truly cannot be kept."""
    journal = Journal(small_disk / "journal", RE, backlog_bytes=12_000)
    RE.subscribe(journal)
    text = Signal(name="text", value="x" * 5000)

    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.clear_checkpoint()
        fill(small_disk)
        for _ in range(5):
            yield from bps.trigger_and_read([text])

    with pytest.raises(DataError, match="No space left"):
        RE(plan())
    assert [line.name for line in journal._backlog].count("event") == 1  # a second is too much
    (small_disk / "ballast").unlink()
    journal.close()


def test_a_run_after_an_aborted_one_is_suspended_too(
    RE: RunEngine, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    journal, suspended = Journal(small_disk / "journal", RE), threading.Event()
    request = RE.request_suspend

    def note(*args: Any, **kwargs: Any) -> None:
        request(*args, **kwargs)
        suspended.set()

    monkeypatch.setattr(RE, "request_suspend", note)
    RE.subscribe(journal)
    text = Signal(name="text", value="x" * 5000)

    @bpp.run_decorator()
    def plan() -> Any:
        for _ in range(3):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([text])

    def interrupt() -> None:
        assert suspended.wait(90)
        RE.request_pause()

    fill(small_disk)
    for _ in range(2):
        suspended.clear()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(RunEngineInterrupted):
            RE(plan())
        thread.join()
        RE.abort()
    (small_disk / "ballast").unlink()
    journal.close()


def test_a_document_with_a_key_that_is_no_text_and_that_contains_itself_is_refused() -> None:
    endless: dict[Any, Any] = {(1, 2): 3}
    endless["self"] = endless
    with pytest.raises(DataError, match="event"):
        encode_line("event", endless)


def test_a_directory_that_cannot_be_synced_blocks_no_later_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    sync, failures = journal_module.fsync_directory, [OSError(errno.EIO, "input/output error")]

    def fail_once(directory: Path) -> None:
        if failures:
            raise failures.pop()
        sync(directory)

    monkeypatch.setattr(journal_module, "fsync_directory", fail_once)
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    journal("stop", run.compose_stop())
    until(lambda: journal.trouble is None)
    found = lines(tmp_path / f"{run.start_doc['uid']}.jsonl")
    assert [name for name, _ in found] == ["start", "stop"]
    journal.close()


def test_dtypes_of_arrays_in_event_pages_are_kept(tmp_path: Path) -> None:
    journal, run = Journal(tmp_path), compose_run()
    journal("start", run.start_doc)
    keys: Any = {
        "a": {"dtype": "array", "shape": [2], "source": "x"},
        "b": {"dtype": "array", "shape": [2], "source": "x"},
        "c": {"dtype": "number", "shape": [], "source": "x"},
    }
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    journal("descriptor", bundle.descriptor_doc)
    rows = np.array([[1, 2], [3, 4]], "<u2")
    empty = {"descriptor": bundle.descriptor_doc["uid"], "uid": [], "time": [], "seq_num": []}
    journal("event_page", empty | {"data": {key: [] for key in "abc"}, "timestamps": {}})
    page = {
        "descriptor": bundle.descriptor_doc["uid"],
        "uid": ["u", "v"],
        "time": [0.0, 1.0],
        "seq_num": [1, 2],
        "data": {"a": list(rows), "b": rows.astype("<f4"), "c": np.zeros(2, "<f4")},
        "timestamps": {key: [0.0, 1.0] for key in "abc"},
    }
    journal("event_page", page)
    journal.close()
    found = lines(tmp_path / f"{run.start_doc['uid']}.jsonl")
    names = ["start", "descriptor", "event_page", "dtypes", "event_page"]
    assert [name for name, _ in found] == names
    assert found[3][1]["dtype_numpy"] == {"a": "<u2", "b": "<f4"}


def test_nothing_is_kept_of_a_run_without_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    keys = {"x": {"dtype": "array", "shape": [3], "source": "t"}}
    for name in ("descriptor", "stop"):
        journal(name, {"uid": name, "run_start": "unknown", "data_keys": keys})
    assert not journal._files
    assert not journal._ids._runs


def test_nothing_is_kept_of_a_run_that_has_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal("start", {"uid": "run", "time": 1.0})
    keys = {"x": {"dtype": "array", "shape": [3], "source": "t"}}
    journal("descriptor", {"uid": "d", "run_start": "run", "data_keys": keys})
    journal("stop", {"uid": "s", "run_start": "run"})
    assert not journal._files
    assert not journal._ids._runs


def test_a_document_that_names_no_run_belongs_to_the_newest(tmp_path: Path) -> None:
    """Resources of old versions of bluesky name no run."""
    journal = Journal(tmp_path)
    for uid in ("old", "new"):
        journal("start", {"uid": uid, "time": 1.0})
    journal("resource", {"uid": "r"})
    journal("datum", {"datum_id": "r/0", "resource": "r"})
    journal.close()
    found = {path.stem: [name for name, _ in lines(path)] for path in tmp_path.iterdir()}
    assert found == {"old": ["start"], "new": ["start", "resource", "datum"]}


def test_a_document_of_an_unknown_run_changes_no_other_run(tmp_path: Path) -> None:
    journal, known, unknown = Journal(tmp_path), compose_run(), compose_run()
    keys = {"x": {"dtype": "number", "shape": [], "source": "t"}}
    journal("start", known.start_doc)
    bundle = known.compose_descriptor(name="primary", data_keys=keys)
    journal("descriptor", bundle.descriptor_doc)
    journal("descriptor", unknown.compose_descriptor(name="o", data_keys=keys).descriptor_doc)
    journal("stop", unknown.compose_stop())
    journal("event", bundle.compose_event(data={"x": 1.0}, timestamps={"x": 0.0}))
    journal("stop", known.compose_stop())
    found = lines(tmp_path / f"{known.start_doc['uid']}.jsonl")
    assert [name for name, _ in found] == ["start", "descriptor", "event", "stop"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_whose_documents_were_refused_gets_its_stop_document(
    RE: RunEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else its file stays open and locked, and the run is running for ever."""
    monkeypatch.setattr(journal_module, "RETRY_S", 0.05)
    full = threading.Event()
    write = journal_module._RunFile.write

    def write_if_there_is_room(self: Any, data: bytes, name: str) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data, name)

    monkeypatch.setattr(journal_module._RunFile, "write", write_if_there_is_room)
    journal = Journal(tmp_path, RE, backlog_bytes=1)
    RE.subscribe(journal)
    text = Signal(name="text", value="x" * 5000)

    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.clear_checkpoint()
        full.set()
        for _ in range(5):
            yield from bps.trigger_and_read([text])

    with pytest.raises(DataError, match="No space left"):
        RE(plan())
    full.clear()
    until(lambda: journal.trouble is None)
    (path,) = tmp_path.iterdir()
    assert lines(path)[-1][0] == "stop"
    assert not is_locked(path)
    (again,) = (r.getMessage() for r in caplog.records if "written again" in r.getMessage())
    assert again.endswith("can be written again, 1 documents were refused")
    journal.close()
