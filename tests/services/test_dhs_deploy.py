"""The DHS's unit and its offer as a service say what exists."""

import re
from pathlib import Path

import pytest

from skywright.config import Settings
from skywright.instruments.loop.cli.loop_dhs import configuration_file, parser

UNIT = Path(__file__).parents[2] / "deploy" / "loop" / "skywright-loop-dhs@.service"


def test_the_units_command_line_is_accepted() -> None:
    unit = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=\S*/loopDHS (.*)$", unit, re.MULTILINE)
    arguments = parser().parse_args(command.replace("%i", "BL-831").split())
    assert (arguments.beamline, arguments.name) == ("BL-831", "loopDHS")
    assert "Restart=always" in unit


def test_each_instance_has_a_directory_that_its_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comment's commands put the file where the unit reads it, below the state directory."""
    unit = UNIT.read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert settings["WorkingDirectory"] == f"/var/lib/{settings['StateDirectory']}"
    assert settings["StateDirectory"].endswith("/%i")  # beamlines share no rotating log
    (copied,) = re.findall(r"^# +install .* (/\S+)$", unit, re.MULTILINE)
    (home, user) = re.findall(r"^# +useradd .*--home-dir (\S+) (\S+)$", unit, re.MULTILINE)[0]
    assert user == settings["User"]
    assert copied.startswith(f"{home}/")
    file = tmp_path / copied.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text("")
    directory = settings["WorkingDirectory"].replace("%i", "BL-831")
    monkeypatch.chdir(tmp_path / directory.lstrip("/"))
    assert configuration_file("BL-831").resolve() == file


def test_the_service_of_up_is_the_command_with_the_sites_arguments() -> None:
    services = {"loop-dhs": {"args": ["--config", "BL-831.config"]}}
    settings = Settings.model_validate({"services": services})
    assert settings.service_command("loop-dhs") == (
        *("skywright", "loop", "dhs"),
        *("--config", "BL-831.config"),
    )
