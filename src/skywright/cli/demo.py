"""``skywright demo``: the main job of every instrument, end to end, on a simulated beamline."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from skywright.cli import EXIT_FAILED
from skywright.errors import ConfigError
from skywright.instruments import instruments
from skywright.processes.process import SUPERVISED

LIMIT_S = 270.0


def demos() -> dict[str, str]:
    """Return the modules of all instruments' demos, by name of the demo."""
    return {
        name: module
        for instrument in instruments().values()
        for name, module in instrument.demos.items()
    }


def demo(
    directory: Annotated[
        Path, typer.Option(metavar="DIR", help="Store of the demo's runs and pictures.")
    ] = Path("demo"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run these demos alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run each instrument's main plans over Channel Access and show what the catalog then holds.

    Starts simulated IOCs, tiled and the ingester on a store of their own, and stops them again.
    """
    names = only or list(demos())
    unknown = sorted(set(names) - set(demos()))
    if unknown:
        raise ConfigError(f"--only {', '.join(unknown)}: there are {', '.join(demos())}")
    started = time.monotonic()
    results: list[dict[str, Any]] = []
    console = Console(stderr=True, highlight=False, markup=False)
    for name in names:
        results += _run_demo(name, directory.resolve(), console)
    if as_json:
        typer.echo(json.dumps(results))
    else:
        _print_table(results, directory / f"{names[0]}.toml", time.monotonic() - started)
    if not results or not all(result["ok"] for result in results):
        raise typer.Exit(EXIT_FAILED)


def _run_demo(name: str, directory: Path, console: Console) -> list[dict[str, Any]]:
    """Run one demo with a beamline and a process of its own.

    A failed demo is a result that says so: the next one runs all the same.
    """
    config = write_configuration(name, directory)
    log = directory / "logs" / f"demo-{name}.log"
    log.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "SKYWRIGHT_CONFIG": str(config), SUPERVISED: "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        status = _run_process(name, file, log, environment, console)
        if file.is_file():
            written: list[dict[str, Any]] = json.loads(file.read_text())
            return written
    why = f"ended with exit status {status}" if status else f"not done within {LIMIT_S:g} s"
    why += f"; look at {os.path.relpath(log)}"
    console.print(f"{name:<10} failed: {why}", style="red")
    failed = {"plan": name, "raw_uid": "", "derived_uids": [], "truth": {}, "result": {"why": why}}
    return [{**failed, "ok": False, "pictures": []}]


def _run_process(
    name: str, file: Path, log: Path, environment: dict[str, str], console: Console
) -> int | None:
    """Run the process of a demo and show its steps; return its exit status, None if too slow."""
    command = [sys.executable, "-m", "skywright.cli.demos", name, str(file)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes when we end: the process ends too
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.terminate()

    timer = threading.Timer(LIMIT_S, stop)
    timer.start()
    try:
        assert process.stdout is not None
        _show_steps(name, process.stdout, console)
        status = process.wait()
    except BaseException:  # Ctrl-C: the process has it too
        process.terminate()
        process.wait()
        raise
    finally:
        timer.cancel()
    return None if late.is_set() else status


def _show_steps(name: str, steps: Iterable[str], console: Console) -> None:
    """Print a line for each step that is done; on a terminal also the one that goes on."""
    with console.status(f"{name:<10} starts") as shown:
        for line in steps:
            step = json.loads(line)
            text = f"{name:<10} {step['title']}"
            if step["progress"]:
                text += f": {step['progress']}"
            if step["seconds"] is None:
                shown.update(text)
            else:
                console.print(f"{text}  ({step['seconds']:.1f} s)")
                shown.update(f"{name:<10} goes on")
        shown.update(f"{name:<10} stops")


def write_configuration(name: str, directory: Path) -> Path:
    """Write the configuration of a demo's beamline, with its store, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    # JSON strings and lists of them are TOML too.
    lines = ["[store]", f"directory = {json.dumps(str(directory))}"]
    for ioc, settings in import_module(demos()[name]).iocs().items():
        lines += ["", f"[iocs.{ioc}]"]
        values = settings.model_dump(mode="json", exclude_defaults=True)
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    config = directory / f"{name}.toml"
    config.write_text("\n".join(lines) + "\n")
    return config


def _print_table(results: list[dict[str, Any]], config: Path, seconds: float) -> None:
    from rich.table import Column, Table

    names = ("plan", "run", "derived", "truth", "result", "ok")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for each in results:
        table.add_row(
            each["plan"],
            each["raw_uid"][:8],
            ", ".join(uid[:8] for uid in each["derived_uids"]),
            _in_words(each["truth"]),
            _in_words(each["result"]),
            "[green]yes[/green]" if each["ok"] else "[red]no[/red]",
        )
    console = Console()
    console.print(table)
    for each in results:
        for picture in each["pictures"][:2]:
            console.print(f"{each['plan']}: {os.path.relpath(picture)}", soft_wrap=True)
    console.print(
        f"{len(results)} plans in {seconds:.0f} s. To look around in what they left: "
        f".venv/bin/skywright session --config {os.path.relpath(config)}",
        soft_wrap=True,
    )


def _in_words(values: dict[str, Any]) -> str:
    return "\n".join(f"{key} {value}" for key, value in values.items())
