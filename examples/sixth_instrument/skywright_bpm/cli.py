"""``skywright bpm ...``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Beam position monitor with four diodes."""


@app.command()
def position(
    file: Annotated[Path, typer.Argument(help="A file that the monitor recorded.")],
    scale_mm: Annotated[float, typer.Option(help="Displacement for all light on one diode.")] = 2.0,
) -> None:
    """Print the mean position of a recorded file as JSON."""
    from skywright.analysis import Batch
    from skywright.cli.output import print_json
    from skywright.files.columns import ColumnReader
    from skywright_bpm.analysis import BeamPosition
    from skywright_bpm.source import CURRENTS, NUMBER, TIME

    with ColumnReader(file, NUMBER.path) as reader:
        numbers, times = reader.read(NUMBER.path), reader.read(TIME.path)
        analysis = BeamPosition(scale_mm)
        analysis.update(Batch(numbers, times, {"currents": reader.read(CURRENTS.path)}))
    result = {name: float(value) for name, value in analysis.result().items()}
    print_json({"file": file, "samples": len(numbers), **result})
