"""Running images of consecutive shots, merged from the partial results of workers."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from skywright.instruments.sacla.shot_images import ShotImages

Block = tuple[int, int]
"""Shots that are summed up together: number of their series, and number of their block of tags."""


class ImageSeries:
    """The images of all detectors over the same shots, up to the last whole block.

    Parameters
    ----------
    number
        Rises from series to series.
    recording
        Number of the recording that the shots belong to; 0: none.
    images
        By detector, without shots; they are used.
    """

    def __init__(self, number: int, recording: int, images: Mapping[str, ShotImages]) -> None:
        self.number, self.recording = number, recording
        self.images = dict(images)
        self.open_blocks: set[int] = set()
        """Blocks of tags that have shots and no partial result yet."""
        self.is_closed = False
        """No more shots come."""
        self._parts: deque[tuple[str, ShotImages]] = deque()
        """Partial results of one block. They are merged one by one: those of eight detectors at
        once would hold up the display."""
        self._waiting_block = 0

    @property
    def is_complete(self) -> bool:
        """Whether the images are those of all shots, and stay as they are."""
        return self.is_closed and not self.open_blocks and not self._parts

    def take(self, block: int, parts: Mapping[str, ShotImages]) -> None:
        """Take in the partial results of a block, by detector; those before are merged first."""
        self.merge()
        self._parts.extend(parts.items())
        self._waiting_block = block
        self.open_blocks.discard(block)

    def merge(self, most: int | None = None) -> bool:
        """Merge partial results that wait, all or up to a number; return whether more wait."""
        count = len(self._parts) if most is None else min(most, len(self._parts))
        for _ in range(count):
            name, part = self._parts.popleft()
            self.images[name].merge(part)
        return bool(self._parts)

    def fold(self, below: int) -> None:
        """Fold the complete blocks below this number.

        A block whose partial results are not merged yet, and those after it, are not folded.
        """
        if self._parts:
            below = min(below, self._waiting_block)
        for images in self.images.values():
            images.advance(below * images.block_size)

    def snapshots(self) -> deque[tuple[str, ShotImages]]:
        """Return detectors and images, as they are now, for `results`."""
        return deque((name, images.snapshot()) for name, images in self.images.items())


def results(held: deque[tuple[str, ShotImages]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield detectors and results one by one; what is held for one is freed before the next.

    Those of eight tiles need 170 MB and a second, in which shots go on.
    """
    while held:
        name, images = held.popleft()
        yield name, images.result()
