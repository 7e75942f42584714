"""Housekeeping of a run: ``hk.pff``, JSON objects each ended by an empty line, as they are added.

Each object has one key, what it is of: ``QUABO_<boardloc>``, ``GPSPRIM``, ``WRSWITCH`` and others.
Its values are texts, among them ``Computer_UTC``, a decimal Unix time.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skywright.errors import DataError
from skywright.instruments.panoseti.products import QUABOS
from skywright.instruments.panoseti.rundir import run_of

logger = logging.getLogger(__name__)

FILE_NAME = "hk.pff"
QUABO = re.compile(r"QUABO_([0-9]{1,4})")
"""Key of a board, by its ``boardloc``."""
END = b"\n\n"
BYTES_MAX = 1 << 20
"""Bytes that are read at a time; no object is longer."""
NEWEST_BYTES = 4 << 20
"""Only these last bytes of the new ones are read: they hold the newest state of each board."""
VALUES = {
    **{f"HVMON{channel}": "V" for channel in range(4)},
    **{f"HVIMON{channel}": "A" for channel in range(4)},
    "RAWHVMON": "V",
    **{f"V{rail}MON": "V" for rail in (12, 18, 33, 37)},
    **{f"I{rail}MON": "A" for rail in (10, 18, 33)},
    "TEMP1": "degC",
    "TEMP2": "degC",
    "VCCINT": "V",
    "VCCAUX": "V",
    "SHUTTER_STATUS": "",
    "LIGHT_SENSOR_STATUS": "",
    **{f"DETR{channel}_CURR": "A" for channel in range(4)},
}
"""Units of the numbers of a board: high voltages and their currents, supplies, temperatures of
detector and FPGA, states."""


@dataclass(frozen=True)
class BoardState:
    """The newest housekeeping of one board.

    Attributes
    ----------
    module, quabo
        The board.
    seconds
        When the computer got it, Unix time; NaN if it is not known.
    values
        Numbers, by the names of `VALUES`; NaN where the object has none.
    uid, firmware
        As the object has them; empty if it has not.
    """

    module: int
    quabo: int
    seconds: float
    values: Mapping[str, float]
    uid: str
    firmware: str


@dataclass
class HousekeepingFile:
    """A growing ``hk.pff``.

    Parameters
    ----------
    path
        It need not exist yet.

    Attributes
    ----------
    newest
        The newest object of each kind by its key, values as in the file.
    skipped
        Pieces that are no object.
    """

    path: Path
    newest: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: int = 0
    _done: int = 0

    def follow(self) -> bool:
        """Read what is new, at most `NEWEST_BYTES`; return whether there was an object.

        Raises
        ------
        DataError
            If the file is there and cannot be read.
        """
        found = False
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._done:
                    logger.warning("%s was truncated: it is read from its start", self.path)
                    self._done = 0
                if size - self._done > NEWEST_BYTES:
                    self._done = file.seek(size - NEWEST_BYTES)
                    self._done += file.read(BYTES_MAX).find(END) + len(END)
                while True:
                    file.seek(self._done)
                    data = file.read(BYTES_MAX)
                    end = data.rfind(END)
                    if end < 0 and len(data) < BYTES_MAX:
                        return found
                    end = len(data) if end < 0 else end + len(END)
                    self._done += end
                    found |= self._take(data[:end].split(END))
        except FileNotFoundError:
            return found
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from error

    def boards(self) -> list[BoardState]:
        """Return the newest state of each board."""
        return [
            _state(int(board[1]), values)
            for key, values in self.newest.items()
            if (board := QUABO.fullmatch(key))
        ]

    def _take(self, pieces: Iterable[bytes]) -> bool:
        found = False
        for piece in pieces:
            if not piece.strip():
                continue
            try:
                value = json.loads(piece)
                ((key, values),) = value.items()
                self.newest[key] = {name: str(text) for name, text in values.items()}
                found = True
            except (ValueError, AttributeError, RecursionError):
                if not self.skipped:  # further ones are only counted
                    logger.warning("%s: %r... is no housekeeping object", self.path, piece[:40])
                self.skipped += 1
        return found


def _state(boardloc: int, values: Mapping[str, str]) -> BoardState:
    return BoardState(
        module=boardloc // QUABOS,
        quabo=boardloc % QUABOS,
        seconds=_number(values.get("Computer_UTC", "")),
        values={name: _number(values.get(name, "")) for name in VALUES},
        uid=values.get("UID", ""),
        firmware=values.get("FWVER", ""),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class RunHousekeeping:
    """The housekeeping of the newest run of a data directory.

    Parameters
    ----------
    data_dir
        Data directory of a node, or a run directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._run = ""
        self._file: HousekeepingFile | None = None
        self._seen: dict[tuple[int, int], float] = {}

    def new_states(self, run: str) -> list[BoardState]:
        """Return the boards whose state is new since the last call; of another run, all.

        Parameters
        ----------
        run
            Name of the newest run; its file may come later.

        Raises
        ------
        DataError
            If its file cannot be read.
        """
        if run != self._run:
            self._seen.clear()
        if run != self._run or self._file is None:
            self._run = run
            path = run_of(self._data_dir, run).find(FILE_NAME)
            self._file = None if path is None else HousekeepingFile(path)
        if self._file is None or not self._file.follow():
            return []
        fresh = []
        for board in self._file.boards():
            key = board.module, board.quabo
            if self._seen.get(key) != board.seconds:
                self._seen[key] = board.seconds
                fresh.append(board)
        return fresh
