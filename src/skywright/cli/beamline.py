"""Starts the beamline of a session or a demo if none runs on its store, and stops it."""

import atexit
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from skywright.cli.up import STARTING
from skywright.config import Settings
from skywright.errors import HardwareError
from skywright.processes import locks, stack
from skywright.processes.child import PipedProcess, start_module
from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.supervisor import STILL_STARTING
from skywright.session.ending import wait_with_message

UP_READY_LIMIT_S = 600.0
UP_END_LIMIT_S = 10.0
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
while the beamline starts."""
_beamline_stops = threading.Event()
"""Set when this session stops the beamline that it has started."""


def ensure_beamline(settings: Settings, progress: Callable[[str], object] | None = None) -> None:
    """Use the beamline that runs on the store, else start one that ends with this process.

    Must come before the first import of ophyd: `atexit` calls run in reverse order, and the IOCs
    must end after the Channel Access client, so their stop is registered first.

    Parameters
    ----------
    settings
        The configuration.
    progress
        Called from a thread with a line that names the parts that are not ready yet. The terminal
        also shows this line.

    Raises
    ------
    HardwareError
        If it does not start; the message is what `up` printed.
    """
    owner = locks.lock_owner(settings.directory / stack.UP_LOCK)
    if owner is not None:
        typer.echo(f"Using the beamline of `skywright up`, process {owner} ...", err=True)
    if stack.await_state(settings.directory, UP_READY_LIMIT_S):
        return
    typer.echo("Starting the beamline ...", err=True)
    # A file, not a pipe: nobody reads it during the session, and a full pipe would block `up`
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = start_module(
        "skywright.cli",
        *("up", "--json"),
        stderr=errors,
        text=True,
        env={**os.environ, SUPERVISED: "1"},
        process_group=0,  # so that Ctrl-C in the terminal does not reach it
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

        # Import in this thread: Channel Access belongs to the thread that uses it first
        ready: Future[None] = Future()
        threading.Thread(
            target=_await_ready, args=(process, errors, show, ready), daemon=True
        ).start()
        for name in (*SLOW_IMPORTS, *_analysis_modules(settings)):
            with suppress(ImportError):  # the start-up file that needs it reports the error
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends the wait, as Ctrl-C does
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
    """Call `_follow_start`; set its end, or its error, as the result of `ready`."""
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
        If `up` ends without that line.
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
    message = errors.read().strip().removeprefix("skywright: ")
    raise HardwareError(message or f"skywright up ended with exit status {status}")


def _print_error(text: str) -> None:
    """Print to stderr; do nothing if that fails, for example on a full disk."""
    with suppress(OSError):
        typer.echo(text, err=True)


def _events(process: PipedProcess) -> Iterator[dict[str, Any]]:
    """Yield the events and the ready line of `up`; skip lines that other packages print."""
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and ("ready" in event or {"name", "event"} <= event.keys()):
            yield event


def _show_events(process: PipedProcess) -> None:
    """Print the events of the beamline, such as a part that is restarted, and its end."""
    for event in _events(process):
        if event["name"] != "up" or not _beamline_stops.is_set():
            _print_error(f"{event['name']}: {event['event']}")
    if not _beamline_stops.is_set():
        _print_error("the beamline of this session has ended; end the session and start it again")
