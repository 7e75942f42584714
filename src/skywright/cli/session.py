"""``skywright session``: the profile in IPython, or a line or a script of Python with it."""

import io
import logging
import math
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any, ClassVar

import typer

from skywright.cli import EXIT_FAILED, report
from skywright.cli.beamline import ensure_beamline
from skywright.cli.output import ConfigOption, share_configuration
from skywright.cli.up import check_directory
from skywright.config import load_settings
from skywright.errors import ConfigError, DataError, SkywrightError
from skywright.processes import locks, stack
from skywright.processes.lifecycle import end_process

REPEAT_S = 10.0
"""Time after a signal that ends the session, s, in which further signals do nothing."""


def session(
    script: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCRIPT [ARGUMENT...]]", help="Run this file and end."),
    ] = None,
    code: Annotated[
        str | None, typer.Option("-c", metavar="CODE", help="Run this Python and end.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Load the profile (RE, devices, plans, cat, db) into IPython, or run Python with it.

    Uses the beamline that `skywright up` runs on the store, else starts one and stops it at the
    end.
    """
    from skywright.session.profile import startup_directory

    logging.getLogger("bluesky").addFilter(_is_not_abort)
    _drop_what_cannot_be_written()
    received = _exit_on_signals()
    settings = load_settings(config)
    name = "-c"
    source: str | bytes | None = code
    if source is not None:
        sys.argv = [name, *(script or [])]  # as Python does: all that follow are arguments
    elif script:
        sys.argv = script
        name, source = script[0], _read_script(Path(script[0]))
    # Before the beamline starts, which may take minutes
    program = None if source is None else _compile_source(name, source)
    share_configuration(config)
    check_directory(settings)
    startup_directory(settings)
    locks.hold_lock(settings.directory / stack.SESSION_LOCK, "session")
    ensure_beamline(settings)
    if program is None:
        _run_ipython(received)
    else:
        _run_code(program, name)


class _LossyFile(io.FileIO):
    """A terminal, a pipe or a file; what cannot be written to it is dropped."""

    lost: ClassVar[str] = ""
    """Why output was dropped; empty if none was."""

    def write(self, data: Any) -> int:
        """Write bytes; a terminal or a reader that is gone, or a full disk, is no error."""
        try:
            return super().write(data)
        except OSError as error:
            _LossyFile.lost = str(error)
            return memoryview(data).nbytes


def _drop_what_cannot_be_written() -> None:
    """Let a print to stdout and stderr that cannot be written do nothing.

    The RunEngine prints what it does. An exception of such a print would interrupt a run, the pause
    after Ctrl-C, or the abort of a run.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        with suppress(AttributeError, OSError):  # it is closed, or replaced by another object
            stream = getattr(sys, name)
            if stream.fileno() == number:
                stream.flush()
                lossy = io.TextIOWrapper(
                    io.BufferedWriter(_LossyFile(number, "w", closefd=False)),
                    stream.encoding,
                    stream.errors,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )
                setattr(sys, name, lossy)


def _exit_on_signals() -> list[int]:
    """End by an exception on SIGTERM, and when the terminal is closed, so that a run is aborted.

    Without the abort, a camera would record on without a session. Further signals within `REPEAT_S`
    do nothing, because they would interrupt the abort: when a terminal is closed, the kernel and
    the shell may each send one. A later signal ends a session whose end hangs.

    Returns
    -------
    list of int
        The signals that have come.
    """
    received: list[int] = []
    ended_s = -math.inf

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal ended_s
        received.append(number)
        now_s = time.monotonic()
        if now_s - ended_s > REPEAT_S:
            ended_s = now_s
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, end)
    return received


def _is_not_abort(record: logging.LogRecord) -> bool:
    """Return False for bluesky's record of an aborted run, so that `logging` drops it.

    The exception that ended the run is raised too, and shown.
    """
    return record.msg != "Run aborted"


def _compile_source(name: str, source: str | bytes) -> CodeType:
    """Compile a line, or the content of the script `name`.

    Raises
    ------
    typer.Exit
        With status 1, after the place of the error is printed, if it is not valid Python.
    """
    try:
        return compile(source, name, "exec")
    except (SyntaxError, ValueError) as error:  # the latter: a null character
        traceback.print_exc(limit=0)
        raise typer.Exit(EXIT_FAILED) from error


def _run_code(program: CodeType, name: str) -> None:
    """Run a program in the profile's namespace; `name` is the path of its script, or ``-c``.

    Raises
    ------
    typer.Exit
        With status 1, after the traceback or the message is printed, if the program fails.
    """
    from skywright.session.context import live_analyses
    from skywright.session.ending import end_session
    from skywright.session.profile import load_profile

    namespace = load_profile()
    if name != "-c":
        namespace["__file__"] = name
        # As Python does for a script: it can import the modules beside it. The profile is loaded
        # before, so that a `plans.py` beside the script does not hide the package `plans`.
        sys.path.insert(0, str(Path(name).resolve().parent))
    try:
        exec(program, namespace)
        sys.stdout.flush()
        if _LossyFile.lost:
            raise DataError(f"output of {name} is lost ({_LossyFile.lost}); the rest was done")
    except SkywrightError as error:
        report(error)
        raise typer.Exit(EXIT_FAILED) from error
    except Exception as error:
        traceback.print_exc()
        raise typer.Exit(EXIT_FAILED) from error
    finally:
        end_session(namespace["RE"], live_analyses(namespace))


def _read_script(script: Path) -> bytes:
    try:
        return script.read_bytes()
    except OSError as error:
        raise ConfigError(f"{script}: {(error.strerror or str(error)).lower()}") from error


def _run_ipython(received: list[int]) -> None:
    """Run the console; `received` gets the signals that end the session."""
    from IPython.terminal.ipapp import TerminalIPythonApp
    from traitlets.config import Config

    from skywright.session.context import live_analyses
    from skywright.session.ending import end_session, run_console
    from skywright.session.profile import has_display, load_profile, show_banner

    config = Config()
    config.TerminalInteractiveShell.banner1 = ""
    config.TerminalIPythonApp.display_banner = False
    if has_display():
        config.InteractiveShellApp.matplotlib = "auto"
    app = TerminalIPythonApp.instance(config=config)
    app.initialize(argv=[])
    shell = app.shell
    assert shell is not None

    def end_on_signal(_: object) -> None:
        if received:  # IPython continues after any exception, also after that of the signal
            shell.ask_exit()

    shell.events.register("post_run_cell", end_on_signal)
    namespace = shell.user_ns
    load_profile(namespace)
    engine, analyses = namespace["RE"], live_analyses(namespace)
    show_banner(namespace)
    try:
        with suppress(SystemExit):  # the exception of a signal at the prompt
            run_console(shell)
    finally:
        end_session(engine, analyses)
    end_process(128 + received[0] if received else 0)
