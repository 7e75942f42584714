"""What the tests of the owner of shots read."""

from pathlib import Path

import numpy as np

from skywright.files.columns import ColumnReader
from skywright.instruments.sacla.layouts import (
    TAG,
)
from skywright.instruments.sacla.owner import ShotOwner


def items(owner: ShotOwner) -> int:
    return owner.state().items


def column(path: Path, name: str, identity: str = TAG.path) -> np.ndarray:
    with ColumnReader(path, identity) as reader:
        return reader.read(name)
