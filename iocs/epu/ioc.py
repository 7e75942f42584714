"""IOC of a directory that EPU, the cryo-EM acquisition software, writes.

The owner records every entity in its database; the PVs say how far it is. `GRIDS` and `RUNS` are
JSON: the grids, and the rows that each open run may read from its files. `SUGGESTION` and
`OVERVIEW` are JSON too: which squares and holes to take next, and the present grid for people.

`BEGIN` takes JSON with `grid`, `run` and `directory` and opens the files of a run; `END` takes the
run's uid, with ` unread` after it if its rows were not read: they come in the next one. A session
puts the uids of its open runs, separated by spaces, into `ALIVE` every few seconds; runs without
that are ended, so that the next session can take up the grid.

    python -m iocs.epu --source sim --speed 100
    python -m iocs.epu --source epu --root /data/cm12345-1 --database sqlite:////data/epu.sqlite
    python -m iocs.epu --source replay --recording visit.tar.gz
"""

import argparse
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, pvproperty

from iocs.areadetector import choice, enum_readback, readback
from iocs.common import alarm_if, argument_parser, decode_char_array, post, run
from iocs.owner import OwnerGroup
from skywright.config import load_settings
from skywright.errors import ConfigError, DataError
from skywright.instruments.epu.owner import EpuOwner, Feed, OwnerOptions
from skywright.instruments.epu.runs.tracked import LEASE_S
from skywright.instruments.epu.twin.feed import visit_feed
from skywright.instruments.epu.twin.processing import processing_of
from skywright.instruments.epu.twin.visit import TwinVisit, plan_visit
from skywright.processes.options import add_number, limited, positive_number
from skywright.processes.scratch import make_scratch

POST_PERIOD_S, IDLE_PERIOD_S = 0.1, 1.0
JSON_BYTES, OVERVIEW_BYTES = 1 << 16, 1 << 17
NEXT_HOLES = 16
"""Holes in the PV of the next ones."""
STATES = ["Stopped", "Scanning", "Watching"]


def _text(name: str, most: int = 64) -> Any:
    return readback("", dtype=ChannelType.CHAR, max_length=most, name=name)


def _count(name: str) -> Any:
    """Return a PV of a count; a double, as Channel Access has no integers above 2**31."""
    return readback(0.0, precision=0, name=name)


