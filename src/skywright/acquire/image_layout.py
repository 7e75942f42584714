"""The layout of recordings of images, in areaDetector's HDF5 layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from skywright.acquire.layout import Layout
from skywright.files.areadetector import ImageWriter
from skywright.files.columns import Column


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image with its identity and time, ready to be recorded.

    Parameters
    ----------
    identity
        Frame number, pulse id or tag.
    time_ns
        Unix time, ns.
    image
        (H, W), or (H, W, 3) in color.
    extra
        Values of the layout's further columns, by path.
    """

    identity: int
    time_ns: int
    image: NDArray[Any]
    extra: Mapping[str, ArrayLike] = field(default_factory=dict)


@dataclass
class ImageLayout(Layout[Any, Image, ImageWriter]):
    """Writes images of the shape and type of the first one.

    A smaller image is stored in the upper left corner; the rest is 0. A larger one, or one with
    another number of colors, counts as ``wrong size``, one whose values the type cannot hold as
    ``wrong dtype``. To record other results, override `row_group` to return an `Image` or None.

    Parameters
    ----------
    name
        Name of what is recorded, in messages and causes of loss.
    identity
        Description of the identity, for the file.
    extra
        Further columns.
    """

    name: str = "images"
    identity: str = "frame number"
    extra: Sequence[Column] = ()
    at_once = 1  # `append` writes all or none, which holds for a single image only

    def row_group(self, result: Any) -> Image | None:
        """Return the result, which must be an `Image`; None: nothing is recorded."""
        image: Image = result
        return image

    def nbytes(self, group: Image) -> int:
        """Return the memory that an image holds."""
        return group.image.nbytes

    def open(self, path: Path, groups: Sequence[Image], must_create: bool) -> ImageWriter:
        """Create the file for the first image."""
        first = groups[0].image
        return ImageWriter(path, first.shape, first.dtype, self.identity, self.extra)

    def append(self, file: ImageWriter, groups: Sequence[Image]) -> Mapping[str, int]:
        """Write an image; count it as lost if it cannot be in this file."""
        (group,) = groups
        if cause := file.reason_to_reject(group.image):
            return {cause: 1}
        file.append(group.identity, group.image, group.time_ns, extra=group.extra)
        return {}
