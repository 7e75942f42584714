"""numba can store compiled kernels, also for a user without a writable directory."""

import os
from pathlib import Path

import pytest

from skywright.kernel_cache import VARIABLE, provide_kernel_cache


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # it is restored at the end
    monkeypatch.delenv(VARIABLE)


def test_a_user_without_a_writable_directory_has_one_for_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    provide_kernel_cache()
    assert [str(each) for each in tmp_path.iterdir()] == [os.environ[VARIABLE]]


def test_the_cache_of_another_user_in_this_home_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo` leaves it there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) == tmp_path)
    (tmp_path / "numba").mkdir()
    provide_kernel_cache()
    assert Path(os.environ[VARIABLE]) in {*tmp_path.iterdir()} - {tmp_path / "numba"}


@pytest.mark.parametrize("writable", ["package", "home"])
def test_the_places_of_numba_come_first(
    writable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    package = Path(provide_kernel_cache.__code__.co_filename).parent
    place = package if writable == "package" else tmp_path
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) == place)
    provide_kernel_cache()
    assert VARIABLE not in os.environ


def test_a_user_who_can_write_nothing_can_use_what_needs_no_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    provide_kernel_cache()
    assert VARIABLE not in os.environ
