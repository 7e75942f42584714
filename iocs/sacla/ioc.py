"""IOC of shots of a free-electron laser, joined by tag and analyzed while they come.

Shots are taken while `TakeShots` is Run, and during a recording. Stop does not end a recording.

`HDF1:` records every shot: its row, the regions of interest that hold, running images, and the
frames of one in `FramesEvery` shots that have any. A new run of the facility opens new files;
`Files_RBV` has, as JSON, the file of rows of each run and how many rows, region sets, images and
frames came before it.
`Regions` are polygons ``NAME:DETECTOR:x,y;x,y;...`` or masks ``NAME:DETECTOR:mask=FILE``, with
blanks between them; they hold from the next shot on. The IOC reads the file of a mask when it is
put, and records the mask itself. `Curve:`, `Recent:`, `Mean:` and `Newest:` are for display.
`delay` is the motor record of the simulated delay stage, ps. `--list-pvs` prints all names.

    python -m iocs.sacla --source sim --seed 3
    python -m iocs.sacla --source replay --file run501.h5
    python -m iocs.sacla --source sacla --beamline 3 --online beamtime.toml
"""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from caproto import ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import checked, choice, long_text, number, readback
from iocs.common import alarm_if, argument_parser, in_order, post, post_pair, run
from iocs.motor_record import MotorRecord
from iocs.owner import OwnerGroup
from iocs.recording import RowsPlugin
from iocs.sacla import pvs
from skywright.acquire.simulated_axis import MotorsClock, SimulatedAxis
from skywright.errors import ConfigError
from skywright.instruments.sacla import cli_sources
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.layouts import REGIONS_MAX, check_room
from skywright.instruments.sacla.owner import IMAGE_PERIOD_S, ShotOwner
from skywright.instruments.sacla.pipeline import check_have_pixels
from skywright.instruments.sacla.regions import Region, format_region, parse_region
from skywright.instruments.sacla.replay_file import LONGEST_SIDE
from skywright.instruments.sacla.report import format_bins, parse_bins
from skywright.instruments.sacla.run_images import DETECTORS_MAX
from skywright.instruments.sacla.shot_curves import parse_hits
from skywright.instruments.sacla.shots import BINNED_BY
from skywright.instruments.sacla.sources import ShotSource
from skywright.instruments.sacla.stored_frame import pixels_of
from skywright.processes.memory import return_large_arrays
from skywright.processes.options import add_number, positive_number

POST_PAUSE_S = 0.085
"""Pause between two updates of counts and curves, s; with the time of the posts, ten a second."""
DISPLAY_PERIOD_S = 1.0
"""Time between two updates of images and of recent shots, s."""
BLOCK_WAIT_S = 0.5
"""Longest time that an update of images waits for the next block of shots, s."""
RUN = ["Stop", "Run"]
FRAMES_EVERY_MAX = 1_000_000
REGIONS_TEXT = 16_384
MEASURING_TEXT = 1 << 20
"""Most of it are the bad pixels of eight tiles, compressed: 265,037 characters at 5 % of them."""
STAGE = {
    "DESC": "Delay stage", "EGU": "ps", "PREC": 3, "MRES": 1e-3,
    "DLLM": -50.0, "DHLM": 50.0, "VELO": 20.0, "VMAX": 50.0, "ACCL": 0.05,
}  # fmt: skip


