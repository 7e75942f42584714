"""The JSON report of stored or running shots, format "skywright-sacla-replay", version 1."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.tile import Rings
from skywright.instruments.sacla.values import format_number

FORMAT, VERSION = "skywright-sacla-replay", 1
BINS_MAX = 100_000
"""More bins than that are a mistake, and would take all memory."""


@dataclass(frozen=True, eq=False)
class Report:
    """What was found.

    Parameters
    ----------
    values
        JSON values; what is missing is None.
    images
        (rows, columns) by ``DETECTOR/mean``, ``mean_on``, ``mean_off`` (eV) and ``var`` (eV^2).
    """

    values: dict[str, Any]
    images: dict[str, NDArray[np.float64]]

    def lines(self) -> list[str]:
        """Return the counts, and the curve of each region, as text for people."""
        lines = [f"{key:16} {value}" for key, value in self.values["counts"].items()]
        edges = self.values["bins"]["edges"]
        title = self.values["bins"].get("binned_by", "bin, ps")
        for name, region in self.values["rois"].items():
            pixels = f"{region['npixels']} pixels of {region['detector']}"
            lines += ["", f"{name}: {pixels}, sum / I0, eV/V"]
            titles = (title, "n on", "on", "n off", "off", "on - off", "error")
            lines.append("".join(f"{title:>16}" for title in titles))
            on, off = region["on"], region["off"]
            for k, low in enumerate(edges[:-1]):
                found = (on["mean"][k], off["mean"][k], region["diff"][k], region["diff_sem"][k])
                means = ["-" if value is None else f"{value:.6g}" for value in found]
                row = (f"{low:.4g}..{edges[k + 1]:.4g}", on["n"][k], means[0], off["n"][k])
                lines.append("".join(f"{text:>16}" for text in (*row, *means[1:])))
        return lines

    def save_images(self, path: Path) -> None:
        """Write the images as NPZ.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        try:
            with path.open("wb") as file:
                np.savez(file, **self.images)  # type: ignore[arg-type]
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def check_writable(path: Path) -> None:
    """Raise before the analysis what `Report.save_images` would raise after it.

    Raises
    ------
    ConfigError
        If the directory of the file does not exist, or the file is a directory.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written (no directory {path.parent})")
    if path.is_dir():
        raise ConfigError(f"{path}: cannot be written (is a directory)")


def parse_bins(text: str, most: int = BINS_MAX) -> NDArray[np.float64]:
    """Read ``START:STOP:N`` and return the N + 1 edges.

    Raises
    ------
    ConfigError
        If the text has another form, the bins are empty, or there are more than `most`; or if
        their edges are not different finite numbers.
    """
    try:
        start, stop, count = text.split(":")
        low, high, number = float(start), float(stop), int(count)
    except ValueError:
        raise ConfigError(f"bins {text!r}: expected START:STOP:N") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and number >= 1):
        raise ConfigError(f"bins {text!r}: expected START < STOP and N >= 1")
    if number > most:
        raise ConfigError(f"bins {text!r}: expected N <= {most}")
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, number + 1)
        if not (np.diff(edges) > 0).all():
            raise ConfigError(
                f"bins {text!r}: they are too narrow or too wide for floating-point numbers"
            )
    return edges


def format_bins(edges: NDArray[np.float64]) -> str:
    """Return edges of equal bins as `parse_bins` reads them."""
    return f"{format_number(edges[0])}:{format_number(edges[-1])}:{len(edges) - 1}"


def make_report(pipeline: ShotPipeline, wall_s: float, workers: int) -> Report:
    """Report what a pipeline has found so far."""
    images = {
        f"{name}/{key}": image
        for name, analysis in pipeline.images.items()
        for key, image in analysis.result().items()
        if key in ("mean", "mean_on", "mean_off", "var")
    }
    bins: dict[str, Any] = {"edges": pipeline.edges.tolist()}
    if pipeline.binned_by != "delay":  # the contract has no other value, and no key for it
        bins["binned_by"] = pipeline.binned_by
    values = {
        "format": FORMAT,
        "version": VERSION,
        "run": pipeline.info.run,
        "counts": pipeline.counts,
        "bins": bins,
        "rois": _regions(pipeline),
        "radial": {name: _radial(pipeline, name, images) for name in pipeline.info.tiles},
        "perf": {"wall_s": wall_s, "frames_per_s": pipeline.frames / wall_s, "workers": workers},
    }
    return Report(values, images)


def _regions(pipeline: ShotPipeline) -> dict[str, Any]:
    curves, rows = pipeline.curves.result(), pipeline.all_rows()
    report = {}
    for k, region in enumerate(pipeline.regions):
        analysis = pipeline.images[region.detector].regions
        sums = rows["sum_ev"][:, k]
        with np.errstate(divide="ignore", invalid="ignore"):
            norm = sums / rows["i0"]
        report[region.name] = {
            "detector": region.detector,
            "npixels": analysis.npixels[analysis.regions.index(region)],
            "tags": rows["tag"].tolist(),
            "sum_ev": _numbers(sums),
            "photons": rows["photons"][:, k].tolist(),
            "norm": _numbers(norm),
            "photon_hist": np.maximum(curves["photon_hist"][k], 0).tolist(),
            **{
                side: {
                    "n": curves[f"{side}_n"][k].tolist(),
                    "mean": _numbers(curves[f"{side}_mean"][k]),
                    "sem": _numbers(curves[f"{side}_sem"][k]),
                }
                for side in ("on", "off")
            },
            "diff": _numbers(curves["diff"][k]),
            "diff_sem": _numbers(curves["diff_sem"][k]),
            "corr_i0_off": {
                "n": int(curves["off_n_i0"][k]),
                **{key: _numbers(curves[key])[k] for key in ("slope", "intercept", "r")},
            },
        }
    return report


def _radial(
    pipeline: ShotPipeline, name: str, images: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    rules = pipeline.info.pixel_rules
    bad = pipeline.info.tiles[name].bad
    rings = Rings(bad, rules.radial_cx, rules.radial_cy, rules.radial_dr)
    keys = {"all": "mean", "on": "mean_on", "off": "mean_off"}
    profiles = {
        key: _numbers(rings.profile(images[f"{name}/{image}"].ravel()))
        for key, image in keys.items()
    }
    return {"count": rings.count.tolist(), **profiles}


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
