"""Images over the shots of a run, as derived runs: merged by the IOC, and from stored frames.

Both have the same results. `RunningImages` takes them over from the file that the IOC writes while
shots come: there the partial results of its workers are merged, and nowhere else. `FrameImages`
computes them again from frames; where all of them are stored, it finds the same bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.files.columns import Column
from skywright.instruments.sacla.layouts import (
    IMAGE_COUNTS,
    IMAGE_KEYS,
    detector_counts,
    detector_key,
)
from skywright.instruments.sacla.measuring import read_measuring
from skywright.instruments.sacla.shot_images import ShotImages, State

DETECTORS_MAX = 16
PERIOD_S = 10.0
"""Time between two images on disk."""


def image_results(shapes: Sequence[tuple[int, ...]]) -> tuple[Column, ...]:
    """Return the results: counts of shots, and of each detector counts and `IMAGE_KEYS`."""
    counts = (
        Column("n_on", "<i8", attrs={"description": "with laser; largest of the detectors"}),
        Column("n_off", "<i8", attrs={"description": "without laser; largest of the detectors"}),
        *(Column(name, "<i8") for name in detector_counts(len(shapes))),
    )
    images = (
        Column(
            f"{detector_key(k)}_{key}",
            "<f4",
            tuple(shape),
            attrs={"units": "eV^2" if key == "var" else "eV"},
        )
        for k, shape in enumerate(shapes)
        for key in IMAGE_KEYS
    )
    return (*counts, *images)


class RunningImages(Analysis[Mapping[str, Any]]):
    """The newest running images of a run.

    The inputs are columns of the stream of running images.

    Parameters
    ----------
    measuring
        Of `describe_measuring`.
    """

    name, version = "sacla_images", "1"
    stream = "updates"
    inputs: ClassVar[Sequence[str]] = (*(f"image_{key}" for key in IMAGE_COUNTS), "image_d1_mean")
    optional: ClassVar[Sequence[str]] = tuple(
        f"image_{detector_key(k)}_{key}"
        for k in range(DETECTORS_MAX)
        for key in (*IMAGE_KEYS, *IMAGE_COUNTS)
        if (k, key) != (0, "mean")
    )
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"image_d1_mean": ArrayInput(2)}
    identity, time = "image_update", "image_time"
    array_period_s = PERIOD_S
    ordered, skips = True, False
    block_size = 1 << 40
    """One block, that holds the newest images only."""

    def __init__(self, measuring: Mapping[str, Any] | None = None) -> None:
        super().__init__(measuring=dict(measuring or {}))
        self._shapes = [tile.bad.shape for tile, _ in read_measuring(measuring or {})]
        self.results = image_results(self._shapes)  # type: ignore[misc]

    def extend(self, statistic: Mapping[str, Any] | None, members: Batch) -> Mapping[str, Any]:
        """Keep the newest images."""
        return {key.removeprefix("image_"): rows[-1].copy() for key, rows in members.data.items()}

    def fold(
        self, prefix: Mapping[str, Any] | None, statistic: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Keep the newest images."""
        return statistic

    def summarize(self, state: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the images; NaN before the first ones."""
        state = state or {}
        found: dict[str, Any] = {key: state.get(key, 0) for key in IMAGE_COUNTS}
        for k, shape in enumerate(self._shapes):
            for key in IMAGE_COUNTS:  # older runs have those of all detectors alone
                found[f"{detector_key(k)}_{key}"] = found[key]
            for key in IMAGE_KEYS:
                found[f"{detector_key(k)}_{key}"] = np.full(shape, np.nan)
        return {key: state.get(key, value) for key, value in found.items()}


class FrameImages(Analysis[tuple[State, ...]]):
    """Images over the analyzed shots whose frames are stored.

    The inputs are columns of the stream of frames. A shot that lacks the frame of a detector is in
    the images of the others, as when it came.

    Parameters
    ----------
    measuring
        Of `describe_measuring`.
    """

    name, version = "sacla_frame_images", "1"
    stream = "shots"
    inputs: ClassVar[Sequence[str]] = ("frame_accepted", "frame_laser_on", "frame_d1")
    optional: ClassVar[Sequence[str]] = (
        "frame_analyzed",
        *(f"frame_{detector_key(k)}" for k in range(1, DETECTORS_MAX)),
        *(f"frame_{detector_key(k)}_came" for k in range(DETECTORS_MAX)),
    )
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"frame_d1": ArrayInput(2)}
    identity, time = "frame_tag", "frame_time"
    array_period_s = PERIOD_S
    ordered, skips = True, False

    def __init__(self, measuring: Mapping[str, Any] | None = None) -> None:
        measuring = dict(measuring or {})
        super().__init__(measuring=measuring)
        self.block_size = int(measuring.get("block_tags", self.block_size))  # type: ignore[misc]
        self._detectors = [
            ShotImages(tile, rules, (), self.block_size)
            for tile, rules in read_measuring(measuring)
        ]
        shapes = [each.regions.tile.bad.shape for each in self._detectors]
        self.results = image_results(shapes)  # type: ignore[misc]

    def extend(self, statistic: tuple[State, ...] | None, members: Batch) -> tuple[State, ...]:
        """Add the analyzed shots, one after the other."""
        # Older runs have frames of whole shots alone.
        analyzed = members.data.get("frame_analyzed", members["frame_accepted"]) == 1
        laser_on = members["frame_laser_on"] == 1
        before = statistic or (None,) * len(self._detectors)
        found = []
        for k, (images, known) in enumerate(zip(self._detectors, before, strict=True)):
            key = f"frame_{detector_key(k)}"
            came = members.data.get(f"{key}_came")
            chosen = analyzed if came is None else analyzed & (came == 1)
            data = {"image": members[key][chosen], "laser_on": laser_on[chosen]}
            batch = Batch(members.identities[chosen], members.times[chosen], data)
            found.append(images.extend(known, batch))
        return tuple(found)

    def compact(self, statistic: tuple[State, ...]) -> tuple[State, ...]:
        """Keep mean and spread."""
        pairs = zip(self._detectors, statistic, strict=True)
        return tuple(images.compact(each) for images, each in pairs)

    def fold(
        self, prefix: tuple[State, ...] | None, statistic: tuple[State, ...]
    ) -> tuple[State, ...]:
        """Merge with the blocks before."""
        before = prefix or (None,) * len(self._detectors)
        triples = zip(self._detectors, before, statistic, strict=True)
        return tuple(images.fold(known, each) for images, known, each in triples)

    def summarize(self, state: tuple[State, ...] | None) -> Mapping[str, Any]:
        """Return the images; NaN at bad pixels, and where there are too few shots."""
        found: dict[str, Any] = dict.fromkeys(IMAGE_COUNTS, 0)
        states = state or (None,) * len(self._detectors)
        for k, (images, each) in enumerate(zip(self._detectors, states, strict=True)):
            of_detector = images.summarize(each)
            found |= {key: max(found[key], of_detector[key]) for key in IMAGE_COUNTS}
            keys = (*IMAGE_KEYS, *IMAGE_COUNTS)
            found |= {f"{detector_key(k)}_{key}": of_detector[key] for key in keys}
        return found
