"""``skywright session``: the profile in IPython, or a line or a script of Python with it."""

import atexit
import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any, ClassVar, TextIO

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from skywright.cli import EXIT_FAILED, report
from skywright.cli.output import ConfigOption, share_configuration
from skywright.cli.up import STARTING, check_directory
from skywright.config import Settings, load_settings
from skywright.errors import ConfigError, DataError, HardwareError, SkywrightError
from skywright.processes import locks, stack
from skywright.processes.child import PipedProcess, start_module
from skywright.processes.lifecycle import SUPERVISED, end_process
from skywright.processes.supervisor import STILL_STARTING
from skywright.session.ending import wait_with_message

UP_READY_LIMIT_S = 600.0
UP_END_LIMIT_S = 10.0
REPEAT_S = 10.0
"""Time after a signal that ends the session, s, for which further ones do nothing."""
SLOW_START_S = 30.0
FIRST_START = "The first start after an installation compiles, which may take some minutes."
SLOW_IMPORTS = (
    "bluesky.callbacks.best_effort",
    "bluesky_tiled_plugins",
    "databroker",
    "skywright.callbacks.live",
    "skywright.store.client",
    "IPython.terminal.ipapp",
)
"""Modules that the start-up files import and that need no EPICS environment. They are imported
while the servers start."""
_beamline_stops = threading.Event()
"""Set when this session stops the beamline that it has started."""


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
        sys.argv = [name, *(script or [])]  # as Python has it: they are arguments of the code
    elif script:
        sys.argv = script
        name, source = script[0], _read_script(Path(script[0]))
    program = None if source is None else _compile_source(name, source)  # before minutes of a start
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

    Its exception would break off a run, the pause that Ctrl-C asks for, and the abort of a run: the
    RunEngine prints what it does.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        with suppress(AttributeError, OSError):  # closed, or not the one of this process
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

    Else a camera would go on recording without a session. Further signals
    within `REPEAT_S` do nothing, because they would break off the abort: when a terminal is closed,
    kernel and shell may send one each. A later one ends a session whose end hangs.

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
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup starts it
        signal.signal(signal.SIGHUP, end)
    return received


def _is_not_abort(record: logging.LogRecord) -> bool:
    """Return False for bluesky's record of an aborted run, so that `logging` drops it.

    The exception that ended the run is raised too, and shown.
    """
    return record.msg != "Run aborted"


def ensure_beamline(settings: Settings, progress: Callable[[str], object] | None = None) -> None:
    """Use the beamline that runs on the store, else start one that ends with this process.

    Must come before the first import of ophyd: `atexit` calls run in reverse order, and the IOCs
    must end after the Channel Access client, so their stop is registered first.

    Parameters
    ----------
    settings
        The configuration.
    progress
        Called from a thread with a line that names the parts that are not ready yet; the terminal
        shows it too.

    Raises
    ------
    HardwareError
        If it does not start; the text is what `up` printed.
    """
    owner = locks.lock_owner(settings.directory / stack.UP_LOCK)
    if owner is not None:
        typer.echo(f"Using the beamline of `skywright up`, process {owner} ...", err=True)
    if stack.await_state(settings.directory, UP_READY_LIMIT_S):
        return
    typer.echo("Starting the beamline ...", err=True)
    # Not a pipe: while the session runs nobody would read it, and `up` would block at a full one
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = start_module(
        "skywright.cli",
        *("up", "--json"),
        stderr=errors,
        text=True,
        env={**os.environ, SUPERVISED: "1"},
        process_group=0,  # the terminal's Ctrl-C is not for it
    )
    atexit.register(_stop_beamline, process)
    console = Console(stderr=True)
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as line:
        task = line.add_task("its first part starts")

        def show(text: str) -> None:
            line.update(task, description=text)
            if progress is not None:
                progress(text)

        # The imports are this thread's: Channel Access belongs to the thread that begins it.
        ready: Future[None] = Future()
        threading.Thread(
            target=_await_ready, args=(process, errors, show, ready), daemon=True
        ).start()
        for name in (*SLOW_IMPORTS, *_analysis_modules(settings)):
            with suppress(ImportError):  # the start-up file that needs it will say so
                import_module(name)
        with suppress(TimeoutError):
            ready.result(SLOW_START_S)
        if not ready.done():
            console.print(FIRST_START)
        ready.result()
    threading.Thread(target=_show_events, args=(process,), daemon=True).start()


