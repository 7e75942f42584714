"""``skywright demo``: the main job of every instrument, end to end, on a simulated beamline."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from skywright.cli import EXIT_FAILED
from skywright.cli.demos import BEAMLINE, failed_demo
from skywright.cli.output import JsonOption, make_console, print_json
from skywright.config import ENV_PREFIX, Settings
from skywright.errors import ConfigError
from skywright.instruments import declared
from skywright.processes.child import PipedProcess, start_module
from skywright.processes.lifecycle import SUPERVISED
from skywright.words import counted

LIMIT_S = 270.0
"""Timeout for one demo, s."""
END_LIMIT_S = 60.0
"""Timeout for the demos' process to stop its beamline and to end, s; after it, it is killed."""
MARK = "# `skywright demo` has written this file, and replaces it at its next start."
QUIET_S = 4.0
"""Longest time without a line, s, where there is no terminal."""


def demos() -> dict[str, str]:
    """Return the modules of all instruments' demos, by name of the demo."""
    return declared(lambda instrument: instrument.demos)


def demo(
    directory: Annotated[
        Path, typer.Option(metavar="DIR", help="Store of the demo's runs and pictures.")
    ] = Path("demo"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only these demos.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run each instrument's main plans over Channel Access; show their runs in the catalog.

    Starts one simulated beamline for all of them, on a store of its own, and stops it again.
    """
    names = list(dict.fromkeys(name for word in only or demos() for name in word.split(",")))
    unknown = sorted(set(names) - set(demos()))
    if unknown:
        raise ConfigError(f"--only {', '.join(unknown)}: there are {', '.join(demos())}")
    started = time.monotonic()
    directory = directory.resolve()
    config = write_configuration(names, directory)
    steps = StepLines(Console(stderr=True, highlight=False, markup=False, emoji=False))
    results = _run_demos(names, config, steps)
    if as_json:
        print_json(results)
    else:
        seconds = time.monotonic() - started
        command = Path(sys.executable).with_name("skywright")
        console = make_console()
        console.print(_table(results))
        for each in results:
            for picture in each["pictures"][:2]:
                console.print(f"{each['plan']}: {os.path.relpath(picture)}", soft_wrap=True)
        console.print(
            f"{counted(len(results), 'plan')} in {steps.demos_s:.0f} s; {seconds:.0f} s with the "
            "start and the end of the beamline. To look at these runs: "
            f"{os.path.relpath(command)} session --config {os.path.relpath(config)}",
            soft_wrap=True,
        )
    if not results or not all(result["ok"] for result in results):
        raise typer.Exit(EXIT_FAILED)


def _run_demos(names: Sequence[str], config: Path, steps: "StepLines") -> list[dict[str, Any]]:
    """Run the demos in one process, one after the other.

    If a demo ends the process, or is too slow, its result is an error, and the demos after it run
    in a new process.
    """
    results: list[dict[str, Any]] = []
    log = config.parent / "logs" / "demo.log"
    log.parent.mkdir(exist_ok=True)
    environment = {**_without_settings(), "SKYWRIGHT_CONFIG": str(config), SUPERVISED: "1"}
    left = list(names)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.jsonl"
            status = _run_process(left, file, log, environment, steps)
            done = file.read_text().splitlines() if file.is_file() else []
        for line in done:
            results += json.loads(line)
        left = left[len(done) :]
        if left:
            name, *left = left
            too_slow = f"not done within {LIMIT_S:g} s"
            why = too_slow if status is None else f"ended with exit status {status}"
            why += f"; look at {os.path.relpath(log)}"
            steps.console.print(f"{name:<10} failed: {why}", style="red")
            results.append(asdict(failed_demo(name, why)))
    return results


def _without_settings() -> dict[str, str]:
    """Return the environment without the variables that override keys of the configuration.

    With them the demo would write into the store of a beamline, or use its cameras.
    """
    keys = tuple(f"{ENV_PREFIX}{key}".upper() for key in Settings.model_fields)
    tables = tuple(f"{key}__" for key in keys)
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in keys and not name.upper().startswith(tables)
    }


def _run_process(
    names: Sequence[str], file: Path, log: Path, environment: dict[str, str], steps: "StepLines"
) -> int | None:
    """Run demos in a process and show their steps; return its exit status, None if too slow."""
    with log.open("a") as errors:
        process = start_module(
            "skywright.cli.demos",
            *(str(file), *names),
            stderr=errors,
            env=environment,
            text=True,
        )
    begins: queue.SimpleQueue[bool] = queue.SimpleQueue()
    """True: the next demo begins; False: the process has ended."""
    too_slow = threading.Event()

    def end_if_too_slow() -> None:
        try:
            while begins.get(timeout=LIMIT_S):
                pass
        except queue.Empty:
            too_slow.set()
            _terminate(process)

    threading.Thread(target=end_if_too_slow, daemon=True).start()
    try:
        steps.show(process.stdout, partial(begins.put, True))
        status = process.wait()
    except BaseException:  # also Ctrl-C, which the process gets too
        _terminate(process)
        raise
    finally:
        begins.put(False)
    return None if too_slow.is_set() else status


def _terminate(process: PipedProcess) -> None:
    """Terminate a process; if that does not end it in time, kill it."""
    process.terminate()
    try:
        process.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class StepLines:
    """Prints a line for each step that is done, and shows the present step.

    A terminal shows the present step in its last line. Elsewhere it is printed when nothing was
    printed for `QUIET_S`, so that a person who reads a log sees that the demo is running.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.demos_s = 0.0
        """Time of the demos, without the start and the end of their beamline, s."""
        self._text = ""
        self._printed = time.monotonic()

    def show(self, steps: Iterable[str], begin_demo: Callable[[], object]) -> None:
        """Show steps until there are no more; `begin_demo` is called when the demo changes."""
        name, before, closed = BEAMLINE, 0.0, threading.Event()
        self._text = "the beamline starts"
        with self.console.status(self._text) as status:
            if not self.console.is_terminal:
                threading.Thread(target=self._repeat, args=(closed,), daemon=True).start()
            for line in steps:
                step, now = json.loads(line), time.monotonic()
                # Not the time between two steps of the beamline
                if before and {name, step["demo"]} != {BEAMLINE}:
                    self.demos_s += now - before
                before = now
                if step["demo"] != name:
                    name = step["demo"]
                    begin_demo()
                text = f"{name:<10} {step['title']}"
                if step["detail"]:
                    text += f": {step['detail']}"
                if step["seconds"] is None:
                    self._text = text
                else:
                    self._print(f"{text}  ({step['seconds']:.1f} s)")
                    self._text = f"{name:<10} goes on"
                status.update(self._text)
            closed.set()

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        self.console.print(text, soft_wrap=True)

    def _repeat(self, closed: threading.Event) -> None:
        while not closed.wait(max(0.1, self._printed + QUIET_S - time.monotonic())):
            if time.monotonic() - self._printed >= QUIET_S:
                self._print(f"{self._text} ...")


def write_configuration(names: Sequence[str], directory: Path) -> Path:
    """Write the configuration of the demos' beamline, with its store, into `directory`.

    Raises
    ------
    ConfigError
        If two of the demos have IOCs of one name, or the directory cannot be made or has the
        configuration of a beamline.
    """
    config = directory / "skywright.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if config.exists() and not config.read_text("utf-8", "replace").startswith(MARK):
            raise ConfigError(
                f"{config}: `skywright demo` has not written this file, and would replace it; "
                "take another --directory, or remove the file"
            )
    except OSError as error:
        raise ConfigError(f"--directory {directory}: {error.strerror or error}") from error
    # JSON strings and lists of strings are also TOML, except characters with two escapes
    in_toml = partial(json.dumps, ensure_ascii=False)
    lines = [MARK, "[store]", f"directory = {in_toml(str(directory))}"]
    owners: dict[str, str] = {}
    for name in names:
        for ioc, settings in import_module(demos()[name]).iocs().items():
            if ioc in owners:
                raise ConfigError(f"demos {owners[ioc]} and {name} both have an IOC {ioc!r}")
            owners[ioc] = name
            lines += ["", f"[iocs.{ioc}]"]
            values = settings.model_dump(mode="json", exclude_defaults=True)
            lines += [f"{key} = {in_toml(value)}" for key, value in values.items()]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    return config


def _table(results: list[dict[str, Any]]) -> Table:
    names = ("plan", "run", "derived", "truth", "result", "ok")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for each in results:
        table.add_row(
            each["plan"],
            each["raw_uid"][:8],
            ", ".join(uid[:8] for uid in each["derived_uids"]),
            _format_values(each["truth"]),
            _format_values(each["result"]),
            Text("yes", style="green") if each["ok"] else Text("no", style="red"),
        )
    return table


def _format_values(values: dict[str, Any]) -> str:
    return "\n".join(f"{key} {value}" for key, value in values.items())
