"""Temporary directories of processes that were killed do not gather."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skywright.processes.scratch import keep_scratch, make_scratch, scratch

SCRIPT = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from skywright.processes.scratch import make_scratch
print(make_scratch("test"), flush=True)
sys.stdin.read()
"""


@contextmanager
def process_with_scratch(place: Path) -> Iterator[Path]:
    """Start a process that has a directory; kill it at the end."""
    command = [sys.executable, "-c", SCRIPT, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        made = Path(process.stdout.readline().strip())
        (made / "file").touch()
        yield made
        process.kill()


def test_what_killed_processes_have_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = [tmp_path / name for name in ("skywright-other-1", "skywright-test-file")]
    others[0].mkdir()
    others[1].touch()
    with process_with_scratch(tmp_path) as killed:
        pass
    with process_with_scratch(tmp_path) as kept:
        keep_scratch(kept)
    assert not killed.exists()
    with process_with_scratch(tmp_path) as living:
        own = make_scratch("test")
        assert sorted(tmp_path.iterdir()) == sorted([*others, kept, living, own])
        assert (living / "file").exists()
    assert make_scratch("test") != own
    assert not living.exists()
    assert own.is_dir()


def test_a_directory_of_a_block_is_gone_after_it_with_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = [*Path("/proc/self/fd").iterdir()]
    with scratch("test") as own:
        (own / "file").touch()
        assert make_scratch("test") != own
        assert own.is_dir()
    assert not own.exists()
    after = [*Path("/proc/self/fd").iterdir()]
    assert len(after) == len(before) + 1  # that of `make_scratch`


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK])
def test_a_directory_is_made_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """NFS locks no file that is open for reading only."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    made = [make_scratch("test"), make_scratch("test")]
    assert sorted(tmp_path.iterdir()) == sorted(made)
