"""What can be seen of shots, by reading alone: nothing is put."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from ophyd import EpicsSignalRO

from devices.facts import FactsView, text_of
from skywright.instruments.sacla.shots import COUNTS, CURVES

Floats = NDArray[np.float64]
RECENT = ("tag", "i0", "delay", "laser_on", "sum")
IMAGE = ("sequence", "rows", "columns", "step", "shots", "pixels", "cx", "cy")
TRIES = 3
"""Attempts to read arrays that belong together while the IOC posts new ones."""


@dataclass(frozen=True, eq=False)
class ShotFacts:
    """What the IOC shows at one moment.

    Attributes
    ----------
    run, tag, rate, lost
        Run of the facility, newest low tag, shots per second, records and shots lost.
    message
        For people.
    regions, regions_number
        As text, and the number that grows with each change.
    detectors
        Ids.
    binned_by
        What `edges` are of.
    counts
        Shots by reason, since the start of the IOC.
    edges : (bins + 1,)
        Edges of the bins, in the unit of the binned value; ps for a delay.
    curves
        (regions, bins) by `CURVES`.
    photon_hist : (regions, 8)
    hit_rate : (regions,)
    recent
        (n,) by `RECENT`, oldest first.
    shown_region
        Name of the region that ``recent["sum"]`` is over.
    image : (rows, columns) float32
        Thinned mean image, eV; empty before the first.
    shown_detector
        Id of the detector of the image.
    center
        x and y of the rings of the radial profile, pixels; NaN where it is not known.
    step
        Pixels of the detector along a side of one of the image.
    image_shots
        Shots in the image.
    """

    run: Annotated[int, "Run_RBV"] = 0
    tag: Annotated[float, "Tag_RBV"] = -1.0
    rate: Annotated[float, "Rate_RBV"] = 0.0
    lost: Annotated[float, "Lost_RBV"] = 0.0
    message: Annotated[str, "Message_RBV"] = ""
    regions: Annotated[str, "Regions_RBV"] = ""
    regions_number: Annotated[int, "RegionsNumber_RBV"] = 0
    detectors: Annotated[str, "Detectors_RBV"] = ""
    binned_by: Annotated[str, "BinnedBy_RBV"] = "delay"
    counts: Mapping[str, int] = field(default_factory=dict)
    edges: Floats = field(default_factory=lambda: np.zeros(1))
    curves: Mapping[str, Floats] = field(default_factory=dict)
    photon_hist: Floats = field(default_factory=lambda: np.zeros((0, 8)))
    hit_rate: Floats = field(default_factory=lambda: np.zeros(0))
    recent: Mapping[str, Floats] = field(default_factory=dict)
    shown_region: str = ""
    image: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    shown_detector: str = ""
    center: tuple[float, float] = (np.nan, np.nan)
    step: int = 1
    image_shots: int = 0


class ShotView(FactsView[ShotFacts]):
    """Counts, curves, recent shots and the mean image.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, ShotFacts, timeout_s=3.0)

        def signals(group: str, *keys: str) -> dict[str, EpicsSignalRO]:
            return {key: self.signal(f"{group}:{key}_RBV") for key in keys}

        self._counts = signals("Count", *COUNTS)
        self._curves = signals("Curve", "sequence", "edges", "photon_hist", "hit_rate", *CURVES)
        self._recent = signals("Recent", "sequence", *RECENT)
        self._recent["region"] = self.signal("Recent:region_RBV", string=True)
        self._mean = signals("Mean", *IMAGE)
        self._mean["detector"] = self.signal("Mean:detector_RBV", string=True)

    def facts(self, **more: Any) -> ShotFacts:
        """Read what the IOC shows; see `FactsView.facts`."""
        curves, recent, mean = map(self._read_together, (self._curves, self._recent, self._mean))
        edges = np.atleast_1d(np.asarray(curves["edges"], float))
        return super().facts(
            counts={key: int(self.get(signal)) for key, signal in self._counts.items()},
            edges=edges,
            curves={key: _rows(curves[key], len(edges) - 1) for key in CURVES},
            photon_hist=_rows(curves["photon_hist"], 8),
            hit_rate=np.atleast_1d(np.asarray(curves["hit_rate"], float)),
            recent=_columns({key: recent[key] for key in RECENT}),
            image=_image(mean),
            shown_region=text_of(recent["region"]),
            center=(float(mean["cx"]), float(mean["cy"])),
            shown_detector=text_of(mean["detector"]),
            step=int(mean["step"]),
            image_shots=int(mean["shots"]),
            **more,
        )

    def _read_together(self, signals: Mapping[str, EpicsSignalRO]) -> dict[str, Any]:
        """Read arrays that were posted together, without their sequence, which is posted last."""
        arrays = {key: signal for key, signal in signals.items() if key != "sequence"}
        for _ in range(TRIES):
            before = self.get(signals["sequence"])
            values = {key: self.get(signal) for key, signal in arrays.items()}
            if self.get(signals["sequence"]) == before:
                break
        return values


def _rows(values: Any, length: int) -> Floats:
    """Return an array of rows; none when it does not fit."""
    flat = np.atleast_1d(np.asarray(values, float))
    return flat.reshape(-1, length) if length > 0 and len(flat) % length == 0 else np.zeros((0, 0))


def _columns(values: Mapping[str, Any]) -> dict[str, Floats]:
    columns = {key: np.atleast_1d(np.asarray(value, float)) for key, value in values.items()}
    shortest = min(len(column) for column in columns.values())
    columns = {key: column[-shortest:] for key, column in columns.items()}
    good = np.isfinite(columns["tag"])
    return {key: column[good] for key, column in columns.items()}


def _image(mean: Mapping[str, Any]) -> NDArray[np.float32]:
    rows, columns = int(mean["rows"]), int(mean["columns"])
    pixels = np.atleast_1d(np.asarray(mean["pixels"], np.float32))
    return pixels.reshape(rows, columns) if rows * columns == len(pixels) else pixels[:0, None]
