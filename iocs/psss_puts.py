"""Results of the spectrometer to the PVs of an existing IOC, and its ROI and axis from there.

As the old service did it, but no pulse waits for Channel Access: the newest result is put a few
times a second by a thread of its own, and PVs that are not there cost nothing.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from caproto import ChannelType
from caproto.asyncio.client import Context

from skywright.counters import Counters
from skywright.errors import ConfigError
from skywright.psss.processor import Processor
from skywright.psss.results import Result

logger = logging.getLogger(__name__)

PUT_PERIOD_S = 0.1
PUT_LIMIT_S = 2.0
CLOSE_LIMIT_S = 3.0
SEARCH_S = 3.0
"""After this long PVs that are not there are said."""
RESULTS = ("output", "center", "fwhm")
INPUTS = ("ymin", "ymax", "axis")


class Puts:
    """Puts results and follows settings until `close`.

    Parameters
    ----------
    processor
        The owner.
    names
        PVs of output, center, fwhm (put), ymin, ymax, axis (read).

    Attributes
    ----------
    connected
        Which of them are there now.
    counters
        Puts that failed, by PV and cause.
    """

    def __init__(self, processor: Processor, names: Mapping[str, str]) -> None:
        self.processor = processor
        self.names = dict(names)
        self.connected: set[str] = set()
        self.counters = Counters()
        self._edges: dict[str, float] = {}
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="psss-puts", daemon=True)
        self._thread.start()

    def tell(self) -> dict[str, Any]:
        """Return what /health says of the PVs."""
        return {"connected": sorted(self.connected), "not_put": self.counters.as_dict()}

    def close(self) -> None:
        """End."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        except Exception:  # the pulses go on without PVs
            logger.exception("psss: no more PVs are put")
            self.processor.note("pvs", "PVs are not put any more; see the log, and start again")
        finally:
            left = asyncio.all_tasks(self._loop)  # of the client library
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    async def _work(self) -> None:
        async with Context() as context:
            made = await context.get_pvs(
                *self.names.values(), connection_state_callback=self._state, timeout=None
            )
            pvs = dict(zip(self.names, made, strict=True))
            tasks = [asyncio.create_task(self._follow(key, pvs[key])) for key in INPUTS]
            tasks += [asyncio.create_task(self._put_newest(pvs))]
            over = asyncio.create_task(self._over.wait())
            await asyncio.wait([*tasks, over], return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in tasks if task.done()]
            for task in (*tasks, over):
                task.cancel()
            await asyncio.gather(*tasks, over, return_exceptions=True)
            for task in failed:
                task.result()

    def _state(self, pv: Any, state: str) -> None:
        if state == "connected":
            self.connected.add(pv.name)
            logger.info("psss: PV %s is there", pv.name)
        else:
            self.connected.discard(pv.name)
            logger.warning("psss: PV %s is %s", pv.name, state)

    # ---- settings from PVs

    async def _follow(self, key: str, pv: Any) -> None:
        """Take each value of a PV for ever; what was read last holds while the PV is away."""
        await pv.wait_for_connection(timeout=None)
        async for event in pv.subscribe(data_type=ChannelType.DOUBLE):
            await asyncio.to_thread(self._take, key, np.array(event.data))

    def _take(self, key: str, value: Any) -> None:
        try:
            if key == "axis":
                self.processor.change(axis=value if len(value) > 1 else None)
            else:
                self._edges[key] = float(value[0])
                if len(self._edges) == 2:
                    self.processor.change(roi=_roi(self._edges["ymin"], self._edges["ymax"]))
        except (ConfigError, ValueError, TypeError) as error:
            subject = "axis" if key == "axis" else "roi"
            self.processor.note(subject, f"{self.names[key]}: {error}; the last good one stays")

    # ---- results to PVs

    async def _put_newest(self, pvs: Mapping[str, Any]) -> None:
        last: Result | None = None
        begun = self._loop.time()
        while True:
            await asyncio.sleep(PUT_PERIOD_S)
            absent = sorted(set(self.names.values()) - self.connected)
            if not absent or self._loop.time() - begun > SEARCH_S:
                self.processor.note("pvs", f"PVs not there: {', '.join(absent)}" if absent else "")
            newest = self.processor.newest
            if newest is None or newest is last:
                continue
            last = newest
            found = newest.spectrum
            values: dict[str, Any] = {"center": found.center, "fwhm": found.fwhm}
            if len(found.spectrum):
                values["output"] = found.spectrum.astype(np.float64)
            for key, value in values.items():
                await self._put(pvs[key], value)

    async def _put(self, pv: Any, value: Any) -> None:
        if pv.name not in self.connected:
            self.counters.add(f"{pv.name} is not there")
            return
        try:
            await asyncio.wait_for(pv.write(np.atleast_1d(value), wait=False), PUT_LIMIT_S)
        except Exception as error:  # whatever the other IOC does, the next value may get through
            self.counters.add(f"{pv.name} failed")
            logger.debug("psss: %s: %s", pv.name, error)


def _roi(ymin: float, ymax: float) -> tuple[int, int]:
    """Return the ROI that the PVs mean: they may be floating-point records."""
    if not (ymin.is_integer() and ymax.is_integer()):
        raise ConfigError(f"roi: ({ymin}, {ymax}) is not whole rows")
    return int(ymin), int(ymax)
