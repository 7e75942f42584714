"""PVs that show shots: counts, curves, recent values, thinned images."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from caproto import ChannelType
from caproto.server import PVGroup
from numpy.typing import NDArray

from iocs.areadetector import readback
from iocs.common import post
from skywright.instruments.sacla.layouts import REGIONS_MAX
from skywright.instruments.sacla.mean_images import thinned
from skywright.instruments.sacla.owner import RECENT, Recent
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.shots import COUNTS, CURVES

BINS_MAX = 400
IMAGE_PIXELS = 65_535
"""Most pixels of an image on a PV: by default, pyepics monitors shorter arrays only."""
OF_REGIONS = ("hit_rate", "hit_rate_sem")
"""Keys of `ShotCurves` with a number for each region."""


def doubles(most: int, name: str) -> Any:
    """Return a PV of up to `most` numbers that clients only read."""
    return readback([0.0], ChannelType.DOUBLE, max_length=most, name=name)


def _count_class() -> type[PVGroup]:
    parts: dict[str, Any] = {key: readback(0.0, precision=0, name=f"{key}_RBV") for key in COUNTS}
    parts["__doc__"] = "Records and shots since the start of the process, by reason."
    return type("CountPVs", (PVGroup,), parts)


CountPVs = _count_class()


async def post_counts(group: PVGroup, counts: Mapping[str, int]) -> None:
    """Post counts by reason."""
    for key in COUNTS:
        await post(getattr(group, key), float(counts[key]))


def _curve_class() -> type[PVGroup]:
    parts: dict[str, Any] = {key: doubles(REGIONS_MAX * BINS_MAX, f"{key}_RBV") for key in CURVES}
    parts["edges"] = doubles(BINS_MAX + 1, "edges_RBV")
    parts["photon_hist"] = doubles(REGIONS_MAX * HISTOGRAM_BINS, "photon_hist_RBV")
    parts |= {key: doubles(REGIONS_MAX, f"{key}_RBV") for key in OF_REGIONS}
    parts["sequence"] = readback(0.0, precision=0, name="sequence_RBV")
    parts["__doc__"] = (
        "Curves against the delay, (regions, bins) as one row; `sequence` is posted last."
    )
    return type("CurvePVs", (PVGroup,), parts)


CurvePVs = _curve_class()


async def post_curves(
    group: PVGroup, edges: NDArray[np.float64], curves: Mapping[str, Any]
) -> None:
    """Post the results of `ShotCurves`."""
    await write(group.edges, edges)
    for key in (*CURVES, *OF_REGIONS, "photon_hist"):
        await write(getattr(group, key), np.asarray(curves[key], float).ravel())
    await post(group.sequence, group.sequence.value + 1.0)


class RecentPVs(PVGroup):
    """The newest analyzed shots, oldest first; `sequence` is posted last."""

    tag = doubles(RECENT, "tag_RBV")
    i0 = doubles(RECENT, "i0_RBV")
    delay = doubles(RECENT, "delay_RBV")
    laser_on = doubles(RECENT, "laser_on_RBV")
    sum = doubles(RECENT, "sum_RBV")
    region = readback("", ChannelType.CHAR, max_length=256, name="region_RBV")
    sequence = readback(0.0, precision=0, name="sequence_RBV")


async def post_recent(group: RecentPVs, recent: Iterable[Recent], place: int, region: str) -> None:
    """Post the values of some shots, and their sums over the region at a place of the set."""
    shots = list(recent)
    for key in ("tag", "i0", "delay", "laser_on"):
        await write(getattr(group, key), np.array([getattr(shot, key) for shot in shots], float))
    nan = float("nan")
    sums = [shot.sums[place] if place < len(shot.sums) else nan for shot in shots]
    await write(group.sum, np.array(sums))
    await post(group.region, region)
    await post(group.sequence, group.sequence.value + 1.0)


class ImagePVs(PVGroup):
    """A thinned image of one detector, eV or ADU; `sequence` is posted last."""

    detector = readback("", ChannelType.CHAR, max_length=256, name="detector_RBV")
    cx = readback(float("nan"), precision=2, units="px", name="cx_RBV")
    cy = readback(float("nan"), precision=2, units="px", name="cy_RBV")
    pixels = readback([0.0], ChannelType.FLOAT, max_length=IMAGE_PIXELS, name="pixels_RBV")
    rows = readback(0, name="rows_RBV")
    columns = readback(0, name="columns_RBV")
    step = readback(1, name="step_RBV")
    shots = readback(0.0, precision=0, name="shots_RBV")
    sequence = readback(0.0, precision=0, name="sequence_RBV")


async def post_image(group: ImagePVs, image: NDArray[Any], shots: int, detector: str) -> None:
    """Post an image of a detector, each pixel the mean of step * step pixels."""
    step = thinning(image.shape)
    thin = await asyncio.to_thread(thinned, image, step)
    await post(group.detector, detector)
    await post(group.rows, thin.shape[0])
    await post(group.columns, thin.shape[1])
    await post(group.step, step)
    await post(group.shots, float(shots))
    await write(group.pixels, thin.ravel())
    await post(group.sequence, group.sequence.value + 1.0)


def thinning(shape: tuple[int, ...]) -> int:
    """Return the step with which an image fits its PV."""
    step = 1
    while (shape[0] // step) * (shape[1] // step) > IMAGE_PIXELS:
        step += 1
    return step


async def write(channel: Any, values: NDArray[Any]) -> None:
    """Write an array; an empty one as one NaN, which Channel Access can carry."""
    await channel.write(values.tolist() if len(values) else [float("nan")], verify_value=False)
