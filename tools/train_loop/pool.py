"""The pool of pictures for training, in the memory of the device that trains."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from sample import CELLS, NUMBERS, PICTURE
from torch import Tensor

ARRAYS = ("gray", "bits", "numbers")
MORE = 3  # times as many pictures of a generator that is drawn more often


class Pool:
    """The pictures in a folder; shards that are added later are read when asked.

    Parameters
    ----------
    folder
        Of shards, ``GENERATOR-NUMBER.npz``.
    device
        That trains.
    room
        Largest number of pictures; memory is allocated for them at once, and used as they come.
    """

    def __init__(self, folder: Path, device: torch.device, room: int) -> None:
        self.folder, self.device = folder, device
        self.gray = torch.empty((room, *PICTURE), dtype=torch.uint8, device=device)
        self.bits = torch.empty((room, *CELLS), dtype=torch.uint8, device=device)
        self.numbers = torch.empty((room, NUMBERS), device=device)
        self.count = 0
        self.read: set[str] = set()
        self.rows: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def refresh(self) -> None:
        """Read the shards that were added, while there is room."""
        for path in sorted(self.folder.glob("*-*.npz")):
            generator = generator_of(path.name)
            if path.name in self.read or generator == "half":
                continue
            with np.load(path) as held:
                gray, bits, numbers = (torch.from_numpy(held[k]) for k in ARRAYS)
            first, end = self.count, self.count + len(gray)
            if end > len(self.gray):
                return
            self.gray[first:end], self.bits[first:end], self.numbers[first:end] = (
                gray, bits, numbers,
            )  # fmt: skip
            if generator not in self.rows:
                self.rows[generator] = torch.empty(
                    len(self.gray), dtype=torch.long, device=self.device
                )
            held_before = self.counts.get(generator, 0)
            held_now = held_before + end - first
            self.rows[generator][held_before:held_now] = torch.arange(
                first, end, device=self.device
            )
            if self.device.type == "cuda":
                torch.cuda.current_stream().synchronize()  # others read on streams of their own
            self.read.add(path.name)
            self.count, self.counts[generator] = end, held_now

    def revision(self, without: str) -> str:
        """Return a short hash of the names of the shards read, without those of a generator."""
        used = sorted(name for name in self.read if generator_of(name) != without)
        return hashlib.sha256(" ".join(used).encode()).hexdigest()[:12]

    def drawn(self, count: int, without: str = "", more: str = "") -> Tensor:
        """Return the rows of `count` pictures, as many of each generator.

        There are none of the generator `without`, and three times as many of `more`.
        """
        names = [name for name in sorted(self.counts) if name != without]
        turn = names + [name for name in names if name == more] * (MORE - 1)
        rows = []
        for name in names:
            each = sum(turn[k % len(turn)] == name for k in range(count))
            pick = torch.randint(self.counts[name], (each,), device=self.device)
            rows.append(self.rows[name][pick])
        return torch.cat(rows)


def generator_of(name: str) -> str:
    """Return the generator of a shard by the name of its file."""
    return name.rsplit("-", 1)[0]
