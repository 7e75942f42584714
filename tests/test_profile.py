"""The helpers of the start-up files."""

import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ophyd import Component, Device, Signal

from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.processes.stack import Child, State
from skywright.session import profile

ROOT = Path(__file__).parents[1]


class Lamp(Device):
    power = Component(Signal, value=0.0)


def test_default_start_up_files_are_ours() -> None:
    directory = profile.startup_directory(Settings())
    assert directory == ROOT / "profile_collection" / "startup"


def test_start_up_files_only_import_and_instantiate() -> None:
    for file in profile.startup_directory(Settings()).glob("*.py"):
        lines = file.read_text().splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("def ", "class "))], file
        assert " import *" not in file.read_text(), file


def test_devices_are_named_as_their_variables() -> None:
    devices = profile.find_devices(profile.load_devices(Settings()))
    assert {"axis"} <= set(devices)
    assert {name: device.name for name, device in devices.items()} == {n: n for n in devices}


def test_a_directory_without_start_up_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"profile: {tmp_path} holds no start-up files"):
        profile.startup_directory(Settings(profile=tmp_path))


def test_own_start_up_files_run_in_order_in_one_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "20-second.py").write_text("word = first + ' second'")
    (tmp_path / "10-first.py").write_text("first = 'first'")
    monkeypatch.setenv("SKYWRIGHT_PROFILE", str(tmp_path))
    mine: dict[str, Any] = {"kept": 1}
    profile.load_profile(mine)
    assert mine["word"] == "first second"
    assert mine["kept"] == 1
    assert profile.load_profile()["word"] == "first second"


def test_a_cell_that_loads_the_start_up_files_prints_no_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "10-first.py").write_text("first = 'first'")
    monkeypatch.setenv("SKYWRIGHT_PROFILE", str(tmp_path))
    assert profile.load_profile({}) is None


def test_revision_tells_commit_and_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profile.git_revision(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert profile.git_revision(tmp_path) == commit.stdout.strip()
    subprocess.run([*git, "tag", "-a", "v1", "-m", "one"], check=True)
    assert profile.git_revision(tmp_path) == commit.stdout.strip()
    (tmp_path / "file").write_text("2")
    assert profile.git_revision(tmp_path) == commit.stdout.strip() + "+"
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert profile.git_revision(tmp_path) == commit.stdout.strip() + "+"


def test_metadata_is_json_and_complete() -> None:
    import json

    metadata = profile.run_metadata(Settings())
    assert json.loads(json.dumps(metadata)) == metadata
    assert {"project", "instrument", "operator", "versions", "git_revision"} <= set(metadata)


def test_connected_devices_are_not_silent() -> None:
    assert profile.silent_pvs([Lamp("L:", name="lamp")]) == {}
    assert profile.silent_pvs([]) == {}


def test_a_signal_that_stands_alone_is_asked_as_a_device_is() -> None:
    class SilentSignal(Signal):
        pvname = "RING:CURRENT"
        connected = False

        def wait_for_connection(self, timeout: float = 0.0) -> None:
            raise TimeoutError

    ring = SilentSignal(name="ring")
    devices = profile.find_devices({"ring": ring})
    assert profile.silent_pvs(devices.values(), 0.01) == {"ring": ["RING:CURRENT"]}
    assert profile.signals_of(ring) == [ring]
    lamp = Lamp("L:", name="lamp")
    assert profile.signals_of(lamp) == [lamp.power]


def test_devices_are_found_by_name_and_nothing_else_is() -> None:
    lamp = Lamp("L:", name="lamp")
    namespace = {"lamp": lamp, "_hidden": lamp, "Lamp": Lamp, "number": 3, "text": "lamp"}
    assert profile.find_devices(namespace) == {"lamp": lamp}


def test_the_table_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    profile.make_listdevs({"lamp": Lamp("L:", name="lamp"), "x": 1})()
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "class", "prefix", "connected"]
    assert row.split() == ["lamp", "Lamp", "L:", "yes"]


def test_colons_and_brackets_of_a_prefix_are_neither_emoji_nor_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile.make_listdevs({"lamp": Lamp("SKY:rose:L[a]:", name="lamp")})()
    assert "SKY:rose:L[a]:" in capsys.readouterr().out


def test_the_banner_has_the_name_of_the_instrument_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        metadata={"instrument": "BL[/7] :rose:"}, store={"directory": tmp_path}, iocs={}
    )
    stack = State(1, 0.0, "SKY:rose:", "", {}, {})
    profile.show_banner({"settings": settings, "stack": stack})
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith(", BL[/7] :rose:")
    assert "SKY:rose:" in out
    assert "Type RE(count([])), then cat[-1]; listdevs(), count? for help on a plan, exit." in out


def test_our_plans_come_first() -> None:
    from bluesky.plans import count

    from plans.pictures import take_pictures

    namespace = {"count": count, "take_pictures": take_pictures, "_x": count, "y": 3}
    assert profile.plan_names(namespace) == ["take_pictures", "count"]


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": ":0", "QSERVER_RE_WORKER_ACTIVE": "1"}, False),
    ],
)
def test_plots_need_a_display(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: bool
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delitem(__import__("sys").modules, "ipykernel", raising=False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QSERVER_RE_WORKER_ACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert profile.has_display() is shown


def test_only_an_ioc_with_a_real_source_is_called_real() -> None:
    says = {
        "epu": {"source": "replay"},
        "axis": {"source": "sim"},
        "goniometer": {},
        "psss": {"source": "bsread"},
    }
    children = {name: Child(1, ready) for name, ready in says.items()}
    stack = State(1, 0.0, "SKY:", "", {}, children)
    assert profile._origins(Settings(), stack) == [
        "epu REPLAYS stored data",
        "axis is SIMULATED",
        "goniometer does not say whether it is simulated",
        "panoseti does not run, or is not ready yet",
        "psss is real (bsread)",
        "sacla does not run, or is not ready yet",
    ]


def test_devices_are_awaited_as_long_as_more_pvs_answer() -> None:
    class Slow:
        """A device, one of whose PVs answers at each look."""

        name = "slow"

        def __init__(self) -> None:
            self.silent = 4

        def wait_for_connection(self, timeout: float) -> None:
            self.silent -= 1
            threading.Event().wait(timeout)
            if self.silent:
                raise TimeoutError

        def walk_signals(self) -> list[Any]:
            signals = [
                SimpleNamespace(pvname=f"S:{k}", connected=False) for k in range(self.silent)
            ]
            return [SimpleNamespace(item=each) for each in signals]

    class Gone(Slow):
        name = "gone"

        def wait_for_connection(self, timeout: float) -> None:
            threading.Event().wait(timeout)
            raise TimeoutError

    assert profile.silent_pvs([Slow()], limit_s=0.05) == {}
    assert profile.silent_pvs([Slow(), Gone()], limit_s=0.05) == {
        "gone": [f"S:{k}" for k in range(4)]
    }