def _analysis_modules(settings: Settings) -> list[str]:
    """Return the modules of the analyses that this session will run."""
    from skywright.session.context import configured_instruments

    return [
        analysis.kind.partition(":")[0]
        for instrument in configured_instruments(settings).values()
        for analysis in instrument.analyses.values()
        if analysis.live
    ]


def _stop_beamline(process: PipedProcess) -> None:
    """End the beamline that this session has started."""
    _beamline_stops.set()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it ends the waiting
    process.terminate()
    if not wait_with_message(
        partial(_has_ended, process), "the beamline to end", UP_END_LIMIT_S, "Ctrl-C kills it"
    ):
        process.kill()  # its children end when their stdin is closed
        process.wait()


def _has_ended(process: PipedProcess, limit_s: float) -> bool:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _await_ready(
    process: PipedProcess,
    errors: TextIO,
    progress: Callable[[str], object],
    ready: "Future[None]",
) -> None:
    """Complete `ready` when `up` has printed its ready line; fail it by any error before.

    The parameters are those of `_follow_start`.
    """
    try:
        _follow_start(process, errors, progress)
    except BaseException as error:
        ready.set_exception(error)
    else:
        ready.set_result(None)


def _follow_start(process: PipedProcess, errors: TextIO, progress: Callable[[str], object]) -> None:
    """Return when `up` has printed its ready line.

    `errors` is the file of its stderr. `progress` gets the names of the parts that are not ready
    yet. No timeout is needed here: `up` has one for each part.

    Raises
    ------
    HardwareError
        When `up` ends before.
    """
    parts: list[str] = []
    ready_parts: set[str] = set()
    for event in _events(process):
        if "ready" in event:
            return
        name, text = event["name"], event["event"]
        if name == "up":
            if text.startswith(STARTING):
                parts = text.removeprefix(STARTING).split(", ")
        elif text.startswith("ready"):
            ready_parts.add(name)
        elif not text.startswith(STILL_STARTING):
            _print_error(f"{name}: {text}")
        missing = ", ".join(part for part in parts if part not in ready_parts)
        progress(f"{len(ready_parts)} of {len(parts)} parts are ready; waiting for {missing}")
    status = process.wait()
    errors.seek(0)
    words = errors.read().strip().removeprefix("skywright: ")
    raise HardwareError(words or f"skywright up ended with exit status {status}")


def _print_error(text: str) -> None:
    """Print to stderr if it can be written: its file's disk may be full, or its reader gone."""
    with suppress(OSError):
        typer.echo(text, err=True)


def _events(process: PipedProcess) -> Iterator[dict[str, Any]]:
    """Yield the events and the ready line of `up`; a package of the site may print other lines."""
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and ("ready" in event or {"name", "event"} <= event.keys()):
            yield event


def _show_events(process: PipedProcess) -> None:
    """Show on the terminal which part of the beamline died and came back, and its own end."""
    for event in _events(process):
        if event["name"] != "up" or not _beamline_stops.is_set():
            _print_error(f"{event['name']}: {event['event']}")
    if not _beamline_stops.is_set():
        _print_error("the beamline of this session has ended; end the session and start it again")


def _compile_source(name: str, source: str | bytes) -> CodeType:
    """Compile a line, or the content of the script `name`.

    Raises
    ------
    typer.Exit
        With status 1, the place shown, when it is no Python.
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
        With status 1, the traceback shown, or a line that says what to do, when it fails.
    """
    from skywright.session.context import live_analyses
    from skywright.session.ending import end_session
    from skywright.session.profile import load_profile

    namespace = load_profile()
    if name != "-c":
        namespace["__file__"] = name
        # As Python does for a script: modules beside it are imported. The profile is loaded by
        # now, so that a `plans.py` there does not hide the package of the beamline.
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
        if received:  # IPython goes on after any exception of a line, also that of the signal
            shell.ask_exit()

    shell.events.register("post_run_cell", end_on_signal)
    namespace = shell.user_ns
    load_profile(namespace)
    engine, analyses = namespace["RE"], live_analyses(namespace)
    show_banner(namespace)
    try:
        with suppress(SystemExit):  # of a signal that has come at the prompt
            run_console(shell)
    finally:
        end_session(engine, analyses)
    end_process(128 + received[0] if received else 0)
