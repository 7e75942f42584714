"""A picture of a grid: the atlas with its squares, and one square with its holes, by quality."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GridQuality:
    """What the catalog holds of a grid, for a picture.

    Parameters
    ----------
    name
        Of the session.
    squares
        (n, 2) centers on the atlas, px.
    square_share
        (n,) share of good micrographs of each square, NaN without results.
    square_count
        (n,) micrographs of each square.
    best
        Id of the square shown with its holes.
    holes
        (m, 2) places in that square's image, px.
    hole_share
        (m,) share of good micrographs of each hole.
    resolution
        (k,) CTF resolutions of all micrographs, angstrom.
    """

    name: str
    squares: NDArray[np.float64]
    square_share: NDArray[np.float64]
    square_count: NDArray[np.int64]
    best: str
    holes: NDArray[np.float64]
    hole_share: NDArray[np.float64]
    resolution: NDArray[np.float64]


def draw(found: GridQuality, path: Path, limit: float) -> Path:
    """Draw a grid into the PNG `path`; `limit` is the resolution in angstrom of a good one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    atlas, square, histogram = figure.subplots(1, 3)
    style: dict[str, Any] = {"cmap": "RdYlGn", "vmin": 0, "vmax": 1}
    seen = np.isfinite(found.square_share)
    atlas.scatter(*found.squares[~seen].T, s=260, marker="s", c="0.85", label="not imaged")
    shown = atlas.scatter(
        *found.squares[seen].T,
        s=260,
        marker="s",
        c=found.square_share[seen],
        edgecolor="k",
        **style,
    )
    for (x, y), count in zip(found.squares[seen], found.square_count[seen], strict=True):
        atlas.annotate(str(count), (x, y), ha="center", va="center", fontsize=8)
    atlas.set_title(f"{found.name}\natlas; numbers of micrographs", fontsize=8)
    atlas.set(xlabel="x (px)", ylabel="y (px)", aspect="equal")
    atlas.invert_yaxis()
    square.scatter(*found.holes.T, s=160, c=found.hole_share, edgecolor="k", **style)
    square.set(title=f"square {found.best}: holes", xlabel="x (px)", ylabel="y (px)")
    square.set_aspect("equal")
    square.invert_yaxis()
    figure.colorbar(shown, ax=[atlas, square], label="share of good micrographs")
    histogram.hist(found.resolution[np.isfinite(found.resolution)], bins=40, color="0.4")
    histogram.axvline(limit, color="r", label=f"good below {limit:g} Å")
    histogram.set(title="all micrographs", xlabel="CTF resolution (Å)", ylabel="micrographs")
    histogram.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path