class ShotsPlugin(RowsPlugin):
    """The file plugin that opens and closes the four files of a recording."""

    parent: "SaclaIOC"

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Record every shot from now on."""
        return self.parent.shots.start_recording(path, count)

    def stop_capture(self) -> None:
        """Close the files."""
        self.parent.shots.stop_recording()

    @property
    def is_capturing(self) -> bool:
        """Whether the files are open."""
        return self.parent.shots.is_recording


@in_order
async def _put_regions(obj: Any, instance: Any, text: str) -> str:
    regions = await obj.parent.in_thread(  # reads the files of masks
        lambda: [parse_region(each) for each in text.split()]
    )
    await obj.parent.in_thread(obj.parent.shots.change_regions, regions)
    written = format_regions(regions)
    await obj.readback.write(written)
    await post(obj.parent.regions_number, obj.parent.shots.source.region_set.number)
    return written


@in_order
async def _put_bins(obj: Any, instance: Any, text: str) -> None:
    edges = parse_bins(text, pvs.BINS_MAX)
    await obj.parent.in_thread(obj.parent.shots.source.change_bins, edges)
    await obj.readback.write(text)


@in_order
async def _put_binned_by(obj: Any, instance: Any, value: int) -> None:
    source = obj.parent.shots.source
    await obj.parent.in_thread(source.change_bins, None, BINNED_BY[value])
    await obj.readback.write(BINNED_BY[value])


@in_order
async def _put_run(obj: Any, instance: Any, value: int) -> None:
    owner = obj.parent.shots.owner
    await obj.parent.in_thread(owner.start if value else owner.stop_if_unused)
    await obj.readback.write(RUN[owner.is_started])  # a recording goes on after Stop


async def _put_reset(obj: Any, instance: Any, value: int) -> int:
    if value:
        await obj.parent.in_thread(obj.parent.shots.reset)
    return 0


async def _put_every(obj: Any, instance: Any, value: int) -> None:
    if not 0 <= value <= FRAMES_EVERY_MAX:
        raise ValueError(f"{value}, expected 0 to {FRAMES_EVERY_MAX}")
    obj.parent.shots.frames_every = int(value)
    await obj.readback.write(int(value))


def format_regions(regions: Sequence[Region]) -> str:
    """Return regions as `Regions` has them."""
    return " ".join(format_region(region) for region in regions)


TRUTH = ("effect", "width_ps", "jitter_ps", "timing_noise_ps", "i0_noise", "charge_spread_px")
"""Settings of the twin, and PVs of `Sim`."""


class Sim(PVGroup):
    """What the simulator knows to be true, for scoring only."""

    effect = readback(float("nan"), precision=4, name="Effect_RBV")
    width_ps = readback(float("nan"), precision=4, units="ps", name="Width_RBV")
    jitter_ps = readback(float("nan"), precision=4, units="ps", name="Jitter_RBV")
    timing_noise_ps = readback(float("nan"), precision=4, units="ps", name="TimingNoise_RBV")
    i0_noise = readback(float("nan"), precision=4, name="I0Noise_RBV")
    charge_spread_px = readback(float("nan"), precision=4, units="px", name="ChargeSpread_RBV")


class SaclaIOC(OwnerGroup):
    """All PVs, over one owner."""

    source_name = readback("", ChannelType.STRING, name="Source_RBV")
    run_number = readback(0, name="Run_RBV")
    high_tag = readback(0, name="HighTag_RBV")
    tag = readback(-1.0, precision=0, name="Tag_RBV")
    next_identity = readback(0.0, precision=0, name="NextTag_RBV")
    take_shots = choice(RUN, put=_put_run, name="TakeShots")
    rate = readback(0.0, precision=2, units="Hz", name="Rate_RBV")
    lost = readback(0.0, precision=0, name="Lost_RBV")
    message = readback("", ChannelType.CHAR, max_length=1024, name="Message_RBV")
    detectors = readback("", ChannelType.CHAR, max_length=1024, name="Detectors_RBV")
    shapes = readback([0], ChannelType.LONG, max_length=2 * DETECTORS_MAX, name="Shapes_RBV")
    profile_rings = readback(
        [0], ChannelType.LONG, max_length=DETECTORS_MAX, name="ProfileRings_RBV"
    )
    measuring = readback("", ChannelType.CHAR, max_length=MEASURING_TEXT, name="Measuring_RBV")
    regions = long_text(put=_put_regions, max_length=REGIONS_TEXT, name="Regions")
    regions_number = readback(0, name="RegionsNumber_RBV")
    bins = long_text(put=_put_bins, max_length=256, name="Bins")
    binned_by = choice(list(BINNED_BY), put=_put_binned_by, name="BinnedBy")
    mask_bytes = readback(0, name="MaskBytes_RBV")
    hits = readback("", ChannelType.STRING, name="Hits_RBV")
    reset = choice(["Done", "Reset"], put=_put_reset, name="Reset")
    frames_every = number(0, _put_every, name="FramesEvery")
    shown_detector = number(0, checked(0, DETECTORS_MAX - 1), name="ShownDetector")
    shown_region = number(0, checked(0, REGIONS_MAX - 1), name="ShownRegion")
    files = readback("[]", ChannelType.CHAR, max_length=16_384, name="Files_RBV")
    region_rows = readback(0, name="RegionRows_RBV")
    image_rows = readback(0, name="ImageRows_RBV")
    frame_rows = readback(0, name="FrameRows_RBV")
    counts = SubGroup(pvs.CountPVs, prefix="Count:")
    curve = SubGroup(pvs.CurvePVs, prefix="Curve:")
    recent = SubGroup(pvs.RecentPVs, prefix="Recent:")
    mean = SubGroup(pvs.ImagePVs, prefix="Mean:")
    newest = SubGroup(pvs.ImagePVs, prefix="Newest:")
    recording = SubGroup(ShotsPlugin, prefix="HDF1:")
    delay = SubGroup(MotorRecord, prefix="delay")
    sim = SubGroup(Sim, prefix="SIM:")

    shots: ShotOwner
    """Set before the IOC serves."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.auto_start = False
        self.truth: Any = None
        """Settings of the twin; None: nothing is simulated."""
        self._measured_run: Any = None
        """`RunInfo` of the run that the PV `measuring` describes."""

    async def prepare(self, axis: SimulatedAxis, speed: float) -> None:
        """Attach the delay stage, before anybody sees its record."""

        async def commanded() -> None:
            """Do nothing: the twin asks the axis for its position."""

        clock = MotorsClock(epoch=time.time())
        await self.delay.attach(axis, STAGE, lambda: clock, commanded, speed)

    async def serving(self) -> None:
        """Take shots and post them until the end."""
        await self._post_fixed()
        if self.auto_start:
            await self.in_thread(self.shots.owner.start)
        await asyncio.gather(
            self._post_forever(POST_PAUSE_S, 0.5), self._display_forever(), self.delay.serve()
        )

    def close(self) -> None:
        """Close files, workers and source."""
        self.shots.close()

    async def _post_fixed(self) -> None:
        source = self.shots.source
        await post(self.source_name, source.name)
        await self.regions.readback.write(format_regions(source.region_set.regions))
        await self.bins.readback.write(format_bins(source.edges))
        await post(self.hits, ":".join(map(str, source.hits)))
        await post(self.frames_every.readback, self.shots.frames_every)
        for name in TRUTH if self.truth is not None else ():
            await post(getattr(self.sim, name), getattr(self.truth, name))

    async def _post(self) -> None:
        shots = self.shots
        state = shots.state()
        info = shots.source.info
        await post(self.run_number, info.run)
        await post(self.high_tag, info.hightag)
        # A run may change the shape of a detector; its rings follow a moment after `info`.
        for channel, values in (
            (self.shapes, np.ravel(list(info.shapes.values())).astype(int)),
            (self.profile_rings, np.array([*shots.source.rings.values()] or [0])),
        ):
            if not np.array_equal(channel.value, values):
                await pvs.write(channel, values)
        await post(self.detectors, ",".join(info.tiles))
        if info is not self._measured_run:
            self._measured_run = info
            await post(self.measuring, json.dumps(shots.source.measuring))
        if state.newest is not None:
            await post(self.tag, float(state.newest.tag))
        await post_pair(self.take_shots, int(state.running))
        await post(self.next_identity, float(shots.source.next_identity))
        region_set = shots.source.region_set
        if region_set.number != self.regions_number.value:  # a run may change the set too
            await self.regions.readback.write(format_regions(region_set.regions))
        await post(self.regions_number, region_set.number)
        lost = sum(state.lost.values())
        await post(self.lost, float(lost), alarm_if(lost))
        await self.post_message(state.message, alarm_if(state.alarm))
        # Files are posted before the number of rows: a client that knows of a row finds its file.
        # `capturing` is read before the number of rows: when it is False, that number is final.
        capturing = shots.is_recording
        parts, (rows, region_sets, images, frames) = shots.progress()
        await post(self.files, json.dumps(parts))
        await post(self.mask_bytes, shots.mask_bytes)
        await post(self.region_rows, region_sets)
        await post(self.image_rows, images)
        await post(self.frame_rows, frames)
        lost_rows = sum(shots.rows.lost.values())
        await self.recording.post_recording(rows, lost_rows, capturing, shots.error)

    async def _after_post(self) -> None:
        source = self.shots.source
        await pvs.post_counts(self.counts, await self.in_thread(source.counts))
        edges, curves = await self.in_thread(lambda: (source.edges, source.curves()))
        if len(curves["on_n"]) and curves["on_n"].shape[1] == len(edges) - 1:
            await pvs.post_curves(self.curve, edges, curves)

    async def _display_forever(self) -> None:
        """Post images and recent shots, in a task of its own, so that no curve waits for them.

        They are posted once per `DISPLAY_PERIOD_S`. An image changes with each block of shots, and
        a block of an octal takes a little more than a second. So the task waits for the next block,
        at most `BLOCK_WAIT_S`. An image that has not changed for a second is posted as soon as it
        changes, and the first image of a recording at once.
        """
        loop = asyncio.get_running_loop()
        shots, changed = 0, loop.time()
        while True:
            begun, count = loop.time(), await self.in_thread(self._shots_in_image)
            if count != shots:
                shots, changed = count, begun
            await self._run_guarded(self._post_display)
            await asyncio.sleep(POST_PAUSE_S)
            while loop.time() < begun + DISPLAY_PERIOD_S + BLOCK_WAIT_S:
                is_due = loop.time() >= changed + DISPLAY_PERIOD_S or not shots
                if is_due and await self.in_thread(self._shots_in_image) != shots:
                    break
                await asyncio.sleep(POST_PAUSE_S)

    def _shots_in_image(self) -> int:
        name = self._displayed_detector()
        return self.shots.source.shots_in_image(name) if name is not None else 0

    def _displayed_detector(self) -> str | None:
        """Return the detector whose images are displayed; None: there is none."""
        names = list(self.shots.shapes)
        return names[min(self.shown_detector.readback.value, len(names) - 1)] if names else None

    async def _post_display(self) -> None:
        await post(self.rate, round(self.shots.rate_hz, 2))
        regions, recent = self.shots.recent_shots()
        place = max(min(self.shown_region.readback.value, len(regions) - 1), 0)
        name = regions[place].name if regions else ""
        await pvs.post_recent(self.recent, recent, place, name)
        await self._post_images()

    async def _post_images(self) -> None:
        shots = self.shots
        name = self._displayed_detector()
        if name is None:
            return
        await post(self.mean.cx, shots.source.info.pixel_rules.radial_cx)
        await post(self.mean.cy, shots.source.info.pixel_rules.radial_cy)
        newest = shots.newest_frames.get(name)
        if newest is not None:
            frame = await self.in_thread(pixels_of, newest)
            await pvs.post_image(self.newest, frame, 1, name)
        mean, count = await self.in_thread(shots.source.mean_image, name)
        if count:
            await pvs.post_image(self.mean, mean, count, name)
        elif not self.mean.sequence.value:  # regions are drawn before there is an image
            await post(self.mean.detector, name)


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Make the IOC of the arguments, and what its ready line says."""
    group = SaclaIOC(args.prefix)
    if args.list_pvs:
        return group, {}
    axis = SimulatedAxis()
    source, truth = _make_source(args, axis)
    check_detectors(source.name, len(source.info.tiles))
    regions = [parse_region(each) for each in args.roi or []]
    for region in regions:  # `Regions` has blanks between regions
        if any(letter.isspace() for letter in region.name):
            raise ConfigError(f"ROI {region.name!r}: expected a name without blanks")
    if not regions:
        regions = [whole_tile(source)]
    check_room(regions)
    check_have_pixels(regions, source.info)
    analyzed = AnalyzedShots(
        source,
        regions,
        parse_bins(args.bins, pvs.BINS_MAX),
        args.window,
        args.workers,
        args.profiles,
        parse_hits(args.hits),
    )
    group.shots = ShotOwner(
        analyzed,
        group.wake_posting,
        args.frames_every,
        round(args.frames_gb * 1e9),
        args.image_period,
    )
    group.truth = truth
    group.auto_start = args.auto_start or args.source == "sacla"
    asyncio.run(group.prepare(axis, args.speed))
    if args.source != "sim":
        group.delay.move_refusal = (
            f"with --source {args.source} this is no real stage; move the facility's"
        )
    return group, {"source": args.source, "detectors": list(source.info.tiles)}


def check_detectors(source: str, count: int) -> None:
    """Raise `ConfigError` if a source has no detector, or more than the PVs and columns hold."""
    if not 1 <= count <= DETECTORS_MAX:
        raise ConfigError(f"source {source}: {count} detectors, the IOC takes 1 to {DETECTORS_MAX}")


def whole_tile(source: ShotSource) -> Region:
    """Return a region that holds all pixels of the first detector."""
    name, tile = next(iter(source.info.tiles.items()))
    rows, columns = tile.bad.shape
    corners = ((-0.5, -0.5), (columns - 0.5, -0.5), (columns - 0.5, rows - 0.5), (-0.5, rows - 0.5))
    return Region("all", name, corners)


def _make_source(args: argparse.Namespace, axis: SimulatedAxis) -> tuple[ShotSource, Any]:
    """Return the source of records, and the settings of the twin."""
    if args.source == "sacla":
        from skywright.instruments.sacla.sources.sacla import SaclaSource

        chosen = {} if args.beamline is None else {"beamline": args.beamline}
        online = cli_sources.online_settings(args.online, chosen, {})
        if online.detectors:  # also those that are away now and come in a later run
            check_detectors("sacla", len(online.detectors))
        return SaclaSource(online), None
    if args.source == "replay":
        return cli_sources.replay_source(args.file, args.speed, "delay", None), None
    from skywright.instruments.sacla.sources.sim import SimSource
    from skywright.instruments.sacla.twin import OCTAL, SINGLE, Beamline, TwinSettings, parse_faults

    settings = TwinSettings(
        (SINGLE,) if args.tiles == 1 else OCTAL[: args.tiles],
        shape=(args.rows, args.columns),
        rate_hz=args.rate,
        pool=args.pool,
        faults=parse_faults(args.fault or []),
    )
    beamline = Beamline(settings, args.seed, lambda: axis.position(time.time()))
    return SimSource(beamline, speed=args.speed), settings


def main() -> None:
    """Run the IOC."""
    return_large_arrays()
    parser = argument_parser(__doc__ or "", "SKY:SACLA1:")
    add = parser.add_argument
    add(
        "--source",
        choices=("sim", "replay", "sacla"),
        default="sim",
        help="source of shots (%(default)s)",
    )
    add("--file", type=Path, help="replay: the recorded file")
    add("--online", type=Path, help="sacla: TOML file with detectors, equipment ids and rules")
    add("--beamline", type=int, choices=range(1, 4), help="sacla: its number, 1 to 3")
    add("--roi", action="append", help="a region at the start, as of Regions; else a whole tile")
    add("--auto-start", action="store_true", help="take shots from the start on, as sacla does")
    add("--bins", default="-2:3:40", help="bins of the delay, START:STOP:N, ps (%(default)s)")
    add("--hits", default="1:10", help="a hit: PHOTONS:PIXELS, least of each (%(default)s)")
    add_number(parser, "--window", 120, 0, 1_000_000, "tags that late records may take")
    add_number(parser, "--workers", 1, 1, 1000, "analysis processes")
    add("--profiles", action="store_true", help="find and record the radial profile of each shot")
    every = "record the frames of one in N shots that have any; 0: none"
    add_number(parser, "--frames-every", 0, 0, FRAMES_EVERY_MAX, every)
    add_number(parser, "--frames-gb", 20.0, 0, 1e6, "most of a recording's frames")
    period = "s between running images on disk"
    add_number(parser, "--image-period", IMAGE_PERIOD_S, 0.2, 1e6, period)
    add("--rate", type=positive_number, default=30.0, help="sim: shots per second (%(default)s)")
    add("--tiles", type=int, default=1, choices=range(1, 9), help="sim: of the MPCCD (%(default)s)")
    add_number(parser, "--rows", 1024, 1, LONGEST_SIDE, "sim: of a tile")
    add_number(parser, "--columns", 512, 1, LONGEST_SIDE, "sim: of a tile")
    pool = "sim: images of a tile rendered before, fewer if all would take more than 1 GB"
    add_number(parser, "--pool", 64, 1, 10_000, pool)
    add(
        "--fault",
        action="append",
        metavar="NAME=VALUE",
        help="sim: probability of missing, repeated, no_value, other_run, late or out_of_order "
        "records; run_shots=N begins a run after each N shots",
    )
    run(build, parser)