class EpuIOC(OwnerGroup):
    """All PVs, over one owner.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    owner
        Owner that watches the tree; None: only list the PVs.
    """

    root = _text("ROOT", 1024)
    path_map = _text("PATH_MAP", 4096)
    state = enum_readback(STATES, name="STATE")
    message = _text("MESSAGE", 1024)
    sessions = _count("N_SESSION")
    atlases = _count("N_ATLAS")
    squares = _count("N_GRIDSQUARE")
    holes = _count("N_FOILHOLE")
    micrographs = _count("N_MICROGRAPH")
    last_square = _text("LAST_GRIDSQUARE")
    last_hole = _text("LAST_FOILHOLE")
    last_micrograph = _text("LAST_MICROGRAPH")
    latency = readback(0.0, name="LATENCY", units="s", precision=4)
    unreadable = _count("N_UNREADABLE")
    refused = _count("N_REFUSED")
    queue = _count("QUEUE")
    rate = readback(0.0, name="RATE", units="1/s", precision=2)
    sequence = _count("SEQUENCE")
    rescans = _count("N_RESCAN")
    lost_events = _count("N_LOST_EVENTS")
    idle = readback(0.0, name="IDLE", units="s", precision=1)
    grids = _text("GRIDS", JSON_BYTES)
    runs = _text("RUNS", JSON_BYTES)
    orphans = _count("N_ORPHAN")
    late = _count("N_LATE")
    duplicates = _count("N_DUPLICATE")
    results = _count("N_RESULT")
    good = _count("N_GOOD")
    best_square = _text("BEST_GRIDSQUARE")
    suggested_grid = _text("SUGGESTION_GRID")
    reason = _text("SUGGESTION_REASON", 1024)
    next_holes = _text("NEXT_FOILHOLES", 1024)
    suggestion = _text("SUGGESTION", OVERVIEW_BYTES)
    overview = _text("OVERVIEW", OVERVIEW_BYTES)
    stop = choice(["No", "Yes"], name="STOP")
    begin = pvproperty(value="", dtype=ChannelType.CHAR, max_length=4096, name="BEGIN")
    end = pvproperty(value="", dtype=ChannelType.CHAR, max_length=256, name="END")
    alive = pvproperty(value="", dtype=ChannelType.CHAR, max_length=JSON_BYTES, name="ALIVE")

    def __init__(self, prefix: str, owner: EpuOwner | None) -> None:
        super().__init__(prefix)
        self.scratch: Path | None = None
        """Temporary directory of simulated files and their database."""
        if owner is not None:
            self.owner = owner
            owner.changed = self.wake_posting

    def close(self) -> None:
        """End the owner, and remove the directory that was made for it alone."""
        self.owner.close()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    @begin.putter  # type: ignore[no-redef]
    async def begin(self, instance: Any, value: Any) -> None:
        """Open the files of a run; the put completes when their rows are posted."""
        try:
            wanted = json.loads(decode_char_array(value))
            grid, uid, directory = (wanted[name] for name in ("grid", "run", "directory"))
            if not all(isinstance(each, str) for each in (grid, uid, directory)):
                raise TypeError("a value is not text")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{self.prefix}BEGIN: {error}; expected {{"grid": .., "run": .., "directory": ..}}'
            ) from error
        await self.in_thread(self.owner.grids.begin, grid, uid, Path(directory))
        await self.wait_until_posted()

    @end.putter  # type: ignore[no-redef]
    async def end(self, instance: Any, value: Any) -> None:
        """Close the files of a run."""
        uid, _, unread = decode_char_array(value).partition(" ")
        await self.in_thread(self.owner.grids.end, uid, {} if unread == "unread" else None)
        await self.wait_until_posted()

    @alive.putter  # type: ignore[no-redef]
    async def alive(self, instance: Any, value: Any) -> None:
        """Keep the runs of a session open."""
        await self.in_thread(self.owner.grids.alive, decode_char_array(value).split())

    async def serving(self) -> None:
        """Watch, and post what has changed, for as long as the IOC lives."""
        await post(self.root, str(self.owner.watcher.root))
        await post(self.path_map, json.dumps(self.owner.options.settings.path_map))
        self.owner.start()
        await self._post_forever(POST_PERIOD_S, IDLE_PERIOD_S)

    async def _post(self) -> None:
        owner = self.owner
        watcher = owner.watcher
        state = watcher.state
        status = await self.in_thread(owner.status)
        # Runs before grids: who sees that a grid no longer waits finds its run.
        await post(self.runs, json.dumps(status["runs"]))
        await post(self.grids, grids_text(status["grids"]))
        recorded = state.recorded
        for kind, channel in (
            ("gridsquare", self.last_square),
            ("foilhole", self.last_hole),
            ("micrograph", self.last_micrograph),
        ):
            await post(channel, state.last.get(kind, ""))
        if state.latency:
            await post(self.latency, state.latency[-1])
        for channel, value in (
            (self.sessions, recorded.get("session", 0)),
            (self.atlases, recorded.get("atlas", 0)),
            (self.squares, recorded.get("gridsquare-metadata", 0)),
            (self.holes, recorded.get("foilhole", 0)),
            (self.micrographs, recorded.get("micrograph", 0)),
            (self.unreadable, state.unreadable),
            (self.refused, owner.grids.refused),
            (self.queue, state.queue),
            (self.rate, state.rate()),
            (self.sequence, state.sequence),
            (self.rescans, state.rescans),
            (self.lost_events, state.lost_events),
            (self.idle, owner.idle()),
        ):
            await post(channel, float(value))
        await self._post_decisions(owner)
        alarm = await self.in_thread(owner.alarm)  # it looks at the disk
        severity = alarm_if(alarm, AlarmSeverity.MAJOR_ALARM)
        await self.post_message(alarm or "watching", severity)
        await post(self.state, 2 if state.scanned else 1)

    async def _post_decisions(self, owner: EpuOwner) -> None:
        decider = owner.decider
        found, troubles = decider.overview, decider.troubles
        await post(self.orphans, float(troubles.orphans))
        await post(self.late, float(troubles.late), alarm_if(troubles.late))
        await post(self.duplicates, float(troubles.duplicates))
        await post(self.results, float(found.get("results", 0)))
        await post(self.good, float(found.get("good", 0)))
        suggestion = decider.suggestion
        await post(self.suggested_grid, suggestion.get("grid", ""))
        await post(self.best_square, (suggestion.get("squares") or ("",))[0])
        await post(self.reason, suggestion.get("reason", ""))
        await post(self.next_holes, " ".join(suggestion.get("holes", ())[:NEXT_HOLES]))
        await post(self.suggestion, json.dumps(suggestion))
        await post(self.overview, overview_text(found))


def overview_text(found: dict[str, Any]) -> str:
    """Return an overview as JSON that fits its PV: lists that make it too long are left empty."""
    shown = dict(found)
    for key in ("holes", "squares", "newest", "states"):
        text = json.dumps(shown, separators=(",", ":"))
        if len(text) < OVERVIEW_BYTES:
            return text
        shown[key] = type(shown.get(key, []))()
    return json.dumps(shown, separators=(",", ":"))


def grids_text(grids: list[dict[str, Any]]) -> str:
    """Return grids as JSON that fits its PV.

    Where they are too many, those that wait for a run come first, and others are left out.
    """
    parts, length = [], 2
    for grid in sorted(grids, key=lambda each: not each["waiting"]):
        parts.append(json.dumps(grid))
        length += len(parts[-1]) + 2
        if length > JSON_BYTES:
            parts.pop()
            break
    return f"[{', '.join(parts)}]"


def _visit(args: argparse.Namespace) -> TwinVisit:
    return plan_visit(args.seed, args.grids, args.squares, imaged=args.imaged, holes=args.holes)


def _feed(args: argparse.Namespace) -> Feed | None:
    if args.source == "sim":
        return visit_feed(_visit(args), args.speed)
    if args.source == "replay":
        if args.recording is None:
            raise ConfigError("--source replay needs --recording FILE")
        if not args.recording.is_file():
            raise ConfigError(f"--recording {args.recording}: no such file")
        from skywright.instruments.epu.recording.replay import Pace, replay

        def feed(root: Path, stopped: threading.Event) -> None:
            replay(args.recording, root, Pace(args.speed, None), wait=stopped.wait)

        return feed
    if args.root is None:
        raise ConfigError("--source epu needs --root DIR, the directory that EPU writes")
    return None


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Make the IOC of the arguments, and what its ready line says."""
    if args.list_pvs:
        return EpuIOC(args.prefix, None), {}
    feed = _feed(args)
    base = make_scratch("epu-ioc") if args.root is None else None
    root = args.root if base is None else base / "data"
    if feed is None and not root.is_dir():
        raise ConfigError(f"--root {root}: not a directory")
    root.mkdir(parents=True, exist_ok=True)
    from skywright.instruments.epu.cli_watch import default_database

    default = base / "entities.sqlite" if base else default_database(root)
    database = args.database or str(default)
    simulated = args.source == "sim"
    processing = processing_of(_visit(args), args.speed) if simulated else None
    settings: Any = load_settings()
    options = OwnerOptions(root, database, args.polling, args.source, args.lease, settings.epu)
    owner = EpuOwner(options, feed, processing)
    ioc = EpuIOC(args.prefix, owner)
    ioc.scratch = base
    return ioc, {"source": args.source, "root": str(root)}


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:EPU1:")
    add = parser.add_argument
    add("--source", choices=("sim", "epu", "replay"), default="sim", help="(%(default)s)")
    add("--root", type=Path, help="the directory; sim and replay write into it")
    add("--database", default="", help="sqlite:////ABS/FILE or postgresql://...")
    add(
        "--polling",
        type=limited(float, 0.05, 86_400),
        help="seconds between scans, for network mounts",
    )
    add(
        "--lease",
        type=positive_number,
        default=LEASE_S,
        help="seconds after which the runs of a session "
        "that gives no sign of life are ended (%(default)g)",
    )
    add("--recording", type=Path, help="replay: a recording of `skywright epu record`")
    for name, default, what in (
        ("--grids", 2, "grids of the visit"),
        ("--squares", 25, "squares of a grid"),
        ("--imaged", 4, "imaged squares of a grid"),
        ("--holes", 10, "holes of an imaged square"),
    ):
        add_number(parser, name, default, 1, 10_000, f"sim: {what}")
    run(build, parser)
