"""The DHS's unit and its offer as a service say what exists."""

import re
from pathlib import Path

from skywright.config import Settings
from skywright.instruments.loop.cli.loop_dhs import parser

UNIT = Path(__file__).parents[2] / "deploy" / "loop" / "skywright-loop-dhs@.service"


def test_the_units_command_line_is_accepted() -> None:
    unit = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=\S*/loopDHS (.*)$", unit, re.MULTILINE)
    arguments = parser().parse_args(command.replace("%i", "BL-831").split())
    assert (arguments.beamline, arguments.name) == ("BL-831", "loopDHS")
    assert "Restart=always" in unit


def test_the_service_of_up_is_the_command_with_the_sites_arguments() -> None:
    services = {"loop-dhs": {"args": ["--config", "BL-831.config"]}}
    settings = Settings.model_validate({"services": services})
    assert settings.service_command("loop-dhs") == (
        *("skywright", "loop", "dhs"),
        *("--config", "BL-831.config"),
    )
