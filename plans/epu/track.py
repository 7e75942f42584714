"""Follow the sessions of a visit: one run for each grid, rows as they come."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable, Triggerable
from bluesky.utils import MsgGenerator

from plans.checks import Needs, check_devices, finite
from plans.run_stubs import collect_streams, start_metadata, until_done

WATCHING = Needs(
    "watcher of a visit",
    (Readable, Triggerable),
    dict.fromkeys(
        ("grids", "is_scanned", "stop_requested", "suggestion", "begin", "streams", "end"), ()
    ),
)


def track_epu(
    watcher: Any, *, idle: float = 1800.0, md: Mapping[str, Any] | None = None
) -> MsgGenerator[list[str]]:
    """Record each grid of a watched visit in a run of its own, until nothing comes any more.

    Grids may be interleaved: their runs are open side by side. A grid whose rows all belong to an
    earlier run opens none; new rows of such a grid open a run that names the earlier one in
    ``amends``, also where the IOC has ended that one because the session was stopped for a while.
    Rows are in the streams ``squares``, ``holes``, ``micrographs`` and ``results`` (of
    processing); the stream ``primary`` holds progress, health and what is suggested to take
    next, at most one event a second.

    Parameters
    ----------
    watcher
        The device, with the methods of `devices.epu.watcher.EpuWatcher`.
    idle
        Seconds without a new row after which the plan ends; 0: only a stop request ends it.
    md
        Metadata of all runs.

    Returns
    -------
    list of str
        Uids of the runs.

    Raises
    ------
    ConfigError
        If `idle` is no time.
    TypeError
        If `watcher` is no watcher of a visit.
    """
    check_devices("track_epu", watcher=(watcher, WATCHING))
    idle = finite("track_epu", "idle", idle, 0.0, inclusive=True)
    _md = start_metadata("track_epu", {"watcher": watcher}, {"idle": idle}, md)
    runs: dict[str, tuple[str, dict[str, Any]]] = {}
    uids: list[str] = []

    def open_run(grid: dict[str, Any]) -> MsgGenerator[None]:
        of_grid = {
            "epu_grid": grid["uuid"],
            "epu_name": grid["name"],
            "epu_session": grid["session"],
            "epu_data_dir": grid["data_dir"],
            **({"amends": grid["amends"]} if grid["amends"] else {}),
        }
        uid = yield from bps.open_run({**of_grid, **_md})
        uids.append(uid)
        try:
            yield from until_done(watcher.begin(grid["uuid"], uid))
            begun = watcher.streams(uid)
        except BaseException:  # the engine closes the run and notes the reason
            with suppress(Exception):  # the reason is that of the beginning
                watcher.end(uid, [])
            raise
        streams: dict[str, Any] = {}
        runs[grid["uuid"]] = (uid, streams)
        for stream in begun:
            name = stream.name.removeprefix(f"{watcher.name}_")
            yield from bps.declare_stream(stream, name=name, collect=True)
            streams[name] = stream

    def progress() -> MsgGenerator[None]:
        yield from bps.create(name="primary")
        yield from bps.read(watcher)
        yield from bps.save()
        yield from bps.checkpoint()  # nothing is repeated in a run that is closed meanwhile

    def close(key: str) -> MsgGenerator[None]:
        uid, streams = runs.pop(key)
        watcher.end(uid, list(streams.values()))
        yield from collect_streams(streams)
        yield from progress()
        yield from bps.close_run()

    def follow() -> MsgGenerator[None]:
        quiet, seen, suggested = 0.0, 0, watcher.suggestion()
        while True:
            yield from bps.checkpoint()
            before = time.monotonic()
            yield from bps.trigger(watcher, wait=True)
            for grid in watcher.grids():
                if not grid["waiting"]:
                    continue
                key = grid["uuid"]
                if key in runs:  # the IOC has ended the run: it missed the session's signs of life
                    yield from bpp.set_run_key_wrapper(close(key), key)
                yield from bpp.set_run_key_wrapper(open_run(grid), key)
            for key, (_, streams) in runs.items():
                yield from bpp.set_run_key_wrapper(collect_streams(streams), key)
            rows = sum(each.rows for _, streams in runs.values() for each in streams.values())
            moved, seen = rows != seen, rows
            quiet = 0.0 if moved else quiet + time.monotonic() - before
            former, suggested = suggested, watcher.suggestion()
            if moved or suggested != former:
                for key in runs:
                    yield from bpp.set_run_key_wrapper(progress(), key)
            if watcher.stop_requested():
                return
            if idle and quiet >= idle and watcher.is_scanned():
                return

    def finish() -> MsgGenerator[None]:
        for key in list(runs):
            yield from bpp.set_run_key_wrapper(close(key), key)

    yield from bpp.stage_wrapper(bpp.finalize_wrapper(follow(), finish), [watcher])
    return uids
