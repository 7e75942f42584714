"""What commands share: options, tables for people, JSON lines for programs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

from skywright.config import FILE_VARIABLE

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Use this skywright.toml.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")
]
PIPE_WIDTH = 160
"""Characters in a line of a table in a pipe or a file, unless COLUMNS is set."""


def share_configuration(file: Path | None) -> None:
    """Let the child processes of this one also read the file of ``--config``."""
    if file:
        os.environ[FILE_VARIABLE] = str(file.resolve())


def make_console() -> Console:
    """Return a console on stdout that prints text unchanged, in lines of `PIPE_WIDTH` in a pipe."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """Print `value` (dataclass, mapping ...) as JSON on one line of stdout.

    Paths become text. NaN and infinity become null, because JSON has neither.
    """
    plain = to_jsonable_python(value, inf_nan_mode="null", fallback=dict)
    typer.echo(json.dumps(plain, ensure_ascii=False, allow_nan=False))
