"""``skywright demo``: the main job of every instrument, end to end, on a simulated beamline."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from skywright.cli import EXIT_FAILED
from skywright.errors import ConfigError

DEMOS = ("axis", "centering", "psss")
LIMIT_S = 270.0


def demo(
    directory: Annotated[
        Path, typer.Option(metavar="DIR", help="Store of the demo's runs and pictures.")
    ] = Path("demo"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Show these: axis, centering, psss.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run each instrument's main plan over Channel Access and show what the catalog then holds.

    Starts simulated IOCs, tiled and the ingester on a store of their own, and stops them again.
    """
    names = only or list(DEMOS)
    unknown = sorted(set(names) - set(DEMOS))
    if unknown:
        raise ConfigError(f"--only {', '.join(unknown)}: there are {', '.join(DEMOS)}")
    started = time.monotonic()
    results: list[dict[str, Any]] = []
    for name in names:
        typer.echo(f"{name}: starts, runs and stops ...", err=True)
        results += _run_demo(name, directory.resolve())
    if as_json:
        typer.echo(json.dumps(results))
    else:
        _print_table(results, directory / f"{names[0]}.toml", time.monotonic() - started)
    if not results or not all(result["ok"] for result in results):
        raise typer.Exit(EXIT_FAILED)


def _run_demo(name: str, directory: Path) -> list[dict[str, Any]]:
    """Run one instrument's demo in a beamline and a process of its own.

    A failed demo is a result that says so: the next instrument is shown all the same.
    """
    config = write_configuration(name, directory)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "skywright.cli.demos", name, str(file)]
        environment = {**os.environ, "SKYWRIGHT_CONFIG": str(config)}
        why = f"not done within {LIMIT_S:g} s"
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, stdout=sys.stderr, env=environment, timeout=LIMIT_S, check=False
            )
            why = f"the session ended with exit status {done.returncode}"
        if file.is_file():
            written: list[dict[str, Any]] = json.loads(file.read_text())
            return written
    failed = {"plan": name, "raw_uid": "", "derived_uids": [], "truth": {}, "result": {"why": why}}
    return [{**failed, "ok": False, "pictures": []}]


def write_configuration(name: str, directory: Path) -> Path:
    """Write the configuration of a demo's beamline, with its store, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    # JSON strings and lists of them are TOML too.
    lines = ["[store]", f"directory = {json.dumps(str(directory))}"]
    for ioc, settings in import_module(f"skywright.cli.demos.{name}").iocs().items():
        lines += ["", f"[iocs.{ioc}]"]
        values = settings.model_dump(mode="json", exclude_defaults=True)
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    config = directory / f"{name}.toml"
    config.write_text("\n".join(lines) + "\n")
    return config


def _print_table(results: list[dict[str, Any]], config: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("plan", "run", "derived", "truth", "result", "ok")
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
