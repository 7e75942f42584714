"""``skywright loop ...``: the sample loop from the command line."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from skywright.cli import report
from skywright.cli.output import JsonOption, make_console, print_json
from skywright.errors import DataError
from skywright.instruments.loop.cli.automl_server import automl_server
from skywright.instruments.loop.cli.dhs import dhs
from skywright.instruments.loop.cli.fit_series import fit_series, rounded

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command("fit-series")(fit_series)
app.command("automl-server")(automl_server)
app.command("dhs")(dhs)

COLUMNS = ("file", "tip", "bbox", "class", "width", "side", "score", "ms")


@app.callback()
def _group() -> None:
    """Sample loop: detection, fits, and endpoints for other systems."""


@app.command()
def find(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JPEG or PNG pictures.")],
    as_json: JsonOption = False,
) -> None:
    """Find the loop in pictures: tip, box, class, width, side.

    Pixels, x to the right, y down. `width` is the extent of the loop across the pin's axis, `score`
    0..1, `ms` the time of decoding and detection. --json prints one object per line and picture.
    Unreadable files are reported on stderr and the exit status is then 2; all other files are
    analyzed.
    """
    from skywright.instruments.loop.detect import warm_up

    warm_up()  # else the first picture's time is that of loading the network
    rows, status = [], 0
    for file in files:
        try:
            row = _find_in_file(file)
        except DataError as error:
            status = report(error)
            continue
        if as_json:
            print_json(row)
        else:
            rows.append(row)
    if rows:
        _print_table(rows)
    if status:
        raise typer.Exit(status)


def _find_in_file(file: Path) -> dict[str, Any]:
    """Return what the command line promises of one picture file; NaN is None."""
    from skywright.instruments.loop.detect import find_loop
    from skywright.instruments.loop.picture import decode, read_file

    data = read_file(file)
    begun = time.perf_counter()
    found = find_loop(decode(data, str(file)))
    took_ms = (time.perf_counter() - begun) * 1e3
    return {
        "file": str(file),
        "tip": rounded((found.tip_x, found.tip_y), 2),
        "bbox": rounded(found.bbox, 2) if found.bbox else None,
        "class": found.kind,
        "width": rounded(found.width, 2),
        "side": found.side,
        "score": round(found.score, 4),
        "ms": round(took_ms, 3),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(
            name,
            justify="left" if name in ("file", "class", "side") else "right",
            no_wrap=name != "file",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_cell(row[name], 2 if name == "score" else 0) for name in COLUMNS))
    make_console().print(table)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(f"{each:z.0f}" for each in value)
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
