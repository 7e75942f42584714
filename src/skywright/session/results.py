"""Shows what a plan returned as a table, and how to run a plan that was called without ``RE``."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from shutil import get_terminal_size
from types import GeneratorType
from typing import Any, get_args, get_type_hints

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

DIGITS = 6
LONGEST = 4
"""Maximum number of values of an array or a list that are all shown."""


def show_results(shell: Any, plans: Iterable[Callable[..., Any]]) -> None:
    """Let an IPython shell show the result of ``RE(plan)`` as a table.

    For a plan that is typed without ``RE`` it shows how to run it.

    Parameters
    ----------
    shell
        From ``get_ipython()``.
    plans
        The dataclasses that these plans return, ``RE(plan).plan_result``, are shown as tables too.
        Plans without usable type hints are passed over.
    """
    formatter = shell.display_formatter.formatters["text/plain"]
    formatter.for_type_by_name("bluesky.run_engine", "RunEngineResult", _print)
    formatter.for_type_by_name("bluesky.utils", "Plan", _print_plan)
    formatter.for_type(GeneratorType, _print_plan)
    for plan in plans:
        if (returned := _returned_dataclass(plan)) is not None:
            formatter.for_type(returned, _print_returned)


def _returned_dataclass(plan: Callable[..., Any]) -> type | None:
    """Return the dataclass that a plan returns, by its type hints; None if they name none."""
    try:
        arguments = get_args(get_type_hints(plan).get("return"))
    except Exception:  # hints of another package may name what is not imported
        return None
    returned = arguments[-1] if arguments else None
    return returned if isinstance(returned, type) and is_dataclass(returned) else None


def _print(result: Any, printer: Any, cycle: bool) -> None:
    printer.text(result_text(result, get_terminal_size().columns))


def _print_plan(plan: Any, printer: Any, cycle: bool) -> None:
    is_expression = getattr(plan, "__name__", "") == "<genexpr>"
    printer.text(repr(plan) if is_expression else f"{plan!r}: RE(...) runs a plan")


def _print_returned(returned: Any, printer: Any, cycle: bool) -> None:
    printer.text("\n".join(_table_lines(returned, get_terminal_size().columns)))


def _table_lines(returned: Any, width: int) -> list[str]:
    """Return a line for each value of a dataclass."""
    table = Table(show_header=False, box=None)
    for name, value in _values(returned):
        table.add_row(name, Text(value_text(value)))
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _values(result: Any, stem: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values; a result inside another one has a line for each of its values."""
    for field in fields(result):
        value, name = getattr(result, field.name), f"{stem}{field.name}"
        if is_dataclass(value) and not isinstance(value, type):
            yield from _values(value, f"{name}.")
        else:
            yield name, value


def result_text(result: Any, width: int = 100) -> str:
    """Return a result of the RunEngine as text for a person.

    Parameters
    ----------
    result
        ``RunEngineResult``: its runs, how they ended, and what the plan returned.
    width
        Width of the table, characters.
    """
    uids = ", ".join(uid[:8] for uid in result.run_start_uids)
    head = f"{f'run {uids}: ' if uids else ''}{result.exit_status}"
    if result.reason:
        head += f", {result.reason}"
    returned = result.plan_result
    if type(returned) is object:  # bluesky's mark of a plan that did not return
        returned = None
    if is_dataclass(returned) and not isinstance(returned, type):
        return "\n".join([head, *_table_lines(returned, width)])
    is_run = isinstance(returned, str) and returned in result.run_start_uids
    return head if returned is None or is_run else f"{head}\n{value_text(returned)}"


def value_text(value: Any) -> str:
    """Return a value in few words: numbers to six digits, long arrays by their ends."""
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=DIGITS, threshold=LONGEST, edgeitems=2)
        shape = "" if value.size <= LONGEST else f"  ({' x '.join(map(str, value.shape))})"
        return " ".join(text.split()) + shape
    if isinstance(value, list | tuple) and len(value) > LONGEST:
        first, last = ", ".join(map(value_text, value[:2])), value_text(value[-1])
        return f"{first} ... {last}  ({len(value)})"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    if isinstance(value, float | np.floating):
        return f"{value:.{DIGITS}g}"
    return str(value)
