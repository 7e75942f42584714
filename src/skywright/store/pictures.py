"""Pictures of a stored run as files: frames, contact sheets, what analyses have drawn."""

import shutil
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiled.client.container import Container

from skywright.analysis.display import contact_sheet, to_uint8
from skywright.errors import DataError
from skywright.store.export.contents import Column, read_contents
from skywright.store.show import ColumnView, RunView

FRAMES = 12
SIDE_MIN_PX, ASPECT_MAX = 16, 30
CELL_PX = 400


def write_pictures(
    run: Container, view: RunView, directory: Path, count: int = FRAMES
) -> list[Path]:
    """Write what a terminal cannot show: frames of the run as PNG, and the annotated pictures.

    Parameters
    ----------
    run, view
        The run, and its view (`view_run`).
    directory
        Where to write; made when missing. Files of the same names are replaced.
    count
        Number of frames of each camera, evenly spread over the run. Each is a file, and a part of
        the contact sheet.

    Returns
    -------
    list of Path
        The files: copies of the annotated pictures that are on this machine, then contact sheets,
        then frames.

    Raises
    ------
    DataError
        If frames cannot be read or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        copies = [
            Path(shutil.copy2(path, directory / f"{path.parent.name[:8]}-{path.name}"))
            for path in view.pictures
            if path.is_file()
        ]
        sheets, frames = [], []
        for stream in read_contents(run).streams:
            for column in stream.columns:
                if holds_frames(column):
                    stem = directory / f"{view.summary.uid[:8]}-{stream.name}-{column.name}"
                    sheet, *singles = _write_frames(column, stem, count)
                    sheets.append(sheet)
                    frames += singles
    except OSError as error:
        raise DataError(f"{directory}: cannot be written: {error}") from error
    return [*copies, *sheets, *frames]


def holds_frames(column: Column | ColumnView) -> bool:
    """Return whether rows are frames: gray or RGB, and not a small matrix or a long table."""
    shape = column.shape[1:]
    is_gray, is_rgb = len(shape) == 2, len(shape) == 3 and shape[2] == 3
    if not (is_gray or is_rgb) or column.shape[0] == 0:
        return False
    height, width = shape[:2]
    return min(height, width) >= SIDE_MIN_PX and height <= ASPECT_MAX * width


def read_frame(run: Container, stream: str, key: str, row: int) -> NDArray[np.uint8]:
    """Read one frame of a camera, as a screen shows it.

    Parameters
    ----------
    run
        tiled client of the run.
    stream, key
        Stream and data key of the frames.
    row
        From 0.

    Returns
    -------
    (H, W) or (H, W, 3) uint8

    Raises
    ------
    DataError
        If there is no such frame or it cannot be read.
    """
    where = f"{stream}/{key}"
    try:
        node = run[stream].base[key]
        count = node.shape[0]
    except (KeyError, AttributeError) as error:  # AttributeError: of a table
        raise DataError(f"{where}: this run has no such frames") from error
    if row >= count:
        raise DataError(f"{where}: there is no frame {row}; the last is {count - 1}")
    try:
        return to_uint8(np.asarray(node.read((slice(row, row + 1),)))[0])
    except httpx.HTTPError as error:
        raise DataError(f"{where}: the tiled server cannot read frame {row} ({error})") from error


def _write_frames(column: Column, stem: Path, count: int) -> list[Path]:
    """Write a contact sheet and single frames of a camera as ``<stem>-....png``."""
    rows = np.unique(np.linspace(0, column.shape[0] - 1, count).round().astype(int))
    frames = {int(row): to_uint8(column.read(slice(row, row + 1))[0]) for row in rows}
    sheet = stem.with_name(f"{stem.name}-sheet.png")
    labels = [str(row) for row in frames]
    Image.fromarray(contact_sheet(list(frames.values()), cell_px=CELL_PX, labels=labels)).save(
        sheet
    )
    paths = [sheet]
    for row, pixels in frames.items():
        paths.append(stem.with_name(f"{stem.name}-{row:06d}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths
