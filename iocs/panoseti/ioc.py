"""IOC of PANOSETI modules: what a run directory holds, by slots.

`HDF1:` indexes every frame of a run from its start: one index for each slot and product, whose
count is `M1:img16:Rows_RBV`, and one table of the pulse-height events of all modules, whose count
is `EventRows_RBV`. The run is the one that `TrackRun` names, or the newest one if that is
`newest`. While it is indexed, `Run_RBV` is its name, and else that of the newest run. `M1:` to
`M4:` have the newest image of each product of a module; modules take these slots in the order in
which their first frames come, anew for each run.

`SIM:Running` starts and ends a run that this IOC takes itself: with the simulated array, or, with
the source `sockets`, of the packets that boards send. A run that cannot be written ends by itself;
`SIM:Error_RBV` has the reason.

    python -m iocs.panoseti --source rundir --data-dir /mnt/panoseti
    python -m iocs.panoseti --source sim --seed 3
    python -m iocs.panoseti --source sim --movie-rate 1000 --buffered --max-file-mb 500
    python -m iocs.panoseti --source sim --module-id 254 --product img8 --movie-rate 50000
    python -m iocs.panoseti --source sockets --packet-port 60001 --data-dir /mnt/panoseti
    python -m iocs.panoseti --source replay --speed 10 --data-dir /archive/obs_Lick...pffd
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from caproto import ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import (
    YES_NO,
    choice,
    enum_readback,
    long_text,
    number,
    readback,
)
from iocs.common import alarm_if, argument_parser, in_order, post, run
from iocs.owner import OwnerGroup
from iocs.panoseti.housekeeping import CLOCKS, NAN, board_groups, post_clock
from iocs.panoseti.live import LiveFrames
from iocs.recording import RowsPlugin
from skywright.errors import ConfigError, DataError
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.housekeeping import BoardState, RunHousekeeping
from skywright.instruments.panoseti.live.publish import flag_text
from skywright.instruments.panoseti.products import HIGHEST_MODULE, PRODUCTS, QUABOS
from skywright.instruments.panoseti.received import ReceivedFrames
from skywright.instruments.panoseti.rundir import Telescope
from skywright.instruments.panoseti.sources.packets import (
    SCIENCE_PORT,
    PacketSource,
    ReceivedRuns,
)
from skywright.instruments.panoseti.sources.replay import ReplaySource
from skywright.instruments.panoseti.sources.rundir import RunDirectorySource
from skywright.instruments.panoseti.telescopes import RunTelescopes
from skywright.instruments.panoseti.tracking import SLOTS, IndexKey, RunSource, Tracker
from skywright.instruments.panoseti.twin.run import SimulatedRuns
from skywright.instruments.panoseti.twin.sky import ArraySettings
from skywright.instruments.panoseti.warm import warm_up
from skywright.processes.options import add_number, limited
from skywright.processes.ports import port_number
from skywright.processes.scratch import KEPT, keep_scratch, make_scratch
from skywright.words import counted

logger = logging.getLogger(__name__)

POST_PERIOD_S = 0.1
HOUSEKEEPING_S = 0.5
"""Period of the look for new housekeeping, and for the positions of telescopes."""
ANGLES = {
    "Azimuth": "azimuth_deg",
    "Elevation": "elevation_deg",
    "PositionAngle": "position_angle_deg",
}
"""PVs of where a telescope points, and what `Telescope` calls it."""
THRESHOLD_ADC = (45.0, 300.0)
"""The simulated boards trigger above this: 3 to 20 sigma."""
FLASHER_PE = 1000.0
"""Most light of a flat-field pulse in each pixel, photoelectrons."""
SHUTTER = ["Closed", "Open"]
NEWEST = "newest"
RUN_STATES = ["Waiting", "Recording", "Ended"]


class ProductPVs(PVGroup):
    """The newest image of one product, its rate and losses; `sequence` is posted last, 0: no image.

    `header` is that of the image as JSON, `rate` by the times of frames, `lost` counts packets of
    the run, `rows` those of the index.
    """

    image = readback([0], ChannelType.LONG, max_length=1024, name="Image_RBV")
    file = readback("", ChannelType.CHAR, max_length=256, name="File_RBV")
    frame = readback(-1.0, precision=0, name="Frame_RBV")
    seconds = readback(0.0, precision=6, units="s", name="Time_RBV")
    flags = readback("", ChannelType.CHAR, max_length=256, name="Flags_RBV")
    header = readback("", ChannelType.CHAR, max_length=1024, name="Header_RBV")
    rate = readback(0.0, precision=3, units="Hz", name="Rate_RBV")
    lost = readback(0.0, precision=0, name="PacketsLost_RBV")
    rows = readback(0.0, precision=0, name="Rows_RBV")
    sequence = readback(0.0, precision=0, name="Sequence_RBV")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._posted: Any = None
        self._images = 0

    async def show(self, frames: Frames | None, rows: int, received: ReceivedFrames | None) -> None:
        """Post the last of these frames; None: the recording has none."""
        await post(self.rows, float(rows))
        await post(self.rate, 0.0 if received is None else received.rate_hz)
        await post(self.lost, 0.0 if received is None else float(received.packets_lost))
        if frames is None:
            await post(self.sequence, 0.0)
        elif frames is not self._posted:
            self._posted = frames
            self._images += 1
            last = len(frames) - 1
            await post(self.file, frames.file)
            await post(self.frame, float(frames.number[last]))
            await post(self.seconds, float(frames.time_ns[last]) / 1e9)
            flags = int(frames.flags[last])
            await post(self.flags, flag_text(flags), alarm_if(flags))
            await post(self.header, json.dumps(frames.header(last)))
            await self.image.write(frames.image[last].astype(np.int32).ravel().tolist(),
                                   verify_value=False)  # fmt: skip
            await post(self.sequence, float(self._images))


class _Module(PVGroup):
    async def show_clocks(self, clocks: list[bool | None]) -> None:
        """Post the state of the boards' clocks; that of the module is the worst of them."""
        for board, is_in_step in enumerate(clocks):
            await post_clock(getattr(self, f"board{board}").clock, is_in_step)
        known = [each for each in clocks if each is not None]
        await post_clock(self.clock, all(known) if known else None)

    async def show_telescope(self, telescope: Telescope | None) -> None:
        """Post where the telescope is and points to; None: that is not known."""
        await post(self.telescope, telescope.name if telescope else "")
        await post(self.dome, telescope.dome if telescope else "")
        for pv, name in ANGLES.items():
            value = getattr(telescope, name, None)
            await post(getattr(self, pv.lower()), NAN if value is None else float(value))


def _module_class() -> type[_Module]:
    parts: dict[str, Any] = {name: SubGroup(ProductPVs, prefix=f"{name}:") for name in PRODUCTS}
    parts["__doc__"] = "One slot: its module, telescope and clock, its products and boards."
    parts.update(board_groups())
    parts["clock"] = enum_readback(CLOCKS, name="Clock_RBV")
    parts["telescope"] = readback("", ChannelType.CHAR, max_length=64, name="Telescope_RBV")
    parts["dome"] = readback("", ChannelType.CHAR, max_length=64, name="Dome_RBV")
    for name in ANGLES:
        parts[name.lower()] = readback(NAN, precision=4, units="deg", name=f"{name}_RBV")
    parts["module"] = readback(-1, name="Module_RBV")
    return type("ModulePVs", (_Module,), parts)


ModulePVs = _module_class()


class IndexesPlugin(RowsPlugin):
    """The file plugin that opens and closes the indexes."""

    parent: "PanosetiBase"

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Index one run from its start."""
        run = self.parent.track_run.readback.value
        if self.parent.temporary is not None:  # a catalog will refer to its files
            try:
                keep_scratch(self.parent.temporary)
            except OSError as error:
                return str(error)
        return self.parent.tracker.start_recording(path, "" if run == NEWEST else run)

    def stop_capture(self) -> None:
        """Close the indexes."""
        self.parent.tracker.stop_recording()

    @property
    def is_capturing(self) -> bool:
        """Whether the indexes are open."""
        return self.parent.tracker.is_recording


@in_order
async def _start_or_stop(obj: Any, instance: Any, value: int) -> None:
    ioc = obj.parent.ioc
    runs = ioc.runs
    if runs is None:
        raise ValueError("the runs of this data directory are taken by something else")
    await ioc.in_thread(runs.start if value else runs.stop)


async def _put_running(obj: Any, instance: Any, value: int) -> None:
    await _start_or_stop(obj, instance, value)
    # With the put `Run_RBV` and `SIM:Running_RBV` are those of now.
    await obj.parent.ioc.wait_until_posted()


async def _put_threshold(obj: Any, instance: Any, value: float) -> None:
    least, most = THRESHOLD_ADC
    if not least <= value <= most:
        raise ValueError(f"{value} ADC, expected {least:g} to {most:g} ADC")
    _simulated(obj).set_threshold(value)
    await obj.readback.write(value)


async def _put_shutter(obj: Any, instance: Any, value: int) -> None:
    _simulated(obj).open_shutter(bool(value))
    await obj.readback.write(SHUTTER[value])


async def _put_flasher(obj: Any, instance: Any, value: float) -> None:
    if not 0 <= value <= FLASHER_PE:
        raise ValueError(f"{value} photoelectrons, expected 0 to {FLASHER_PE:g}")
    _simulated(obj).set_flasher(value)
    await obj.readback.write(value)


def _simulated(obj: Any) -> SimulatedRuns:
    runs = obj.parent.ioc.runs
    if not isinstance(runs, SimulatedRuns):
        raise ValueError("the boards of this array are set by something else")
    return runs


class Sim(PVGroup):
    """The simulated array."""

    ioc: "PanosetiBase"
    running = choice(YES_NO, put=_put_running, name="Running")
    error = readback("", ChannelType.CHAR, max_length=1024, name="Error_RBV", doc="of the run")
    threshold = number(67.5, _put_threshold, units="ADC", precision=2, name="Threshold")
    flasher = number(0.0, _put_flasher, units="p.e.", precision=1, name="Flasher")
    shutter = choice(SHUTTER, 1, put=_put_shutter, name="Shutter")


class PanosetiBase(OwnerGroup):
    """PVs of a run, over one tracker; `make_group` adds the slots."""

    run_name = readback("", ChannelType.CHAR, max_length=256, name="Run_RBV")
    track_run = long_text(NEWEST, name="TrackRun", doc="run to index")
    data_dir = readback("", ChannelType.CHAR, max_length=1024, name="DataDir_RBV")
    run_state = enum_readback(RUN_STATES, name="RunState_RBV")
    message = readback("", ChannelType.CHAR, max_length=1024, name="Message_RBV")
    event_rows = readback(0.0, precision=0, name="EventRows_RBV")
    grpc_port = readback(0, name="GrpcPort_RBV", doc="of the live frames; 0: they are not served")
    modules_further = readback(0, name="FurtherModules_RBV")
    recording = SubGroup(IndexesPlugin, prefix="HDF1:")

    sim = SubGroup(Sim, prefix="SIM:")

    tracker: Tracker
    housekeeping: RunHousekeeping
    telescopes: RunTelescopes
    runs: SimulatedRuns | ReceivedRuns | None = None
    """What takes runs in this process."""
    live: LiveFrames | None = None
    temporary: Path | None = None
    """Data directory that this process has made for itself."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.sim.ioc = self
        self._housekeeping_due = 0.0
        self._boards: dict[tuple[int, int], BoardState] = {}
        """Newest state of each board in the run `_boards_run`, by module and board."""
        self._boards_run = ""
        self._posted: dict[Any, Any] = {}
        """Telescope of each slot and state of each of its boards, as posted."""

    async def serving(self) -> None:
        """Post, and serve live frames, until the end."""
        if self.live is not None:
            await post(self.grpc_port, await self.live.start())
        try:
            await self._post_forever(POST_PERIOD_S, 0.5)
        finally:
            if self.live is not None:
                await self.live.stop()

    def close(self) -> None:
        """Close files and source."""
        try:
            if self.runs is not None:
                self.runs.stop()
        finally:
            self.tracker.close()
        if self.temporary is None:
            return
        # A catalog refers to files that were indexed, and packets of boards cannot be had again.
        is_needless = isinstance(self.runs, SimulatedRuns) and not self.tracker.has_recorded
        with suppress(OSError):  # it was removed by something else
            if is_needless or set(os.listdir(self.temporary)) <= {KEPT}:  # noqa: PTH208
                shutil.rmtree(self.temporary, ignore_errors=True)

    async def _post(self) -> None:
        tracker = self.tracker
        # Read before the number of rows: when it is False, that number is final.
        capturing = tracker.is_recording
        rows = tracker.rows()
        clocks = tracker.clocks
        for slot, module in enumerate(self._modules_of_slots()):
            group = getattr(self, f"slot{slot}")
            await post(group.module, module)
            for name in PRODUCTS:
                key = IndexKey(slot, name)
                block = tracker.newest.get(key)
                frames = block.frames if block is not None and len(block.frames) else None
                await getattr(group, name).show(frames, rows[key], tracker.received.get(key))
            await group.show_clocks([clocks.get((slot, each)) for each in range(QUABOS)])
        await post(self.event_rows, float(tracker.events.rows_readable))
        await post(self.modules_further, len(tracker.slots.further))
        most = max(rows.values(), default=0)
        await self.recording.post_recording(most, tracker.rows_lost, capturing, tracker.error)
        state = tracker.owner.state()
        running = self.runs is not None and self.runs.is_running  # before the error of the run
        error = self.runs.error if self.runs is not None else ""
        await post(self.sim.error, error)
        trouble = error or tracker.error
        if tracker.unread and not (trouble or state.alarm):
            trouble = f"not read to the end: {counted(tracker.unread, 'file')}; see the IOC's log"
        await self.post_message(trouble or state.message, alarm_if(state.alarm or trouble))
        source = tracker.source
        name, ended = await self.in_thread(
            lambda: (source.run, state.acquiring and source.has_ended)
        )
        await post(self.run_name, name)
        await post(self.sim.running.readback, int(running))  # its run is named before
        await post(self.data_dir, str(source.data_dir))
        at_work = 2 if ended else 1
        await post(self.run_state, at_work if name and state.acquiring else 0)
        await self._post_housekeeping(name)

    async def _post_housekeeping(self, run: str) -> None:
        """Post the states of the boards that are new, and where telescopes point."""
        now = asyncio.get_running_loop().time()
        if now < self._housekeeping_due:
            return
        self._housekeeping_due = now + HOUSEKEEPING_S
        if run != self._boards_run:
            self._boards_run = run
            self._boards.clear()
        try:
            for board in await self.in_thread(self.housekeeping.new_states, run):
                self._boards[board.module, board.quabo] = board
        except DataError as error:
            await self.post_error(str(error))
        telescopes = await self.in_thread(self.telescopes.of, run)
        for slot, module in enumerate(self._modules_of_slots()):
            group = getattr(self, f"slot{slot}")
            if self._is_new(slot, telescope := telescopes.get(module)):
                await group.show_telescope(telescope)
            for quabo in range(QUABOS):
                if self._is_new((slot, quabo), state := self._boards.get((module, quabo))):
                    await getattr(group, f"board{quabo}").show(state)

    def _modules_of_slots(self) -> list[int]:
        """Return the module of each slot; -1: none."""
        slots = self.tracker.slots
        modules = slots.modules
        return modules + [-1] * (slots.count - len(modules))

    def _is_new(self, place: Any, value: Any) -> bool:
        """Note what is posted at a place; return whether it has changed."""
        before, self._posted[place] = self._posted.get(place), value
        return bool(before != value)


def make_group(prefix: str, source: RunSource, slots: int) -> PanosetiBase:
    """Return the PVs of an IOC with this number of slots."""
    parts: dict[str, Any] = {
        f"slot{slot}": SubGroup(ModulePVs, prefix=f"M{slot + 1}:") for slot in range(slots)
    }
    parts["__doc__"] = PanosetiBase.__doc__
    group = type("PanosetiIOC", (PanosetiBase,), parts)(prefix)
    group.tracker = Tracker(source, slots, group.wake_posting)
    group.housekeeping = RunHousekeeping(source.data_dir)
    group.telescopes = RunTelescopes(source.data_dir)
    return group


def simulated_runs(data_dir: Path, args: argparse.Namespace) -> SimulatedRuns:
    """Return the simulated array of the arguments."""
    unlocked = tuple(args.unlocked or ())
    settings = ArraySettings(unlocked=unlocked)
    if args.module_id:
        settings = ArraySettings(modules=tuple(dict.fromkeys(args.module_id)), unlocked=unlocked)
    return SimulatedRuns(
        data_dir,
        settings,
        seed=args.seed,
        movie_period_s=1 / args.movie_rate,
        flash_rate_hz=args.flash_rate,
        buffered=args.buffered,
        products=args.product or ("img16", "ph256"),
        max_file_bytes=round(args.max_file_mb * 1e6),
    )


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Make the IOC of the arguments."""
    facts: dict[str, Any] = {"source": args.source}
    modules = frozenset(args.module_id or ())
    runs: SimulatedRuns | ReceivedRuns | None = None
    temporary: Path | None = None
    source: RunSource
    data_dir: Path | None = args.data_dir
    if data_dir:  # absolute, for the run's name of "."; other machines may lack targets of links
        data_dir = Path(os.path.abspath(data_dir))  # noqa: PTH100
        if data_dir.is_symlink() and data_dir.resolve().suffix == ".pffd":
            data_dir = data_dir.resolve()  # a run has its name from its directory
    if args.source in ("sim", "sockets"):
        if data_dir is None and args.list_pvs:
            data_dir = Path(tempfile.gettempdir())  # nothing will be written
        elif data_dir is None:
            if args.source == "sim":
                data_dir = temporary = make_scratch("panoseti-ioc")
            else:
                data_dir = temporary = Path(tempfile.mkdtemp(prefix="panoseti-"))
                logger.warning(
                    "runs are written below %s, which a restart of this machine may empty; "
                    "choose another directory with --data-dir",
                    data_dir,
                )
    elif data_dir is None or not data_dir.is_dir():
        raise ConfigError(f"--source {args.source} needs a directory, not {data_dir}")
    if args.source == "sockets":
        runs = ReceivedRuns(data_dir, args.packet_host, args.packet_port, args.grouped, modules)
        source = PacketSource(runs, modules)
        facts["packet_port"] = runs.address[1]
    elif args.source == "replay":
        source = ReplaySource(data_dir, modules, args.speed)
    else:
        if args.source == "sim":
            runs = simulated_runs(data_dir, args)
        source = RunDirectorySource(data_dir, modules)
    if not args.list_pvs:
        warm_up()  # else the first frame would wait for it, seconds on a busy machine
    group = make_group(args.prefix, source, args.modules)
    group.runs = runs
    if args.grpc_port is not None:
        group.live = LiveFrames(group.tracker, args.host, args.grpc_port, modules)
    group.temporary = temporary
    return group, {**facts, "data_dir": str(data_dir)}


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:PANO1:")
    add = parser.add_argument
    sources = ("sim", "rundir", "sockets", "replay")
    add("--source", choices=sources, default="sim", help="source of frames (%(default)s)")
    add_number(parser, "--flash-rate", 5.0, 0, 1e6, "sim: of flashes, Hz")
    add(
        "--product",
        action="append",
        choices=PRODUCTS,
        help="sim: write this one; may be repeated (img16 and ph256)",
    )
    add_number(parser, "--movie-rate", 200.0, 1e-3, 50_000, "sim: movie frames, Hz")
    add("--buffered", action="store_true", help="sim: files grow in Hashpipe's steps")
    add_number(parser, "--max-file-mb", 0.0, 0, 1e6, "sim: size of a file, MB; 0: no limit")
    module = limited(int, 0, HIGHEST_MODULE)
    add("--unlocked", type=module, action="append", help="sim: module whose clock is out of step")
    add(
        "--data-dir",
        type=lambda text: Path(text).expanduser(),
        help="data directory of a node; replay: a run directory; sim, sockets: by default a new "
        "one below the system's temporary directory. That of sockets stays, that of sim if a run "
        "was indexed",
    )
    add(
        "--packet-host",
        default="0.0.0.0",
        help="sockets: address of the interface that the boards send to (%(default)s: all)",
    )
    add(
        "--packet-port",
        type=port_number,
        default=SCIENCE_PORT,
        help="sockets: UDP; 0 takes a free one",
    )
    add("--grouped", action="store_true", help="sockets: write ph1024 instead of ph256")
    add(
        "--grpc-port",
        type=port_number,
        help="serve live frames (DaqData) here; 0 takes a free one",
    )
    add_number(parser, "--modules", SLOTS, 1, 256, "slots")
    add("--module-id", type=module, action="append", help="only this module; may be repeated")
    run(build, parser)
