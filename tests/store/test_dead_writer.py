"""What is left when a writer dies: half-open HDF5 files, frames without documents, open runs."""

import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store.recording import Recording, scalar
from support.streaming import StreamingCamera, noise

from skywright.callbacks.journal import encode_line
from skywright.files.hdf5_flags import clear_flags, has_writer, lookup3, read_superblock
from skywright.store.export.contents import read_contents
from skywright.store.ingest import IngestState, ingest
from skywright.store.journal_contents import JournalContents
from skywright.store.lookup import JournalListing
from skywright.store.repair import close_interrupted_run
from skywright.store.tail import is_locked

WRITER = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1], "w", libver="latest", userblock_size=int(sys.argv[2])) as file:
    frames = file.create_dataset("frames", (0, 48, 64), "u1", maxshape=(None, 48, 64), chunks=(1, 48, 64))
    numbers = file.create_dataset("numbers", (0,), "i8", maxshape=(None,), chunks=(16,))
    file.swmr_mode = True
    for n in range(10**6):
        frames.resize(n + 1, 0)
        frames[n] = n % 251
        frames.flush()
        numbers.resize(n + 1, 0)
        numbers[n] = n
        numbers.flush()
        if n == 40:
            print("on", flush=True)
"""  # noqa: E501


@pytest.fixture(params=[0, 512])
def writer(tmp_path: Path, request: Any) -> Any:
    """A process that writes a SWMR file, with and without a user block."""
    path = tmp_path / "frames.h5"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(request.param)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    yield process, path
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_is_being_closed_is_not_taken_for_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`skywright recover` waits for it, and `skywright runs` does not say that it goes on."""
    path = tmp_path / "u.jsonl"
    start = {"uid": "u", "time": 1.0}
    path.write_bytes(encode_line("start", start))
    found = []

    def closing_documents(*_: Any) -> list[Any]:
        found.append((is_locked(path), JournalListing(tmp_path).status({"start": start})))
        return []

    monkeypatch.setattr("skywright.store.repair._closing_documents", closing_documents)
    assert close_interrupted_run(path, path.stat().st_size, JournalContents())
    assert found == [(False, "storing")]


def test_documents_that_were_written_after_the_last_read_are_kept(tmp_path: Path) -> None:
    """The writer dies between the last read and the lock."""
    path, contents = tmp_path / "u.jsonl", JournalContents()
    path.write_bytes(encode_line("start", {"uid": "u", "time": 1.0}))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(encode_line("descriptor", {"uid": "d"}))
    before = path.read_bytes()
    assert close_interrupted_run(path, size, contents)  # there is more to read
    assert path.read_bytes() == before
    assert close_interrupted_run(path, len(before), contents)
    assert path.read_bytes().startswith(before)
    assert path.read_bytes() != before


