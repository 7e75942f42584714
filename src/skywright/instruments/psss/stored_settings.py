"""Reads the settings with which a run's pulses were processed from the file beside its spectra."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from skywright.errors import DataError
from skywright.files.columns import ColumnReader
from skywright.instruments.psss import layouts
from skywright.instruments.psss.background import DATASET, History, read_pixels
from skywright.instruments.psss.settings import CHOICES, Settings


class StoredSettings:
    """The settings by their number. Rows never change, so each is read once, when it is needed.

    Parameters
    ----------
    path
        File of `layouts.settings_path`; it may still grow.
    background
        An HDF5 file: its pixels are subtracted from every pulse. A directory of a service's
        history: the background of each pulse is found there by its digest. Empty: none is
        subtracted.
    given
        Fields of `Settings` that replace those of the file.
    """

    def __init__(self, path: str, background: str = "", given: Mapping[str, Any] | None = None):
        self.path = path
        self.background = background
        self.given = dict(given or {})
        self._read: dict[int, Settings] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the settings that were read; a cluster's worker reads them."""
        return {**vars(self), "_read": {}}

    def __getitem__(self, number: int) -> Settings:
        """Return the settings of a number.

        Raises
        ------
        DataError
            If the file, or the background, cannot be read, or has no such number.
        """
        if number not in self._read:
            self._read[number] = self._settings(number)
        return self._read[number]

    def _settings(self, number: int) -> Settings:
        with ColumnReader(Path(self.path), layouts.SETTINGS_NUMBER) as reader:
            rows = np.flatnonzero(reader.read(layouts.SETTINGS_NUMBER) == number)
            if not len(rows):
                raise DataError(f"{self.path}: has no settings {number}")
            row = int(rows[0])

            def value(path: str) -> Any:
                return reader.read(path, row, row + 1)[0]

            axis, saturation = value(layouts.AXIS), float(value(layouts.SATURATION))
            axis = axis[~np.isnan(axis)]  # NaN fills up the axis of a narrower picture
            name = bytes(value(layouts.BACKGROUND_NAME)).decode()
            digest = bytes(value(layouts.BACKGROUND_DIGEST)).decode()
            choices = {
                field: get_args(literal)[int(value(f"/entry/{field}"))]
                for field, literal in CHOICES.items()
            }
            found = Settings(
                roi=tuple(value(layouts.ROI).tolist()),
                axis=axis if len(axis) else None,
                signal_per_row=float(value(layouts.SIGNAL_PER_ROW)),
                saturation=None if np.isnan(saturation) else saturation,
                **choices,
            )
        return with_background(replace(found, **self.given), self.background, name, digest)


def with_background(settings: Settings, where: str, name: str = "", digest: str = "") -> Settings:
    """Return settings with the background of a file or of a history.

    Parameters
    ----------
    settings
        Settings without background.
    where
        The parameter `background` of `StoredSettings`.
    name, digest
        Name and digest of the background in the history; empty digest: none is subtracted.

    Raises
    ------
    DataError
        If the background cannot be read.
    ConfigError
        If the history does not have the background.
    """
    if not where:
        return settings
    if not Path(where).is_dir():
        pixels = read_pixels(Path(where), DATASET)
        return replace(settings, background=pixels, background_name=Path(where).stem)
    if not digest:
        return settings
    found = History(Path(where)).load(name, digest)
    return replace(settings, background=found.pixels, background_name=name)
