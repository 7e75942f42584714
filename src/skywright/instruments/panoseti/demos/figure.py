"""A picture of an observing run: each module's sky, and the pulse heights with their candidates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Observed:
    """What the catalog holds of a run, for a picture.

    Parameters
    ----------
    title
        Of the picture.
    modules
        Numbers of the modules.
    means
        (M, 32, 32) mean movie image of each, counts.
    seconds
        (N,) of the pulse-height events since the first one.
    largest
        (N,) their brightest pixel, ADC.
    module
        (N,) module of each.
    candidate_seconds, candidate_largest
        (C,) of the candidates.
    brightest
        (B, 16, 16) frames of the brightest candidate, one a module.
    threshold_adc
        Events above it count.
    """

    title: str
    modules: list[int]
    means: NDArray[np.float64]
    seconds: NDArray[np.float64]
    largest: NDArray[np.int64]
    module: NDArray[np.int64]
    candidate_seconds: NDArray[np.float64]
    candidate_largest: NDArray[np.int64]
    brightest: list[tuple[str, NDArray[np.int16]]]
    threshold_adc: float


def draw(found: Observed, path: Path) -> Path:
    """Draw a run into the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 9), layout="constrained")
    figure.suptitle(found.title)
    grid = figure.add_gridspec(3, max(4, len(found.modules)), height_ratios=(1.2, 1, 1.2))
    low, high = np.nanpercentile(found.means, (1, 99)) if len(found.means) else (0, 1)
    skies = []
    for index, (module, mean) in enumerate(zip(found.modules, found.means, strict=True)):
        axes = figure.add_subplot(grid[0, index])
        shown = axes.imshow(mean, cmap="viridis", vmin=low, vmax=high)
        axes.set(title=f"module {module}: mean movie", xlabel="column", ylabel="row")
        skies.append(axes)
    if skies:
        figure.colorbar(shown, ax=skies, label="counts per frame")
    events = figure.add_subplot(grid[1, :])
    for module in found.modules:
        rows = found.module == module
        events.plot(found.seconds[rows], found.largest[rows], ".", ms=3, label=f"module {module}")
    events.plot(
        found.candidate_seconds, found.candidate_largest, "o", ms=9, mfc="none", mec="k",
        label=f"{len(found.candidate_seconds)} flash candidates",
    )  # fmt: skip
    events.axhline(found.threshold_adc, color="0.5", ls="--", lw=1)
    events.set(xlabel="time (s)", ylabel="brightest pixel (ADC)", title="pulse heights")
    events.legend(fontsize=8, ncols=6, loc="upper right")
    frames = []
    for index, (title, image) in enumerate(found.brightest[:4]):
        axes = figure.add_subplot(grid[2, index])
        shown = axes.imshow(image, cmap="plasma")
        axes.set_title(title, fontsize=9)
        frames.append(axes)
    if frames:
        figure.colorbar(shown, ax=frames, label="brightest candidate (ADC)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path