def test_file_of_a_killed_swmr_writer_is_an_ordinary_file_again(writer: Any) -> None:
    process, path = writer
    threading.Event().wait(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(OSError, match="already open"):
        h5py.File(path)
    with h5py.File(path, swmr=True, locking=False) as file:
        rows = file["numbers"].shape[0]
    assert rows > 40
    assert clear_flags(path)
    with h5py.File(path) as file:  # without SWMR
        assert file["numbers"][:].tolist() == list(range(rows))
        for n in range(rows):
            assert (file["frames"][n] == n % 251).all()
    with h5py.File(path, swmr=True, libver="latest", locking=False) as file:
        assert file["numbers"].shape == (rows,)
    with h5py.File(path, "r+") as file:
        file["later"] = 1
    assert not clear_flags(path)


def test_file_of_a_living_writer_is_left_alone(writer: Any) -> None:
    process, path = writer
    assert has_writer(path) is True
    assert not clear_flags(path)
    superblock = read_superblock(path)
    assert superblock is not None
    assert superblock.flags == 5
    process.kill()
    process.wait()
    assert has_writer(path) is False


def test_reader_is_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1
    with path.open("rb"):
        assert has_writer(path) is False
    assert not clear_flags(path)


def test_damaged_superblock_is_left_alone(writer: Any) -> None:
    process, path = writer
    process.kill()
    process.wait()
    superblock = read_superblock(path)
    assert superblock is not None
    with path.open("r+b") as file:
        file.seek(superblock.start + 30)
        file.write(b"\xff")
    before = path.read_bytes()
    assert read_superblock(path) is None
    assert not clear_flags(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110"])
def test_superblocks_of_all_versions(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=(libver, "latest")) as file:
        file["x"] = np.arange(5)
    superblock = read_superblock(path)
    assert (superblock is None) is (libver == "earliest")
    assert superblock is None or superblock.flags == 0


@pytest.fixture(scope="module")
def any_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "file.h5"


@given(st.binary(max_size=60))
def test_any_bytes_are_no_superblock(any_file: Path, data: bytes) -> None:
    for head in (b"", b"\x89HDF\r\n\x1a\n\x03\x08\x08\x05"):
        any_file.write_bytes(head + data)
        assert read_superblock(any_file) is None


def test_lookup3_has_its_author_s_values() -> None:
    """The values in the comments of lookup3.c (Bob Jenkins, May 2006, public domain)."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_closed_superblock_has_its_checksum(end: int, size: int) -> None:
    from skywright.files.hdf5_flags import SIGNATURE, Superblock

    data = SIGNATURE + bytes([3, 8, 8, 5]) + struct.pack("<4Q", 0, 2**64 - 1, end, 48)
    closed = Superblock(0, data).closed(size)
    assert closed[11] == 0
    assert struct.unpack_from("<Q", closed, 28)[0] == max(end, size)
    assert struct.unpack("<I", closed[44:])[0] == lookup3(closed[:44])


# Runs of dead writers


def leave(recording: Recording) -> Path:
    """Let the writer of a journal die."""
    recording.journal.close()
    return recording.path


def stored(path: Path, client: Any) -> Any:
    assert ingest(path, client) is IngestState.DONE
    run = client["raw"][path.stem]
    stop = run.metadata["stop"]
    assert (stop["exit_status"], stop["run_start"]) == ("abort", path.stem)
    assert stop["reason"].startswith("interrupted")
    return run


def test_run_of_a_dead_session_is_closed_as_interrupted(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.events([{"x": 1.0}, {"x": 2.0}])
    path = leave(recording)
    with path.open("a") as file:
        file.write('["event", {"desc')  # its last word
    run = stored(path, client)
    assert run["primary"].read()["x"].values.tolist() == [1.0, 2.0]
    assert run.metadata["stop"]["num_events"] == {"primary": 2}
    archived = journals / "done" / path.name
    assert archived.read_text().count("\n") == 5
    assert ingest(archived, client) is IngestState.DONE  # again: nothing changes
    assert client["raw"][path.stem].metadata["stop"] == run.metadata["stop"]


def test_a_dead_run_does_not_end_before_its_start(journals: Path, client: Any) -> None:
    """The clock was set back in the course of the run."""
    recording = Recording(journals, time=4e9).stream("primary", x=scalar("number"))
    run = stored(leave(recording), client)
    assert run.metadata["stop"]["time"] == run.metadata["start"]["time"] == 4e9


def test_run_of_a_living_session_stays_open(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.event(x=1.0)
    assert ingest(recording.path, client) is IngestState.IDLE
    run = client["raw"][recording.uid]
    assert "stop" not in run.metadata
    assert run["primary"].read()["x"].values.tolist() == [1.0]  # and is seen at once
    recording.event(x=2.0)
    assert ingest(recording.stop(), client) is IngestState.DONE
    assert run["primary"].read()["x"].values.tolist() == [1.0, 2.0]


def fly(
    journals: Path, told: int, taken: int, dark: int = 0, again: Mapping[int, int] | None = None
) -> Path:
    """Leave a fly run with `taken` frames on disk, of which documents tell `told`.

    The first `dark` frames are of another stream of the same camera. `again` has the seq_num of
    frames that were taken again, by their number from 0.
    """
    camera = StreamingCamera("cam", journals)
    camera.stage()
    again = again or {}
    recording = Recording(journals)
    for stream in ("dark", "primary") if dark else ("primary",):
        recording.stream(stream, **camera.describe())
    for count in range(taken):
        camera.trigger()
        if count < told:
            stream, first = ("dark", 0) if count < dark else ("primary", dark)
            recording.collect(camera, again.get(count, count - first + 1), stream)
    camera.unstage()
    return leave(recording)


@pytest.mark.parametrize(("told", "taken"), [(3, 8), (1, 2), (4, 4)])
def test_frames_after_the_last_stream_datum_are_found(
    journals: Path, client: Any, told: int, taken: int
) -> None:
    run = stored(fly(journals, told, taken), client)
    data = run["primary"].read()
    assert data["cam_frame_number"].values.tolist() == list(range(1, taken + 1))
    for n in range(taken):
        np.testing.assert_array_equal(data["cam_image"].values[n], noise(n + 1))
    assert run.metadata["stop"]["num_events"] == {"primary": taken}


def test_frames_after_the_last_stream_datum_go_on_with_its_stream(
    journals: Path, client: Any
) -> None:
    run = stored(fly(journals, told=4, taken=7, dark=2), client)
    numbers = {name: run[name].read()["cam_frame_number"].values.tolist() for name in run}
    assert numbers == {"dark": [1, 2], "primary": [3, 4, 5, 6, 7]}


def test_a_frame_that_was_taken_again_is_not_found_once_more(journals: Path, client: Any) -> None:
    """Frames 0 to 6, frame 7 in place of the fifth; then the session is killed."""
    run = stored(fly(journals, told=8, taken=9, again={7: 5}), client)
    numbers = run["primary"].read()["cam_frame_number"].values.tolist()
    assert numbers == [1, 2, 3, 4, 8, 6, 7, 9]


def test_streams_of_one_camera_over_two_files_have_their_rows(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    camera = StreamingCamera("cam", journals)
    for stream in ("dark", "primary"):
        recording.stream(stream, **camera.describe())
    seq_nums = {"dark": 0, "primary": 0}
    for streams in (["dark"] * 2 + ["primary"] * 3, ["primary"] * 4):
        camera.stage()
        for stream in streams:
            camera.trigger()
            seq_nums[stream] += 1
            recording.collect(camera, seq_nums[stream], stream)
        camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    numbers = {name: run[name].read()["cam_frame_number"].values.tolist() for name in run}
    assert numbers == {"dark": [1, 2], "primary": [3, 4, 5, 6, 7, 8, 9]}


@pytest.mark.parametrize("name", ["run#3", "run\n3"])
def test_files_at_a_path_that_tiled_cannot_read_are_named(
    journals: Path, client: Any, name: str
) -> None:
    (journals / name).mkdir()
    recording = Recording(journals)
    camera = StreamingCamera("cam", journals / name)
    camera.stage()
    recording.stream("primary", **camera.describe())
    camera.trigger()
    recording.collect(camera, 1)
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    reasons = client["raw"][recording.uid].metadata["unreadable_files"]
    assert "no path with # or ?" in reasons["primary/cam_image"]
    notes = "\n".join(read_contents(client["raw"][recording.uid]).notes)
    assert "no path with # or ?" in notes
    assert "no value stored" not in notes


def test_frames_whose_file_is_gone_do_not_hold_up_the_run(journals: Path, client: Any) -> None:
    path = fly(journals, 2, 4)
    for file in journals.glob("*.h5"):
        file.unlink()
    run = stored(path, client)
    assert run["primary/cam_image"].shape[0] == 2
