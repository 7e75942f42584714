"""How commands print: tables for people, JSON lines for programs."""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Use this skywright.toml.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")
]
PIPE_WIDTH = 160
"""Columns of a table that is not read on a terminal, unless COLUMNS says otherwise."""


def make_console() -> Console:
    """Return a console on stdout that prints text as it is, and wide enough into a pipe."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", PIPE_WIDTH))
    return Console(width=width, highlight=False, markup=False)


def print_json(value: object) -> None:
    """Print `value` (dataclass, mapping ...) as JSON on one line of stdout."""
    typer.echo(json.dumps(json_value(value), ensure_ascii=False, allow_nan=False))


def json_value(value: Any) -> Any:
    """Return `value` in JSON's types: paths are text; NaN and infinity, which it has not, null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: json_value(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
