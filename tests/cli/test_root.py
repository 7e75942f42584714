"""The root of the command line: options, exit statuses, one line for each failure."""

import errno
import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

import skywright.cli as cli
from skywright.cli.output import PIPE_WIDTH, make_console
from skywright.errors import ConfigError, DataError, HardwareError, SampleError


def command(monkeypatch: pytest.MonkeyPatch, does: Any) -> None:
    """Put a command ``try`` in the table, which does what is wanted."""
    module = ModuleType("skywright.cli.try_module")
    module.__dict__["try"] = does
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "try", cli.Entry("try_module", "Try.", "store"))


def invoke(*args: str) -> Any:
    return CliRunner().invoke(cli.app, args, prog_name="skywright")


@pytest.fixture(autouse=True)
def _levels_as_before() -> Any:
    before = {name: logging.getLogger(name).level for name in ("", *cli.PACKAGES)}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_the_package_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["skywright", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("skywright", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("skywright 0.")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("key x"), 2),
        (DataError("file y"), 2),
        (HardwareError("PV z"), 1),
        (SampleError("no loop"), 1),
    ],
)
def test_errors_are_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail() -> None:
        raise error

    command(monkeypatch, fail)
    result = invoke("try")
    assert result.exit_code == status
    assert result.stderr == f"skywright: {error}\n"
    assert result.stdout == ""


def test_a_request_that_fails_is_one_line_with_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        request = httpx.Request("GET", "http://127.0.0.1:8000/api/v1/search/?limit=1")
        raise httpx.ReadTimeout("timed out\nfor long", request=request)

    command(monkeypatch, fail)
    result = invoke("try")
    assert result.exit_code == 1
    assert result.stderr == "skywright: a request to http://127.0.0.1:8000 failed: timed out\n"


def test_a_full_disk_is_one_line_and_another_error_of_a_file_is_a_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(full: bool) -> None:
        raise OSError(errno.ENOSPC if full else errno.EIO, "no room", None if full else "a.h5")

    command(monkeypatch, fail)
    result = invoke("try", "1")
    assert result.exit_code == 1
    assert result.stderr == "skywright: try could not write its output or a file: no room\n"
    assert isinstance(invoke("try", "0").exception, OSError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG])
def test_a_path_that_the_system_refuses_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "dir/a.h5")

    command(monkeypatch, fail)
    result = invoke("try")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"skywright: dir/a.h5: {os.strerror(number)}\n"


def test_a_stdout_that_the_caller_closed_gets_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def show() -> None:
        make_console().print("text")

    command(monkeypatch, show)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["try"])
    sys.stdout.close()
    assert not ended.value.code


@pytest.mark.parametrize("args", [("--version",), ("--help",), ()])
def test_a_full_disk_is_one_line_without_a_command_too(args: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "skywright.cli", *args]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"skywright: {' '.join(args) or '--help'} could not write its output or a file: "
        "No space left on device\n"
    )


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_file_name_that_is_not_utf8_is_printed(tmp_path: Path, errors: str) -> None:
    name = os.fsdecode(b"s\xff")
    (tmp_path / name).mkdir()
    (tmp_path / name / "EpuSession.dm").touch()
    command = [sys.executable, "-m", "skywright.cli", "epu", "validate", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": f"utf-8:{errors}"}
    for arguments in ([], ["--json"]):
        done = subprocess.run(
            command + arguments, capture_output=True, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (1, b"")
        assert b"s\\udcff" in done.stdout
    assert json.loads(done.stdout)["warnings"][0].endswith(name)


@pytest.mark.parametrize("arg", ["-v", "--"])
def test_an_option_without_a_command_is_wrong_usage(
    arg: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([arg])
    assert ended.value.code == 2
    assert "Missing command" in capsys.readouterr().err


def test_a_missing_package_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'tiled'", name="tiled.client")

    command(monkeypatch, fail)
    result = invoke("try")
    assert result.exit_code == 1
    assert result.stderr == (
        "skywright: try needs tiled, which is not installed: pip install 'skywright[store]'\n"
    )


def test_a_missing_module_of_ours_is_a_bug_and_not_an_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'devices.lamp'", name="devices.lamp")

    command(monkeypatch, fail)
    assert isinstance(invoke("try").exception, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("args", "level"),
    [
        (["try"], logging.ERROR),
        (["-v", "try"], logging.INFO),
        (["try", "-v"], logging.INFO),
        (["try", "-vv"], logging.DEBUG),
        (["-v", "try", "-v"], logging.DEBUG),
    ],
)
def test_verbose_may_stand_before_and_after_the_command(
    monkeypatch: pytest.MonkeyPatch, args: list[str], level: int
) -> None:
    monkeypatch.delenv("SKYWRIGHT_LOG_LEVEL", raising=False)
    command(monkeypatch, lambda: typer.echo(logging.getLogger("skywright").level))
    root = typer.main.get_command(cli.app)
    with pytest.raises(SystemExit) as ended:
        root(args, prog_name="skywright")
    assert ended.value.code == 0
    assert logging.getLogger("skywright").level == level


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"skywright {cli.import_module('skywright').__version__}\n"


def test_an_unknown_command_is_bad_use() -> None:
    result = invoke("fly")
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.stderr


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_of_the_table_has_its_help(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "--verbose" in result.stdout


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("SKY:rose:AXIS1: [a]")
    assert capsys.readouterr().out == "SKY:rose:AXIS1: [a]\n"


@pytest.mark.parametrize("columns", ["", "0", "wide"])
def test_columns_that_are_no_width_are_ignored(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(cli, "share_arenas", lambda: None)  # for a process of its own
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert "COLUMNS" not in os.environ  # of a terminal too, rich would take 0
    assert make_console().width == PIPE_WIDTH


@pytest.mark.parametrize("name", list(cli.commands()))
def test_no_help_loses_brackets_as_markup(name: str) -> None:
    for command in all_below(cli.load(name)):
        for text in (command.help, *(getattr(each, "help", "") for each in command.params)):
            shown = Text.from_markup(text or "").plain
            assert shown == (text or "").replace("\\[", "["), f"{command.name}: {text}"


def all_below(command: Any) -> Iterator[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from all_below(each)


def test_the_default_of_the_status_port_is_in_the_help() -> None:
    shown = " ".join(invoke("loop", "dhs", "--help").stdout.replace("│", " ").split())
    assert "default: loop.detection." in shown
    assert "[default: (9001 if it is free)]" in shown


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("shwo",), "No such command 'shwo'. Did you mean 'show'?"),
        (("loop", "finf"), "No such command 'finf'. Did you mean 'find'?"),
        (("export", "--fromat", "csv"), "No such option: --fromat (Possible options: --format)"),
        (("export", "--format", "foo"), "Invalid value for '--format': 'foo' is not one of"),
    ],
)
def test_a_typo_gets_the_name_that_is_nearest(args: tuple[str, ...], said: str) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
