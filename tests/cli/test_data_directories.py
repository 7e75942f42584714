"""Directories that other programs write: `doctor` and `up` see that tiled may read them."""

import os
from pathlib import Path
from typing import Any

import pytest

from skywright.checks import Status
from skywright.cli.data_directories import data_directories, why_unreadable
from skywright.cli.doctor import check_data
from skywright.cli.up import check_data_directories, check_directory
from skywright.config import IocSettings, Settings, StoreSettings
from skywright.errors import ConfigError


def settings_of(*args: str, **store: Any) -> Settings:
    telescopes = IocSettings(module="iocs.panoseti", prefix="PANO9:", args=args)
    camera = IocSettings(module="iocs.axis", prefix="AXIS9:", args=("--data-dir", "/elsewhere"))
    return Settings(iocs={"telescopes": telescopes, "camera": camera}, store=StoreSettings(**store))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A run of one module."""
    run = tmp_path / "data" / "module_1" / "obs_a.pffd"
    run.mkdir(parents=True)
    (run / "a.pff").write_bytes(b"{")
    return tmp_path / "data"


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the user have no access to files and directories of this name, as root always has."""
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != name and access(path, mode)
    )


@pytest.mark.parametrize("joined", [False, True])
def test_the_directory_of_an_ioc_is_found_by_its_module(data_dir: Path, joined: bool) -> None:
    args = [f"--data-dir={data_dir}"] if joined else ["--data-dir", str(data_dir)]
    settings = settings_of("--source", "rundir", *args)
    assert data_directories(settings) == {"telescopes": data_dir}
    (check,) = check_data(settings)
    assert (check.status, check.found) == (Status.ok, f"telescopes: tiled may read {data_dir}")
    check_data_directories(settings, {"telescopes", "tiled"})
    assert data_directories(settings_of("--source", "sim")) == {}


@pytest.mark.parametrize("name", ["data", "module_1", "obs_a.pffd", "a.pff"])
def test_what_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path, name: str
) -> None:
    refuse(monkeypatch, name)
    settings = settings_of("--data-dir", str(data_dir))
    (check,) = check_data(settings)
    assert check.status is Status.wrong
    assert f"{name} cannot be read" in check.found
    with pytest.raises(ConfigError, match=rf"iocs.telescopes.args: .*{name} cannot be read"):
        check_data_directories(settings, {"telescopes"})
    with pytest.raises(ConfigError, match=r"iocs.telescopes.args"):
        check_data_directories(settings, {"camera", "tiled"})
    check_data_directories(settings, {"camera"})


def test_a_file_is_no_directory_and_a_missing_one_is_doubtful(data_dir: Path) -> None:
    path = data_dir / "module_1/obs_a.pffd/a.pff"
    assert why_unreadable(path) == f"{path} is no directory"
    (check,) = check_data(settings_of("--data-dir", str(data_dir / "gone")))
    assert check.status is Status.warning
    assert "gone does not exist" in check.found


def test_another_tiled_must_see_the_directory_too(data_dir: Path) -> None:
    (check,) = check_data(settings_of("--data-dir", str(data_dir), tiled_uri="http://other:8000"))
    assert check.status is Status.warning
    assert "http://other:8000" in check.found


def test_a_directory_below_one_that_may_not_be_entered_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`doctor` ended there without its other checks, and `up` named no setting."""
    is_dir = Path.is_dir

    def closed(path: Path) -> bool:  # root may enter every directory
        if path.is_relative_to("/closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", closed)
    monkeypatch.setattr(Path, "exists", closed)
    settings = settings_of("--data-dir", "/closed/data", directory=tmp_path)
    (check,) = check_data(settings)
    assert check.status is Status.wrong
    assert check.found.startswith("telescopes: /closed/data cannot be reached by this user (")
    with pytest.raises(ConfigError, match=r"iocs.telescopes.args: /closed/data cannot be reached"):
        check_data_directories(settings, {"telescopes"})
    readable = settings_of(directory=tmp_path, readable=["/closed/pictures"])
    with pytest.raises(ConfigError, match=r"store.readable: /closed/pictures: permission denied"):
        check_directory(readable)
